-- ARGV[2] id
even_when_full()
local state = fields(ARGV[2], 'state')
if not state then return 0 end
if not final(state) then close(ARGV[2], 'cancelled', nil, nil) end
return 1
