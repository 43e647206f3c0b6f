-- Withdraws a session for a time and returns what is in it.
--
-- KEYS[1]  the session, a hash (see commit.lua)
-- ARGV[1]  the digest that the request was authenticated with
-- ARGV[2]  for how long, in ms; 0 gives it back
-- ARGV[3]  by whom
-- Result   as of load.lua
--
-- Why one script: what is written to the session after it was read, and before
-- it is withdrawn, would be lost with it. By whom it was withdrawn is noted, or a
-- command that arrives twice would find the session gone, and it would be lost.

local flat = redis.pcall('HGETALL', KEYS[1])
if flat.err then
  if not string.find(flat.err, 'WRONGTYPE', 1, true) then return flat end
  return {0, 0, {}, 0}
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local hold = tonumber(ARGV[2])
local d, p, g, x, b
for i = 1, #flat, 2 do
  local field, value = flat[i], flat[i + 1]
  if field == 'd' then d = value
  elseif field == 'p' then p = value
  elseif field == 'g' then g = string.match(value, '^%d+$') and tonumber(value)
  elseif field == 'b' then b = value
  elseif field == 'x' then x = string.match(value, '^%d+$') and tonumber(value) end
end
if x and now < x and b ~= ARGV[3] then return {0, 0, {}, now} end
local state
if d == ARGV[1] then
  state = 1
elseif p == ARGV[1] and g and now < g then
  state = 2
else
  return {0, 0, {}, now}
end
local left = redis.call('PTTL', KEYS[1])
if left < 0 then return {0, 0, {}, now} end
if hold > 0 then
  redis.call('HSET', KEYS[1], 'x', string.format('%.0f', now + hold), 'b', ARGV[3])
else
  redis.call('HDEL', KEYS[1], 'x', 'b')
end
return {state, left, flat, now}
