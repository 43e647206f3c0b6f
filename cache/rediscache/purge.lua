-- Removes an entry, or makes it stale, and ends the fill and spoils the writes
-- that have begun.
--
-- KEYS[1]  the entry
-- KEYS[2]  the fill
-- KEYS[3]  the writes under way: see writes.lua
-- ARGV[1]  "1" to make it stale only
-- ARGV[2]  the channel of those who wait
--
-- Returns 1.
--
-- One step, because a fill between removing the entry and ending the fill would
-- bring back what was to go.
local entry = KEYS[1]
redis.call('DEL', KEYS[2])
local v = redis.pcall('HGET', KEYS[3], 'v')
if type(v) == 'string' then
  redis.call('HSET', KEYS[3], 'v', string.format('%.0f', (tonumber(v) or 0) + 1))
end

local found = header(entry)
if ARGV[1] ~= '1' then
  keep(entry, found, '', GRACE)
  redis.call('DEL', entry)
else
  local state = ({f = 's', l = 'z'})[string.sub(found, 5, 5)]
  if state then
    redis.call('SETRANGE', entry, 4, state)
  end
end
redis.call('PUBLISH', ARGV[2], '')
return 1
