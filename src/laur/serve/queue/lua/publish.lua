-- ARGV from 2: id, token, kind, body, step, steps, again and again. Returns the positions of leases that are lost.
local lost = {}
for i = 2, #ARGV, 6 do
  local id = ARGV[i]
  if held(id, ARGV[i + 1]) then
    if ARGV[i + 2] == 'progress' then redis.call('HSET', job(id), 'step', ARGV[i + 4], 'steps', ARGV[i + 5]) end
    tell(id, ARGV[i + 2], ARGV[i + 3])
  else
    table.insert(lost, (i - 2) / 6)
  end
end
return lost
