-- Lets a lease end a TTL from now, if its owner still holds it.
--
-- KEYS[1]  the lease
-- KEYS[2]  the fence
-- ARGV[1]  owner
-- ARGV[2]  TTL of the lease in milliseconds
-- ARGV[3]  TTL of the fence in milliseconds
--
-- Returns  1 if the owner holds it, 0 if not
--
-- Atomic because of this interleaving:
--   A: GET finds A; its lease ends
--   B:                             takes the lease
--   A:                                              PEXPIRE prolongs B's lease
-- It never sets the key: a lease that has ended may have had another holder
-- since, and A must hear of it.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3]) -- the fence outlives a lease of days
return 1
