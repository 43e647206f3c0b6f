-- Returns the present epoch, and the records that somebody does not know.
--
-- KEYS[1]  the head of the log: see head.lua
-- KEYS[2]  the log: a sorted set, record -> epoch
-- ARGV[1]  the epoch up to which all records are known already
-- ARGV[2]  the largest epoch that the process has seen
-- ARGV[3]  milliseconds that the log is kept
-- ARGV[4]  how many records to return, at least if there are as many
--
-- Returns {epoch, floor, record, epoch, record, epoch, …} in the order of epochs.
--
-- One step, because the records must be all that there are up to the epoch.
local epoch, floor, last = open(KEYS[1], KEYS[2], tonumber(ARGV[2]), tonumber(ARGV[3]))
local records = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[4])
if #records >= 2 * tonumber(ARGV[4]) then
  -- Where this ends, the next call begins: all of the last epoch must be there.
  for _, more in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], records[#records], records[#records], 'WITHSCORES')) do
    table.insert(records, more)
  end
end
if #records == 0 and last > floor and last > tonumber(ARGV[1]) then
  -- The last record should be here. The log alone was lost.
  floor = last
  redis.call('HSET', KEYS[1], 'floor', digits(floor))
end
table.insert(records, 1, digits(epoch))
table.insert(records, 2, digits(floor))
return records
