-- Ends a fill and stores its outcome, if it is the one begun last and neither a
-- purge nor a write has ended it.
--
-- KEYS[1]  the entry
-- KEYS[2]  the fill
-- KEYS[3]  the writes under way: see writes.lua
-- ARGV[1]  the token that the fill was begun under
-- ARGV[2]  milliseconds to live; 0 stores nothing and only ends the fill
-- ARGV[3]  the bytes of the entry
-- ARGV[4]  the channel of those who wait; they are told in any case, because a
--          filler that was refused gives up its lease, too
-- ARGV[5]  milliseconds that the entry may live if a write is under way
--
-- Returns 1 if the entry was stored, 2 if it was because of a write only for
-- ARGV[5], else 0.
--
-- One step, because of
--
--   A looks: its fill stands
--                              the value changes, a purge ends the fill
--   A stores the old value, which nobody purges again
--
-- A client that repeats the command finds its own entry there, and must not take
-- that for a refusal: the chunks of the entry would be given up.
local entry, token, px, bytes, stored = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3], 0
local found = header(entry)

if redis.pcall('GET', KEYS[2]) == token then
  redis.call('DEL', KEYS[2])
  if px > 0 and keep(entry, bytes, '', px + GRACE) then
    keep(entry, found, bytes, GRACE)
    stored = 1
    local _, _, writes, now = writesOf(KEYS[3])
    if writes > 0 and px > tonumber(ARGV[5]) then
      -- What is written now the filler may not have seen, and the writer may die.
      px, stored = tonumber(ARGV[5]), 2
    end
    store(entry, bytes, now, px)
    if stored == 2 then
      redis.call('SETRANGE', entry, 4, 'l')
    end
  end
elseif same(found, bytes) then
  stored = string.sub(found, 5, 5) == 'f' and 1 or 2
end

if stored == 0 then
  keep(entry, bytes, found, GRACE)
end
redis.call('PUBLISH', ARGV[4], '')
return stored
