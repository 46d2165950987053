-- ARGV[2] id, ARGV[3] token, ARGV[4] worker
even_when_full()
local id, token, worker = ARGV[2], ARGV[3], ARGV[4]
if not held(id, token) then return 0 end
if fields(id, 'state') ~= 'running' then
  local attempts = redis.call('HINCRBY', job(id), 'attempts', 1)
  redis.call('HSET', job(id), 'state', 'running', 'started', stamp, 'step', 0)
  tell(id, 'started', cjson.encode({attempts = attempts, worker = worker}))
end
return 1
