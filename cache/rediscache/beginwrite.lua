-- Announces that the source of a key is about to be written, and ends a fill that
-- has begun: it may have read the source before.
--
-- KEYS[1]  the fill
-- KEYS[2]  the writes under way: see writes.lua
-- ARGV[1]  milliseconds after which the write is forgotten
-- ARGV[2]  an id, unique to this write
--
-- Returns the write's number.
--
-- One step, because of two that begin at a time each must find the other one
-- counted. A client that repeats the command is known by its id, and not counted
-- twice.
redis.call('DEL', KEYS[1])
local v, writes, _, now = writesOf(KEYS[2])
if writes[ARGV[2]] then
  return writes[ARGV[2]]
end
local number = string.format('%.0f', math.max((v or 0) + 1, now * 1000))
redis.call('HSET', KEYS[2], 'v', number, 'w:' .. ARGV[2], number .. ' ' .. string.format('%.0f', now + tonumber(ARGV[1])))
redis.call('PEXPIRE', KEYS[2], math.max(redis.call('PTTL', KEYS[2]), tonumber(ARGV[1])))
return number
