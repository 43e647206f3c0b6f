-- Announces that the source of a key is about to be written, and ends a fill that
-- has begun: it may have read the source before.
--
-- KEYS[1]  the fill
-- KEYS[2]  the writes under way: a hash of v, which each write, its end and each
--          purge change; pending, how many there are; and id, of the last one
-- ARGV[1]  milliseconds after which the write is forgotten
-- ARGV[2]  an id, unique to this write
--
-- Returns v, which is this write's number.
--
-- One step, because of two that begin at a time each must find the other one
-- counted. A client that repeats the command is known by its id, and not counted
-- twice.
redis.call('DEL', KEYS[1])
local writes = redis.pcall('HMGET', KEYS[2], 'v', 'pending', 'id')
if writes.err then
  redis.call('DEL', KEYS[2]) -- another type: nothing of ours
  writes = {}
end
if writes[3] == ARGV[2] then
  return writes[1]
end
local time = redis.call('TIME')
local v = math.max((tonumber(writes[1] or '') or 0) + 1, tonumber(time[1]) * 1000000 + tonumber(time[2]))
v = string.format('%.0f', v)
local pending = math.max(tonumber(writes[2] or '') or 0, 0) + 1
redis.call('HSET', KEYS[2], 'v', v, 'pending', pending, 'id', ARGV[2])
redis.call('PEXPIRE', KEYS[2], math.max(redis.call('PTTL', KEYS[2]), tonumber(ARGV[1])))
return v
