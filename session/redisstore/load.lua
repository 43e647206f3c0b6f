-- Loads a session for a digest that may be a superseded one.
--
-- KEYS[1]  the session
-- ARGV[1]  the digest that the client presented
-- ARGV[2]  1 if it was accepted before: what would be reused is missing then, and left
--          to be said; 0 if not
-- Result   {state, the session, now}, with the state 0 missing, 1 current,
--          2 superseded, 3 reused; for 0 and 3 the session is empty
--
-- Why one script: whether a grace is over is for the server's clock to say, and
-- about the same instant as the values:
--   this client reads the session, in which its digest is superseded; a second
--   rotation supersedes another digest and begins a new grace; this client
--   reads the clock, finds the grace open, and accepts what is refused by now.
-- And that a digest is reused is said once, to one of many who present it.

local piece, at, ends, begins = get(KEYS[1])
local MISSING = {0, '', 0}
if not piece then return MISSING end
local d, n, e, l, c, r, t, i, a, s, x, g, v, p, q, h, o, m, b, count, names = read(piece, at, ends, begins)
if not d then return MISSING end
local left, now = present(KEYS[1], e, l)
if left < 0 or now < x then return MISSING end

-- forgotten stores what is left to be said of earlier digests. After PEXPIREAT, which
-- changes nothing, it is not refused when Redis is out of memory.
local function forgotten(p, q, h, g)
  if ARGV[2] == '1' then return MISSING end
  redis.call('PEXPIREAT', KEYS[1], e)
  redis.call('SETRANGE', KEYS[1], v, ended(
    made(d, n, e, l, c, r, t, i, a, s, x, g, v, p, q, h, o, m, b, count, string.sub(piece, names, ends)), #piece - 7 - at))
  return {3, '', now}
end

local state
if d == ARGV[1] then
  state = 1
elseif p ~= ARGV[1] then
  for k = 1, #q, 8 do
    if string.sub(q, k, k + 7) == string.sub(ARGV[1], 1, 8) then
      return forgotten(p, string.sub(q, 1, k - 1) .. string.sub(q, k + 8), h, g)
    end
  end
  return MISSING
elseif now < g then
  state = 2
else
  return forgotten('', q, '', 0)
end
return {state, redis.call('GET', KEYS[1]), now}
