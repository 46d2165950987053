local pending = redis.call('EXISTS', JOBS) == 1 and redis.call('XPENDING', JOBS, GROUP)[1] or 0
local oldest = redis.call('ZRANGE', key('age'), 0, 0, 'WITHSCORES')[2]
local pools = {}
for _, pool in ipairs(redis.call('SMEMBERS', key('pools'))) do
  local waiting = 0
  for _, tenant in ipairs(redis.call('ZRANGE', key('fair', pool), 0, -1)) do
    waiting = waiting + redis.call('ZCARD', key('wait', pool, tenant))
  end
  table.insert(pools, pool)
  table.insert(pools, waiting)
end
local good, bad = 0, 0
local hours = redis.call('HGETALL', key('hours'))
for i = 1, #hours, 2 do
  local hour, kind = string.match(hours[i], '^(%d+):(%a+)$')
  if (tonumber(hour) + 1) * 3600 > now - opt.window then
    if kind == 'good' then good = good + hours[i + 1] else bad = bad + hours[i + 1] end
  end
end
local since = string.format('%.6f', now - 2 * opt.lease)
return {redis.call('XLEN', JOBS) - pending, pending, oldest and string.format('%.6f', now - tonumber(oldest)) or '0',
  redis.call('ZCARD', key('parked')), pools, redis.call('HGETALL', key('counters')),
  good, bad, redis.call('ZCOUNT', key('workers'), since, '+inf')}
