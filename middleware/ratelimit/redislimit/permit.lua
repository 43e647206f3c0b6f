-- permit.lua: acquires, extends or releases a permit of a concurrency limit.
--
-- KEYS[1]   the key of the limit.
-- ARGV      'A', id, TTL in ms, limit   acquire,
--           'E', id, TTL in ms          extend,
--           'R', id                     release.
-- Result    'A' {1 or 0, held}: whether it was acquired, and how many are held;
--           'E' {1 or 0}: whether it was still there; 'R' {n}: how many it was, 1 or 0.
-- Error     WRONGTYPE if the key holds something else.
--
-- The key is a sorted set of ids, each with the microsecond of this server's
-- clock at which its permit ends. It expires with the last of them.
--
-- Why it must be one atomic step. Two nodes that count and then add:
--   A counts 9 of 10; B counts 9 of 10; A adds one; B adds one: 11.

local verb, id = ARGV[1], ARGV[2]
if verb == 'R' then
  return { redis.call('ZREM', KEYS[1], id) }
end

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
-- As strings, because a number would be written with fewer digits than it has.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))

local there = redis.call('ZSCORE', KEYS[1], id)
local held = redis.call('ZCARD', KEYS[1])
if not there and (verb == 'E' or held >= tonumber(ARGV[4])) then
  return { 0, held }
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[3] * 1000), id)
-- The last to end need not be this one.
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil((last[2] - now) / 1000) + 1))
return { 1, there and held or held + 1 }
