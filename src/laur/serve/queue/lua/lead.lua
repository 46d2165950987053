-- ARGV[2] file, ARGV[3] who, ARGV[4] milliseconds, 0 to leave. Who draws a file that several jobs want: see cache.py
even_when_full()
local name, owner, milliseconds = key('lead', ARGV[2]), ARGV[3], tonumber(ARGV[4])
local leader = redis.call('GET', name)
if leader and leader ~= owner then return 0 end
if milliseconds > 0 then redis.call('SET', name, owner, 'PX', milliseconds) else redis.call('DEL', name) end
return 1
