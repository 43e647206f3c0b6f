-- Ends a write, and replaces the entry by what was written or by nothing.
--
-- KEYS[1]  the entry
-- KEYS[2]  the fill
-- KEYS[3]  the writes under way: see writes.lua
-- ARGV[1]  the write's number
-- ARGV[2]  milliseconds to live; 0 stores nothing
-- ARGV[3]  the bytes of the entry
-- ARGV[4]  the channel of those who wait
--
-- Returns 1 if the entry was stored, else 0; then there is none.
--
-- One step, because of two writes that overlap nobody knows which one reached the
-- source last. Whichever ends first must be seen by the other one:
--
--   A writes 1 to the source
--                              B writes 2 to the source, stores 2
--   A stores 1, which the source does not have
--
-- A client that repeats the command finds its own entry there. If something came
-- in between, there is none afterwards, which is never wrong.
local entry, bytes = KEYS[1], ARGV[3]
local found = header(entry)
if same(found, bytes) then
  return 1
end

redis.call('DEL', KEYS[2])
local v, writes, count, now = writesOf(KEYS[3])
local alone = v == tonumber(ARGV[1])
for id, number in pairs(writes) do
  if number == ARGV[1] then
    redis.call('HDEL', KEYS[3], 'w:' .. id)
    count = count - 1
  end
end
if count > 0 then
  redis.call('HSET', KEYS[3], 'v', string.format('%.0f', (v or 0) + 1))
else
  redis.call('DEL', KEYS[3])
end

local stored = 0
if alone and ARGV[2] ~= '0' and keep(entry, bytes, '', tonumber(ARGV[2]) + GRACE) then
  keep(entry, found, bytes, GRACE)
  store(entry, bytes, now, tonumber(ARGV[2]))
  stored = 1
else
  keep(entry, found, '', GRACE)
  keep(entry, bytes, '', GRACE)
  redis.call('DEL', entry)
end
redis.call('PUBLISH', ARGV[4], '')
return stored
