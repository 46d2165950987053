-- ARGV[2] a key's id, ARGV[3] requests a second, ARGV[4] burst. Seconds until a request may come, 0 where it may now.
even_when_full()
local name, rate, burst = key('bucket', ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local tokens, at = unpack(redis.call('HMGET', name, 'tokens', 'at'))
tokens = math.min(burst, tonumber(tokens or burst) + (now - tonumber(at or stamp)) * rate)
local wait = 0
if tokens >= 1 then tokens = tokens - 1 else wait = (1 - tokens) / rate end
redis.call('HSET', name, 'tokens', string.format('%.6f', tokens), 'at', stamp)
redis.call('PEXPIRE', name, math.ceil(1000 * burst / rate) + 1000)
return string.format('%.6f', wait)
