-- ARGV[2]: the job as JSON: id, payload, pool, tenant, priority, work, adapters, deadline
-- ARGV[3]: if given, its result, which was there before: the job is done at once and takes no room
local new = cjson.decode(ARGV[2])
if redis.call('EXISTS', job(new.id)) == 1 then return {'known', 0} end
ready()
-- as QueueOptions.is_full has it
local jobs, own = redis.call('XLEN', JOBS), redis.call('SCARD', key('open', new.tenant))
local waiting = redis.call('ZCARD', key('wait', new.pool, new.tenant))
local tenants = redis.call('SCARD', key('tenants')) + (own == 0 and 1 or 0)
local share = 2 * jobs >= opt.limit and math.floor(opt.limit / tenants) or opt.limit
local full = jobs >= (waiting < opt.reserved and opt.hard_limit or opt.limit)
full = full or waiting >= opt.per_tenant or own >= math.max(opt.reserved, share)
if not ARGV[3] and full then
  count('refused')
  return {'busy', redis.call('HGET', key('pace'), 'interval') or '0'}
end
local number = redis.call('INCR', key('number'))
redis.call('HSET', job(new.id), 'payload', new.payload, 'pool', new.pool, 'tenant', new.tenant,
  'rank', string.format('%.0f', new.priority * 2 ^ 44 + number), 'priority', new.priority, 'number', number,
  'work', new.work, 'adapters', new.adapters, 'since', stamp, 'attempts', 0,
  'entry', redis.call('XADD', JOBS, '*', 'id', new.id))
if ARGV[3] then
  count('submitted')
  close(new.id, 'done', ARGV[3], nil)
  return {'new', 0}
end
if new.deadline ~= cjson.null then
  local deadline = string.format('%.6f', new.deadline)
  redis.call('HSET', job(new.id), 'deadline', deadline)
  redis.call('ZADD', key('deadlines'), deadline, new.id)
end
count('submitted')
opened(new.id, new.tenant)
enqueue(new.id)
return {'new', 0}
