-- Stands before sync.lua and log.lua: the head of the purge log, which is a hash
-- of
--   epoch  the last one given out
--   floor  what is older cannot be vouched for: purges that reached it are not in
--          the log any more
--   last   the epoch of the last record that was put into the log
--
-- Epochs are microseconds of the server's clock, but grow also if that is set
-- back. They are exact in doubles until 2255.
local function digits(n)
  return string.format('%.0f', n)
end

-- Returns epoch, floor and last. If the head is missing (it is new, has expired,
-- was evicted or flushed), or if it lags behind what this process has seen before
-- (a failover has lost something), then so may be records, and everything that
-- exists now is given up.
local function open(head, log, known, retention)
  -- First, because a Redis that is full refuses a script whose first write needs
  -- memory, and neither a purge nor a read should fail for that.
  if redis.call('PTTL', head) < retention / 2 then
    redis.call('PEXPIRE', head, retention)
    redis.call('PEXPIRE', log, retention)
  end
  local found = redis.pcall('HMGET', head, 'epoch', 'floor', 'last')
  if found.err then
    redis.call('DEL', head) -- another type: nothing of ours
    found = {}
  end
  local epoch, floor, last = tonumber(found[1] or ''), tonumber(found[2] or ''), tonumber(found[3] or '')
  if epoch and floor and last and known <= epoch then
    return epoch, floor, last
  end
  local time = redis.call('TIME')
  epoch = math.max(tonumber(time[1]) * 1000000 + tonumber(time[2]), known + 1)
  redis.call('DEL', log)
  redis.call('HSET', head, 'epoch', digits(epoch), 'floor', digits(epoch), 'last', '0')
  redis.call('PEXPIRE', head, retention)
  return epoch, epoch, 0
end
