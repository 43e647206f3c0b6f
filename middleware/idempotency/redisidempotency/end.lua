-- Extends, finishes or abandons a request, if it is still its owner's.
--
-- KEYS[1]  the request, a hash (see begin.lua)
-- ARGV     owner, E or F or A, ms (E: of the lease, and to live at least, F: to
--          live), response (F),
--          channel that tells of the end
-- Result   1 if it was done, or had been done by the same command before; else 0
--
-- Why one script: between a check of the owner and a write, another server can
-- take over, run the request, and have its response overwritten.

local owner, op, ms = ARGV[1], ARGV[2], ARGV[3]
local f = redis.call('HMGET', KEYS[1], 'o', 'r')
if f[1] ~= owner then return 0 end
if f[2] then return op == 'F' and 1 or 0 end
if op == 'E' then
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  redis.call('HSET', KEYS[1], 'e', string.format('%.0f', now + tonumber(ms)))
  if redis.call('PTTL', KEYS[1]) < tonumber(ms) then redis.call('PEXPIRE', KEYS[1], ms) end
  return 1
elseif op == 'F' then
  redis.call('HSET', KEYS[1], 'r', ARGV[4])
  redis.call('PEXPIRE', KEYS[1], ms)
else
  redis.call('HSET', KEYS[1], 'o', '')
end
redis.call('PUBLISH', ARGV[5], '')
return 1
