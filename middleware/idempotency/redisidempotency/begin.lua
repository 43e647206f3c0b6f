-- Begins a request, unless it has run, or somebody runs it.
--
-- KEYS[1]  the request, a hash: f fingerprint, o owner ('' if it was abandoned),
--          n how often it was begun, e end of the lease in ms of the server's
--          clock, r the response, if it has run
-- ARGV     owner, fingerprint, lease in ms, time to live in ms
-- Result   {1, n, ''}         it is begun, for the n-th time
--          {2, ms left, ''}   somebody runs it
--          {3, 0, response}   it has run
--          {4, 0, ''}         the fingerprint is another one
--
-- Why one script: two servers that read "nobody runs it", and then each write that
-- they do, both run it.

local owner, fingerprint, lease, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local f = redis.call('HMGET', KEYS[1], 'f', 'o', 'n', 'e', 'r')
local n = tonumber(f[3]) or 0
if f[1] then
  if f[1] ~= fingerprint then return {4, 0, ''} end
  if f[5] then return {3, 0, f[5]} end
  if f[2] == owner then
    n = n - 1 -- the command comes a second time
  else
    local left = (tonumber(f[4]) or 0) - now
    if f[2] ~= '' and left > 0 then return {2, left, ''} end
  end
end
n = n + 1
redis.call('HSET', KEYS[1], 'f', fingerprint, 'o', owner, 'n', n, 'e', string.format('%.0f', now + lease))
redis.call('PEXPIRE', KEYS[1], ttl)
return {1, n, ''}
