-- Lets a lease end a TTL from now, if its owner still holds it, and raises the
-- fence to its token.
--
-- KEYS[1]  the lease
-- KEYS[2]  the fence
-- KEYS[3]  the shared leases
-- ARGV[1]  owner
-- ARGV[2]  the kind of the lease, as for acquire.lua
-- ARGV[3]  TTL of the lease in milliseconds
-- ARGV[4]  TTL of the fence in milliseconds
-- ARGV[5]  the token of the lease, if it may be larger than what this server has
--          given out, as in a quorum; 0 if not
--
-- Returns  1 if the owner holds it, 0 if not
--
-- Atomic because of this interleaving:
--   A: GET finds A; its lease ends
--   B:                             takes the lease
--   A:                                              PEXPIRE prolongs B's lease
-- It never sets the key: a lease that has ended may have had another holder
-- since, and A must hear of it.
local lease, fence, shared = KEYS[1], KEYS[2], KEYS[3]
if string.sub(ARGV[2], 1, 1) == 'x' then
  if redis.call('GET', lease) ~= ARGV[1] then
    return 0
  end
  redis.call('PEXPIRE', lease, ARGV[3])
else
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  if tonumber(redis.call('ZSCORE', shared, ARGV[1]) or 0) <= now then
    return 0
  end
  -- PEXPIRE first: a Redis that is full refuses a script whose first write needs
  -- memory, and no lease should be lost for that.
  local latest = redis.call('ZRANGE', shared, -1, -1, 'WITHSCORES')
  redis.call('PEXPIRE', shared, math.max(latest[2] - now, tonumber(ARGV[3])))
  redis.call('ZADD', shared, now + tonumber(ARGV[3]), ARGV[1])
end
if ARGV[5] ~= '0' then
  if tonumber(redis.call('GET', fence) or 0) < tonumber(ARGV[5]) then
    redis.call('SET', fence, ARGV[5], 'PX', ARGV[4])
  end
end
redis.call('PEXPIRE', fence, ARGV[4]) -- the fence outlives a lease of days
return 1
