-- Adds what a node has counted in a minute to the minute, the hour and the day,
-- unless it has done so already.
--
-- KEYS[1]     the node, a hash: the part of a batch → the number of the last batch of
--             which that part was added
-- KEYS[2]     the table of the day's rows: '#', 16 digits that name it, a newline, and
--             the names of the rows, each with a newline; the first is row 0
-- KEYS[3..5]  the counters of the minute, the hour and the day: the digits of the table
--             that has the names, and row after row 9 of 64 bits, and those of the
--             latency histogram of 40 bits
-- KEYS[6..8]  the visitors of the minute, the hour and the day, HyperLogLogs
-- KEYS[9]     a key that lives in this script only
-- ARGV        part, number of the batch, time to live of the node in ms, those of
--             minute, hour and day, most routes, most nodes, bits of a row, a
--             HyperLogLog or '';
--             then for each row: name, how many counters, and for each its place in
--             the row and what to add
-- Result      {seconds, microseconds} of the server's clock
--
-- Why one script: a batch whose answer was lost comes again. If the number were
-- written apart from the counters, a server or a connection that dies in between
-- would make it count twice, or not at all.
--
-- Why tables have names of their own: where Redis evicts keys it may have evicted the
-- table. What another one says about a row would be about somebody else, so counters of
-- a table that is lost are lost with it.

local part, seq, bits, sketch = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[9]), ARGV[10]
local room = { r = tonumber(ARGV[7]) + 1, n = tonumber(ARGV[8]) + 1 } -- and the others
local now = redis.call('TIME')
if (tonumber(redis.call('HGET', KEYS[1], part)) or 0) >= seq then return now end

local names = redis.call('GET', KEYS[2])
local id = names and string.match(names, '^#(%d+)\nr%(other%)\nn%(other%)\n') -- or somebody else has written it
if not id then
  id = string.format('%010d%06d', tonumber(now[1]), tonumber(now[2]))
  names = '#' .. id .. '\nr(other)\nn(other)\n'
  redis.call('SET', KEYS[2], names)
end
local rows, count = {}, 0
for name in string.gmatch(string.sub(names, #id + 3), '([^\n]*)\n') do
  rows[name] = count
  count = count + 1
  local kind = string.sub(name, 1, 1)
  room[kind] = (room[kind] or 0) - 1
end

-- One BITFIELD adds many counters; the limit is Lua's, for arguments of a call.
local limit, calls, args, added = 4000, {}, { '', 'OVERFLOW', 'SAT' }, {}
local i = 11
while i <= #ARGV do
  local name, n = ARGV[i], tonumber(ARGV[i + 1])
  local row = rows[name]
  if not row then
    local kind = string.sub(name, 1, 1)
    if room[kind] > 0 then
      row = count
      rows[name] = row
      count = count + 1
      room[kind] = room[kind] - 1
      added[#added + 1] = name .. '\n'
    else
      row = rows[kind .. '(other)']
    end
  end
  for j = i + 2, i + 2 * n, 2 do
    local place = tonumber(ARGV[j])
    local wide, offset = 'i64', place * 64
    if place >= 9 then wide, offset = 'u40', 9 * 64 + (place - 9) * 40 end
    local k = #args
    args[k + 1], args[k + 2], args[k + 3], args[k + 4] = 'INCRBY', wide, string.format('%d', #id * 8 + row * bits + offset), ARGV[j + 1]
    if k > limit then
      calls[#calls + 1] = args
      args = { '', 'OVERFLOW', 'SAT' }
    end
  end
  i = i + 2 + 2 * n
end
if #args > 3 then calls[#calls + 1] = args end
if #added > 0 then redis.call('APPEND', KEYS[2], table.concat(added)) end
redis.call('PEXPIRE', KEYS[2], ARGV[6])

-- What may fail comes first, and may be done twice: Redis does not take back what a
-- script has done before its error.
if sketch ~= '' then
  redis.call('SET', KEYS[9], sketch, 'PX', ARGV[4])
  for unit = 1, 3 do
    redis.call('PFMERGE', KEYS[5 + unit], KEYS[9])
    redis.call('PEXPIRE', KEYS[5 + unit], ARGV[3 + unit])
  end
  redis.call('DEL', KEYS[9])
end
local lost = {}
for unit = 1, 3 do lost[unit] = redis.call('GETRANGE', KEYS[2 + unit], 0, #id - 1) ~= id end

for unit = 1, 3 do
  if #calls > 0 and lost[unit] then redis.call('SET', KEYS[2 + unit], id) end
  for _, call in ipairs(calls) do
    call[1] = KEYS[2 + unit]
    redis.call('BITFIELD', unpack(call))
  end
  if #calls > 0 then redis.call('PEXPIRE', KEYS[2 + unit], ARGV[3 + unit]) end
end
redis.call('HSET', KEYS[1], part, ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return now
