-- Removes an entry and ends the fill that has begun, if any.
--
-- KEYS[1]  the entry
-- KEYS[2]  the fill
-- ARGV[1]  the channel of those who wait
--
-- Returns how many entries were removed.
--
-- One step, because a fill between removing the entry and ending the fill would
-- bring back what was to go.
local removed = redis.call('DEL', KEYS[1])
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[1], '')
return removed
