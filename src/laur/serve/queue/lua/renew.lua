-- ARGV from 2: id, token, worker, again and again. Returns the positions of leases that are lost.
even_when_full()
local lost = {}
for i = 2, #ARGV, 3 do
  local id, token, worker = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  seen(worker)
  if held(id, token) then
    redis.call('XCLAIM', JOBS, GROUP, worker, 0, fields(id, 'entry'), 'FORCE', 'JUSTID')
  else
    -- a lease that ran out while Redis was away, if nobody has taken the job since: better than to begin anew
    local state, lease, former = fields(id, 'state', 'lease', 'former')
    if state == 'queued' and not lease and former == token and not redis.call('ZSCORE', key('delayed'), id) then
      hold(id, worker, token)
      redis.call('HSET', job(id), 'state', 'running')
    else
      table.insert(lost, (i - 2) / 3)
    end
  end
end
return lost
