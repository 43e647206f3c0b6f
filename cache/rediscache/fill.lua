-- Ends a fill and stores its outcome, if it is the one begun last and no purge
-- has ended it.
--
-- KEYS[1]  the entry
-- KEYS[2]  the fill
-- ARGV[1]  the token that the fill was begun under
-- ARGV[2]  milliseconds to live; 0 stores nothing and only ends the fill
-- ARGV[3]  the bytes of the entry
-- ARGV[4]  the channel of those who wait; they are told in any case, because a
--          filler that was refused gives up its lease, too
--
-- Returns 1 if the entry was stored, else 0.
--
-- One step, because of
--
--   A looks: its fill stands
--                              the value changes, a purge ends the fill
--   A stores the old value, which nobody purges again
local stored = 0
if redis.pcall('GET', KEYS[2]) == ARGV[1] then
  redis.call('DEL', KEYS[2])
  if ARGV[2] ~= '0' then
    redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[2])
    stored = 1
  end
end
redis.call('PUBLISH', ARGV[4], '')
return stored
