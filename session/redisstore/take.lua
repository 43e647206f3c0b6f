-- Withdraws a session for a time and returns what is in it.
--
-- KEYS[1]  the session
-- ARGV[1]  the digest that the request was authenticated with
-- ARGV[2]  for how long, in ms; 0 gives it back
-- ARGV[3]  by whom
-- Result   as of load.lua
--
-- Why one script: what is written to the session after it was read, and before
-- it is withdrawn, would be lost with it. By whom it was withdrawn is noted, or a
-- command that arrives twice would find the session gone, and it would be lost.

local piece, at, ends, begins = get(KEYS[1])
local MISSING = {0, '', 0}
if not piece then return MISSING end
local d, n, e, l, c, r, t, i, a, s, x, g, v, p, q, h, o, m, b, count, names = read(piece, at, ends, begins)
if not d then return MISSING end
local left, now = present(KEYS[1], e, l)
if left < 0 or now < x and b ~= ARGV[3] then return MISSING end
local state
if d == ARGV[1] then
  state = 1
elseif p == ARGV[1] and now < g then
  state = 2
else
  return MISSING
end
local was = redis.call('GET', KEYS[1])
local hold = tonumber(ARGV[2])
x, b = 0, ''
if hold > 0 then
  x, b = now + hold, ARGV[3]
else
  redis.call('PEXPIREAT', KEYS[1], e) -- changes nothing: what follows is not refused when Redis is out of memory
end
redis.call('SETRANGE', KEYS[1], v, ended(
  made(d, n, e, l, c, r, t, i, a, s, x, g, v, p, q, h, o, m, b, count, string.sub(piece, names, ends)), #piece - 7 - at))
return {state, was, now}
