-- ARGV[2] id
local id = ARGV[2]
if redis.call('ZREM', key('parked'), id) == 0 or redis.call('EXISTS', job(id)) == 0 then return 0 end
ready()
redis.call('PERSIST', job(id))
redis.call('HDEL', job(id), 'failure', 'finished', 'former', 'passed')
redis.call('HSET', job(id), 'attempts', 0, 'step', 0, 'entry', redis.call('XADD', JOBS, '*', 'id', id))
local deadline = fields(id, 'deadline')
if deadline and tonumber(deadline) > now then
  redis.call('ZADD', key('deadlines'), deadline, id)
else
  redis.call('HDEL', job(id), 'deadline') -- the one that has passed is of no use to whoever revives it
end
opened(id, (fields(id, 'tenant')))
enqueue(id)
return 1
