-- ARGV[2] id
local id = ARGV[2]
if redis.call('ZREM', key('parked'), id) == 0 or redis.call('EXISTS', job(id)) == 0 then return 0 end
ready()
redis.call('PERSIST', job(id))
redis.call('HDEL', job(id), 'failure', 'finished', 'former', 'passed')
redis.call('HSET', job(id), 'attempts', 0, 'step', 0, 'entry', redis.call('XADD', JOBS, '*', 'id', id))
local deadline = fields(id, 'deadline')
if deadline then redis.call('ZADD', key('deadlines'), deadline, id) end
enqueue(id)
return 1
