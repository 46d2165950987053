-- ARGV[2]: the worker's card as JSON, with `nonce` and `count`. Who is next: see laur/serve/queue/fair.py.
-- With `peek` nothing is taken, and the answer is the first jobs of those who are next.
even_when_full()
local card = cjson.decode(ARGV[2])
seen(card.name)
local memory = key('claim', card.name)
local before = redis.call('GET', memory)
if before and not card.peek then
  before = cjson.decode(before)
  if before.nonce == card.nonce then return before.leases end
end
ready()
wake_delayed()

local function set(list)
  local found = {}
  for _, item in ipairs(list) do found[item] = true end
  return found
end
local serves = card.serves ~= cjson.null and set(card.serves) or nil
local holds, resident = set(card.holds), set(card.adapters)
local without = set(card.without)
local choosy = #card.holds > 0 or #card.adapters > 0

local function fitness(pool, adapters)
  local fits = holds[string.match(pool, '^(.*)%.')] and 2 or 0
  local all = adapters ~= ''
  for name in string.gmatch(adapters, '%S+') do all = all and resident[name] end
  return all and fits + 1 or fits
end

local function candidates()
  local found = {}
  for _, pool in ipairs(redis.call('SMEMBERS', key('pools'))) do
    local checkpoint, size = string.match(pool, '^(.*)%.(%d)$')
    if tonumber(size) <= card.size_class and (not serves or serves[checkpoint]) then
      local last = opt.look_tenants + #card.without - 1
      local tenants, looked = redis.call('ZRANGE', key('fair', pool), 0, last, 'WITHSCORES'), 0
      for i = 1, #tenants, 2 do
        if not without[tenants[i]] and looked < opt.look_tenants then
          looked = looked + 1
          local ids = redis.call('ZRANGE', key('wait', pool, tenants[i]), 0, opt.look_jobs - 1)
          local number = tonumber((fields(ids[1], 'number')))
          table.insert(found, {pool = pool, tenant = tenants[i], time = tonumber(tenants[i + 1]), ids = ids,
            number = number})
        end
      end
    end
  end
  table.sort(found, function(a, b) return a.time < b.time or (a.time == b.time and a.number < b.number) end)
  return found
end

if card.peek then
  local found = {}
  for _, candidate in ipairs(candidates()) do
    for _, id in ipairs(candidate.ids) do
      if #found < card.count then table.insert(found, (fields(id, 'payload'))) end
    end
  end
  return found
end

local function choose(found)
  local first = found[1]
  local fair = first.ids[1]
  local passed, adapters = fields(fair, 'passed', 'adapters')
  if not choosy or (passed and now - tonumber(passed) >= opt.patience) then return fair, first end
  local best, from, fits = fair, first, fitness(first.pool, adapters)
  for _, candidate in ipairs(found) do
    if candidate.time > first.time + opt.slack then break end
    local priority = fields(candidate.ids[1], 'priority')
    for _, id in ipairs(candidate.ids) do
      local own, wants = fields(id, 'priority', 'adapters')
      if own ~= priority then break end
      local fit = fitness(candidate.pool, wants)
      if fit > fits then best, from, fits = id, candidate, fit end
    end
  end
  if best ~= fair and not passed then redis.call('HSET', job(fair), 'passed', stamp) end
  return best, from
end

local function charge(tenant, start, work)
  local clock = math.max(tonumber(redis.call('GET', key('clock')) or 0), start)
  local after = start + work / (opt.weights[tenant] or 1)
  redis.call('SET', key('clock'), string.format('%.9f', clock))
  redis.call('ZADD', key('times'), string.format('%.9f', after), tenant)
  for _, pool in ipairs(redis.call('SMEMBERS', key('pools'))) do
    redis.call('ZADD', key('fair', pool), 'XX', string.format('%.9f', after), tenant)
  end
  redis.call('ZREMRANGEBYSCORE', key('times'), '-inf', '(' .. string.format('%.9f', clock))
end

local leases = {}
while #leases < card.count do
  local found = candidates()
  if #found == 0 then break end
  local id, from = choose(found)
  charge(from.tenant, from.time, tonumber((fields(id, 'work'))))
  if not overdue(id) then
    local token = card.name .. '/' .. redis.call('INCR', key('tokens'))
    hold(id, card.name, token)
    local payload, attempts = fields(id, 'payload', 'attempts')
    table.insert(leases, {payload, token, attempts})
  end
end
if #leases > 0 then
  redis.call('SET', memory, cjson.encode({nonce = card.nonce, leases = leases}), 'EX', 120)
end
return leases
