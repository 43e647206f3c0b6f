-- Stands before acquire.lua, extend.lua, release.lua and relay.lua.
--
-- KEYS[1] is the lease, a string, packed as in pack below:
--   byte    1 if nobody shares and nobody waits; 2 if others may
--   double  the last token given out
--   double  when the exclusive lease ends, in ms of the server's clock; or, below 0,
--           when it was released; or 0 if there was none yet
--   double  when this key ends, in ms of that clock: fencing or more after the lease,
--           for the token's sake; not every acquire has to set that anew
--   char    the last character of the owner who had it last
--   byte    the length of what follows
--   string  who has released, of the family of that owner: see below
--   int     the length of what follows
--   string  the family
-- The other keys are KEYS[1] and one of these:
--   ":shared"          the shared leases: a sorted set, owner -> end in ms of the
--                      server's clock
--   ":queue"           a sorted set, member -> when it came, in us of that clock. A
--                      member is the kind of lease that it waits for, ":" and the owner
--   ":places"          the same members -> until when the place is kept, in ms
--   ":ended:" family   who has released, of a family that is not in KEYS[1]
-- They do not stand in KEYS, as hardly any call comes to them, but for ":shared" in the
-- steps of shared leases: see keys.of. Their slot is that of KEYS[1].
--
-- Owners that differ in their last character only are a family. An owner whose last
-- character is neither a letter nor a digit is a family by itself, in which it is "*".
-- The commands of those who have released may come late, or twice: for lateness after
-- that it is known of each what its release came to, as a pair of characters: "+" if it
-- held a lease, "-" if not, and its last one. A key for each would cost more than all
-- else that a release does.
local found, pack = redis.call('GET', KEYS[1]), '<BdddcBc0I4c0'
if found then
  local kind, ended = string.byte(found), string.byte(found, 27) or 0
  if kind ~= 1 and kind ~= 2 or #found < 31 + ended or struct.unpack('<I4', found, 28 + ended) ~= #found - 31 - ended then
    return redis.error_reply('ERR the key of the lease has something else in it: somebody else writes under this prefix')
  end
end
