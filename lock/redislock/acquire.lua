-- Takes a lease if nobody holds it, and gives out its fencing token.
--
-- KEYS[1]  the lease: a string, its holder's owner
-- KEYS[2]  the fence: a hash, "token" the last token given out, "ended" the
--          owner whose release came last, after "+" if it held the lease then
--          and "-" if it did not
-- ARGV[1]  owner
-- ARGV[2]  TTL of the lease in milliseconds
-- ARGV[3]  TTL of the fence in milliseconds, longer than that of the lease
--
-- Returns  {1, token}         the lease is the owner's
--          {0, milliseconds}  somebody else holds it for so long at most
--          {-1, 0}            the owner has released already
--
-- Atomic because the token must be given out in the order of the leases. With
-- the token in a command of its own:
--   A: takes the lease                   ... its lease ends ...
--   B:                 takes the lease, gets token 7
--   A:                                                   gets token 8
-- and A, whose lease is over, would overrule B.
--
-- The same command can arrive twice, because clients send again what was not
-- answered, and it can arrive late, after its sender gave up and released:
--   A: acquire (answer lost), acquire again  -> finds itself: the same token
--   A: acquire (stuck), release, acquire arrives -> must not take the lease,
--      which nobody would release
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  local left = redis.call('PTTL', KEYS[1])
  if left < 0 then
    return redis.error_reply('ERR the key of the lease has no TTL, so no lease is in it: somebody else writes under this prefix')
  end
  return {0, left}
end

local fence = redis.call('HMGET', KEYS[2], 'token', 'ended')
local ended = fence[2]
if not holder and ended and string.sub(ended, 2) == ARGV[1] then
  return {-1, 0}
end

local token = tonumber(fence[1] or 0)
if not holder or token == 0 then
  -- The clock makes tokens grow across the loss of the fence: its expiry,
  -- FLUSHALL, a restart without persistence. The last token makes them grow
  -- when the clock is set back. Microseconds fit a double until 2255.
  local now = redis.call('TIME')
  token = math.max(token + 1, tonumber(now[1]) * 1000000 + tonumber(now[2]))
  redis.call('HSET', KEYS[2], 'token', string.format('%.0f', token))
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return {1, token}
