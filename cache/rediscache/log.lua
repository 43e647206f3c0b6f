-- Begins an epoch with purges or overwritten keys, and tells all processes.
--
-- KEYS[1]   the head of the log: see head.lua
-- KEYS[2]   the log: a sorted set, record -> epoch
-- ARGV[1]   the largest epoch that the process has seen
-- ARGV[2]   milliseconds that the log is kept
-- ARGV[3]   how many records the log holds at most
-- ARGV[4]   the channel of all processes
-- ARGV[5]   what to tell them
-- ARGV[6…]  records for the log
--
-- Returns {epoch before, epoch, floor}. The message is the three, in 20 digits
-- each, and ARGV[5].
--
-- One step, because messages must be published in the order of their epochs and
-- without a gap: that is how a process knows that it has missed none.
--
-- A client that repeats the command begins another epoch with the same, which
-- does what has been done already.
local head, log = KEYS[1], KEYS[2]
local retention = tonumber(ARGV[2])
redis.call('PEXPIRE', log, retention) -- a write that a full Redis allows: see head.lua
local before, floor, last = open(head, log, tonumber(ARGV[1]), retention)
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local epoch = math.max(before + 1, now)

if #ARGV > 5 then
  if last > floor and redis.call('EXISTS', log) == 0 then
    floor = last -- the log alone was lost
  end
  for i = 6, #ARGV do
    redis.call('ZADD', log, digits(epoch), ARGV[i])
  end
  last = epoch
  -- Whatever is dropped reaches entries that began before it; they are given up.
  local old = redis.call('ZREVRANGEBYSCORE', log, '(' .. digits(now - retention * 1000), '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if old[2] then
    floor = math.max(floor, tonumber(old[2]))
    redis.call('ZREMRANGEBYSCORE', log, '-inf', old[2])
  end
  local extra = redis.call('ZCARD', log) - tonumber(ARGV[3])
  if extra > 0 then
    local dropped = redis.call('ZRANGE', log, extra - 1, extra - 1, 'WITHSCORES')
    floor = math.max(floor, tonumber(dropped[2]))
    redis.call('ZREMRANGEBYRANK', log, 0, extra - 1)
  end
  redis.call('PEXPIRE', log, retention)
end

redis.call('HSET', head, 'epoch', digits(epoch), 'floor', digits(floor), 'last', digits(last))
redis.call('PUBLISH', ARGV[4], string.format('%020.0f%020.0f%020.0f', before, epoch, floor) .. ARGV[5])
return {digits(before), digits(epoch), digits(floor)}
