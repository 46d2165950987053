-- ARGV[2] id, ARGV[3] token, ARGV[4] the failure as JSON
even_when_full()
local id, failure = ARGV[2], ARGV[4]
if not held(id, ARGV[3]) then return 0 end
local attempts = tonumber((fields(id, 'attempts')))
if not cjson.decode(failure).retry then
  close(id, 'failed', nil, failure)
  return 1
end
redis.call('HSET', job(id), 'failure', failure)
if attempts >= opt.max_attempts then
  park(id)
else
  count('retries')
  unhold(id)
  redis.call('HSET', job(id), 'state', 'queued', 'step', 0)
  local due = now + opt.retry_delay * 2 ^ math.max(0, attempts - 1)
  redis.call('ZADD', key('delayed'), string.format('%.6f', due), id)
end
return 1
