-- ARGV[2] id, ARGV[3] token
even_when_full()
local id = ARGV[2]
if not held(id, ARGV[3]) then return 0 end
if fields(id, 'state') == 'running' then redis.call('HINCRBY', job(id), 'attempts', -1) end
give_back(id)
return 1
