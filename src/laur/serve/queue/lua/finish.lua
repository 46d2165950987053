-- ARGV[2] id, ARGV[3] token, ARGV[4] the result as JSON. Counts whoever holds the lease: one result, the first.
even_when_full()
local id, token = ARGV[2], ARGV[3]
local state, former = fields(id, 'state', 'former')
if not state then return 0 end
if final(state) then return (state == 'done' and former == token) and 1 or 0 end
if overdue(id) then return 0 end
redis.call('HSET', job(id), 'lease', token)
close(id, 'done', ARGV[4], nil)
return 1
