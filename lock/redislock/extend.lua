-- Lets a lease end a TTL from now, if its owner still holds it, and raises its token.
--
-- KEYS[1]  the lease, see head.lua
-- ARGV[1] to ARGV[4]  as for acquire.lua
-- ARGV[5]  the token of the lease, if it may be larger than what this server has
--          given out, as in a quorum; 0 if not
--
-- Returns  1 if the owner holds it, 0 if not
--
-- Atomic because of this interleaving:
--   A: GET finds A; its lease ends
--   B:                             takes the lease
--   A:                                              SET prolongs B's lease
-- It never gives the lease to anybody: one that has ended may have had another
-- holder since, and A must hear of it.
local owner = join(ARGV[1], ARGV[2])
local _, now = clock()
local exclusive = string.sub(ARGV[3], 1, 1) == 'x'
if exclusive and holder() ~= owner or not exclusive and tonumber(redis.call('ZSCORE', shared, owner) or 0) <= now then
  return 0
end
-- PEXPIRE first: a Redis that is full refuses a script whose first write needs
-- memory, and no lease should be lost for that.
local ends, before = now + ARGV[4], state.kept
state.kept = keep(ends) -- the token outlives a lease of days
redis.call('PEXPIRE', lease, state.kept - now)
if exclusive then
  state.ends, state.token = ends, math.max(state.token, tonumber(ARGV[5]))
  write()
else
  local latest = redis.call('ZRANGE', shared, -1, -1, 'WITHSCORES')
  redis.call('PEXPIRE', shared, math.max(latest[2] - now, tonumber(ARGV[4])))
  redis.call('ZADD', shared, ends, owner)
  if found and state.kept ~= before then
    write()
  end
end
return 1
