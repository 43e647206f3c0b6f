-- Loads a session for a digest that may be a superseded one.
--
-- KEYS[1]  the session, a hash (see commit.lua)
-- ARGV[1]  the digest that the client presented
-- Result   {state, PTTL, the hash as a flat list, now}, with the state 0 missing,
--          1 current, 2 superseded, 3 reused; for 0 and 3 the hash is empty
--
-- Why one script: whether a grace is over is for the server's clock to say, and
-- about the same instant as the values:
--   this client reads the hash, in which its digest is superseded; a second
--   rotation supersedes another digest and begins a new grace; this client
--   reads the clock, finds the grace open, and accepts what is refused by now.
-- And that a digest is reused is said once, to one of many who present it.

local flat = redis.pcall('HGETALL', KEYS[1])
if flat.err then
  if not string.find(flat.err, 'WRONGTYPE', 1, true) then return flat end
  return {0, 0, {}, 0}
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local d, p, g, x, q
for i = 1, #flat, 2 do
  local field, value = flat[i], flat[i + 1]
  if field == 'd' then d = value
  elseif field == 'p' then p = value
  elseif field == 'q' then q = value
  elseif field == 'g' then g = string.match(value, '^%d+$') and tonumber(value)
  elseif field == 'x' then x = string.match(value, '^%d+$') and tonumber(value) end
end
local state
if x and now < x then
  return {0, 0, {}, now}
elseif d == ARGV[1] then
  state = 1
elseif p ~= ARGV[1] or not g then
  for at = 1, q and #q or 0, 8 do
    if string.sub(q, at, at + 7) == string.sub(ARGV[1], 1, 8) then
      redis.call('HSET', KEYS[1], 'q', string.sub(q, 1, at - 1) .. string.sub(q, at + 8))
      return {3, 0, {}, now}
    end
  end
  return {0, 0, {}, now}
elseif now < g then
  state = 2
else
  redis.call('HDEL', KEYS[1], 'p', 'g', 'h')
  return {3, 0, {}, now}
end
return {state, redis.call('PTTL', KEYS[1]), flat, now}
