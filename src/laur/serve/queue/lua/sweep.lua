for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('deadlines'), '-inf', stamp, 'LIMIT', 0, 100)) do
  if not overdue(id) then redis.call('ZREM', key('deadlines'), id) end
end
wake_delayed()
redis.call('ZREMRANGEBYSCORE', key('parked'), '-inf', string.format('%.6f', now - opt.keep))
redis.call('ZREMRANGEBYSCORE', key('workers'), '-inf', string.format('%.6f', now - 86400))
for _, name in ipairs(redis.call('HKEYS', key('hours'))) do
  if tonumber(string.match(name, '^%d+')) * 3600 < now - opt.window - 86400 then
    redis.call('HDEL', key('hours'), name)
  end
end
if redis.call('EXISTS', JOBS) == 0 then return 0 end
local found = redis.call('XAUTOCLAIM', JOBS, GROUP, 'sweeper', math.ceil(opt.lease * 1000), '0-0', 'COUNT', 100)[2]
for _, entry in ipairs(found) do
  local id = entry[2][2]
  local state, attempts, lease = fields(id, 'state', 'attempts', 'lease')
  if not state or final(state) or not lease then
    redis.call('XACK', JOBS, GROUP, entry[1])
    if not state or final(state) then
      redis.call('XDEL', JOBS, entry[1])
      for _, tenant in ipairs(redis.call('SMEMBERS', key('tenants'))) do closed(id, tenant) end
    end
  else
    count('leases_lost')
    if tonumber(attempts) >= opt.max_attempts then park(id) else give_back(id) end
  end
end
return #found
