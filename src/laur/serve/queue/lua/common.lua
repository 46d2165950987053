-- What every script begins with. KEYS[1] is the prefix of all keys (in braces: one slot of a cluster),
-- ARGV[1] the options as JSON. The clock is Redis's own, the same for all processes.
--
--   jobs                 stream, one entry per job that is not final; its group's pending entries are the leases
--   job:ID               hash, all that is known of a job
--   wait:POOL:TENANT     sorted set of waiting jobs by priority, then number
--   fair:POOL            sorted set of tenants that wait, by virtual time; times: the same over all pools
--   open:TENANT, tenants sets of its jobs that are not final, and of those who have any
--   age                  sorted set of waiting jobs by submission
--   delayed, deadlines, parked    sorted sets of jobs by time
--   workers              sorted set of workers by when they were last heard of
--   counters, hours, pace    hashes: what happened, good and bad ends by the hour, how fast jobs end
--   events, bell         streams: what happened, and that something waits
local P, opt = KEYS[1], cjson.decode(ARGV[1])
local T = redis.call('TIME')
local now = tonumber(T[1]) + tonumber(T[2]) / 1000000
local stamp = string.format('%.6f', now)
local GROUP = 'workers'

local function key(...) return P .. table.concat({...}, ':') end
local function job(id) return P .. 'job:' .. id end
local function fields(id, ...) return unpack(redis.call('HMGET', job(id), ...)) end
local function count(name) redis.call('HINCRBY', key('counters'), name, 1) end
local function final(state) return state == 'done' or state == 'failed' or state == 'cancelled' end
local JOBS = key('jobs')

-- A Redis above its maxmemory refuses what may grow it, but no script that has written already: those that take, draw
-- and end the jobs that are there begin with a write that takes no room, so that a full queue can empty itself.
local function even_when_full() redis.call('DEL', key('nothing')) end

local function seen(worker) redis.call('ZADD', key('workers'), stamp, worker) end

-- good and bad ends by the hour, see observe/objective.py
local function ended_in_hour(state, failure)
  local bad = state == 'failed' and failure and cjson.decode(failure).status >= 500
  if bad then count('faults') end
  if bad or state == 'done' then
    redis.call('HINCRBY', key('hours'), math.floor(now / 3600) .. (bad and ':bad' or ':good'), 1)
  end
end

local function ready()
  if redis.call('EXISTS', JOBS) == 0 then redis.call('XGROUP', 'CREATE', JOBS, GROUP, '0', 'MKSTREAM') end
end

local function tell(id, kind, body)
  local at = redis.call('XADD', key('events'), 'MAXLEN', '~', opt.events, '*',
    'job', id, 'at', stamp, 'event', kind, 'body', body)
  redis.call('HSET', job(id), 'told', at)
end

local function opened(id, tenant)
  redis.call('SADD', key('open', tenant), id)
  redis.call('SADD', key('tenants'), tenant)
end

local function closed(id, tenant)
  redis.call('SREM', key('open', tenant), id)
  if redis.call('EXISTS', key('open', tenant)) == 0 then redis.call('SREM', key('tenants'), tenant) end
end

local function enqueue(id)
  local pool, tenant, rank, since, attempts = fields(id, 'pool', 'tenant', 'rank', 'since', 'attempts')
  local fair, times = key('fair', pool), key('times')
  if not redis.call('ZSCORE', fair, tenant) then
    local clock = tonumber(redis.call('GET', key('clock')) or 0)
    local start = math.max(clock, tonumber(redis.call('ZSCORE', times, tenant) or 0))
    redis.call('ZADD', fair, start, tenant)
    redis.call('ZADD', times, start, tenant)
  end
  redis.call('ZADD', key('wait', pool, tenant), rank, id)
  redis.call('ZADD', key('age'), since, id)
  redis.call('SADD', key('pools'), pool)
  redis.call('HSET', job(id), 'state', 'queued')
  tell(id, 'queued', cjson.encode({attempts = tonumber(attempts)}))
  redis.call('XADD', key('bell'), 'MAXLEN', '1', '*', 'job', id)
end

local function unwait(id)
  local pool, tenant = fields(id, 'pool', 'tenant')
  local wait, fair = key('wait', pool, tenant), key('fair', pool)
  redis.call('ZREM', key('age'), id)
  if redis.call('ZREM', wait, id) == 1 and redis.call('EXISTS', wait) == 0 then
    redis.call('ZREM', fair, tenant)
    if redis.call('EXISTS', fair) == 0 then redis.call('SREM', key('pools'), pool) end
  end
end

local function hold(id, worker, token)
  unwait(id)
  -- FORCE makes a lease of an entry that was never delivered: who is next is for the sorted sets to say
  redis.call('XCLAIM', JOBS, GROUP, worker, 0, fields(id, 'entry'), 'FORCE', 'JUSTID')
  redis.call('HSET', job(id), 'lease', token, 'worker', worker)
end

local function unhold(id)
  local entry, lease = fields(id, 'entry', 'lease')
  redis.call('XACK', JOBS, GROUP, entry)
  if lease then redis.call('HSET', job(id), 'former', lease) end
  redis.call('HDEL', job(id), 'lease')
  return entry
end

local function close(id, state, result, failure)
  unwait(id)
  redis.call('XDEL', JOBS, unhold(id))
  closed(id, fields(id, 'tenant'))
  redis.call('ZREM', key('deadlines'), id)
  redis.call('ZREM', key('delayed'), id)
  redis.call('HDEL', job(id), 'result', 'failure')
  redis.call('HSET', job(id), 'state', state, 'finished', stamp)
  if result then redis.call('HSET', job(id), 'result', result) end
  if failure then redis.call('HSET', job(id), 'failure', failure) end
  redis.call('PEXPIRE', job(id), math.ceil(opt.keep * 1000))
  count(state)
  ended_in_hour(state, failure)
  local interval, before = unpack(redis.call('HMGET', key('pace'), 'interval', 'ended'))
  interval = tonumber(interval or 0)
  interval = interval + 0.1 * (math.min(60, now - tonumber(before or stamp)) - interval)
  redis.call('HSET', key('pace'), 'interval', string.format('%.6f', interval), 'ended', stamp)
  tell(id, 'ended', '{"state":"' .. state .. '","result":' .. (result or 'null') ..
    ',"failure":' .. (failure or 'null') .. '}')
end

local function park(id)
  local attempts, failure = fields(id, 'attempts', 'failure')
  local why = failure and cjson.decode(failure).message or 'each time its worker stopped without an answer'
  count('parked')
  redis.call('ZADD', key('parked'), stamp, id)
  close(id, 'failed', nil, cjson.encode({kind = 'poison', status = 500, retry = false,
    message = 'given up after ' .. attempts .. ' attempts: ' .. why}))
end

local function overdue(id)
  local state, deadline = fields(id, 'state', 'deadline')
  if not state or final(state) or not deadline or now <= tonumber(deadline) then return false end
  count('deadlines')
  close(id, 'failed', nil, cjson.encode({kind = 'deadline', status = 504, retry = false,
    message = 'the deadline passed before the picture was finished'}))
  return true
end

local function held(id, token)
  if overdue(id) then return false end
  return fields(id, 'lease') == token
end

local function give_back(id)
  unhold(id)
  redis.call('HSET', job(id), 'step', 0)
  enqueue(id)
end

local function wake_delayed()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('delayed'), '-inf', stamp, 'LIMIT', 0, 100)) do
    redis.call('ZREM', key('delayed'), id)
    enqueue(id)
  end
end
