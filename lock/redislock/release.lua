-- Ends a lease if its owner holds it, and wakes those who wait for it.
--
-- KEYS[1]  the lease
-- KEYS[2]  the fence
-- ARGV[1]  owner
-- ARGV[2]  for how long at least the fence is to be kept, in milliseconds, so that
--          it knows a late command of this owner
--
-- Returns  1 if the owner held it, 0 if not
-- Publishes an empty message on the channel KEYS[1] .. ":released"
--
-- Atomic because of two interleavings:
--   A: GET finds A; its lease ends
--   B:                             takes the lease
--   A:                                              DEL ends B's lease
-- and, with the message in a command of its own, a holder that dies between the
-- two lets everybody wait.
--
-- The same command can arrive twice, because clients send again what was not
-- answered. The second must say what the first did, or a holder whose answer was
-- lost would be told that it had lost its lease. So the fence keeps the outcome,
-- also that of a release which found nothing: the acquire that it follows may be
-- still on its way (see acquire.lua).
local ended = redis.call('HGET', KEYS[2], 'ended')
if ended and string.sub(ended, 2) == ARGV[1] then
  return string.sub(ended, 1, 1) == '+' and 1 or 0
end

local held = redis.call('GET', KEYS[1]) == ARGV[1]
redis.call('HSET', KEYS[2], 'ended', (held and '+' or '-') .. ARGV[1])
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
if not held then
  return 0
end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', KEYS[1] .. ':released', '')
return 1
