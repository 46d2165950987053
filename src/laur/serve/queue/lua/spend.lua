-- ARGV[2] a key's id, ARGV[3] pictures, ARGV[4] pixels (negative: given back), ARGV[5] and ARGV[6] the most of each in a
-- day, 0 for any number. Seconds until the next day where it would be too much, else 0.
local day = math.floor(now / 86400)
local name = key('spent', ARGV[2], day)
local pictures, pixels = unpack(redis.call('HMGET', name, 'pictures', 'pixels'))
pictures = math.max(0, tonumber(pictures or 0) + tonumber(ARGV[3]))
pixels = math.max(0, tonumber(pixels or 0) + tonumber(ARGV[4]))
local most, area = tonumber(ARGV[5]), tonumber(ARGV[6])
if tonumber(ARGV[3]) > 0 and ((most > 0 and pictures > most) or (area > 0 and pixels > area)) then
  return string.format('%.3f', (day + 1) * 86400 - now)
end
redis.call('HSET', name, 'pictures', string.format('%d', pictures), 'pixels', string.format('%d', pixels))
redis.call('EXPIRE', name, 2 * 86400)
return '0'
