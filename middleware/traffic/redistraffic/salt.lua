-- Returns the salt of a day, and makes it of what the caller brings if there is none.
--
-- KEYS[1]  the salt
-- ARGV     32 random bytes, the end of the day in seconds since 1970
-- Result   {salt, seconds, microseconds}, the latter of the server's clock
--
-- Why one script: of two nodes that find none, each would take its own.

local now = redis.call('TIME')
local salt = redis.call('GET', KEYS[1])
if not salt then
  salt = ARGV[1]
  local left = tonumber(ARGV[2]) * 1000 - tonumber(now[1]) * 1000 - math.floor(tonumber(now[2]) / 1000)
  if left > 0 then redis.call('SET', KEYS[1], salt, 'PX', string.format('%d', left)) end
end
return { salt, tonumber(now[1]), tonumber(now[2]) }
