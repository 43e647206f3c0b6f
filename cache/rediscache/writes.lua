-- Stands before the scripts that know of writes under way. They are a hash of
--   v       a number that each write, its end and each purge change
--   w:<id>  "<number> <end>" of each write: when it is forgotten, in milliseconds
--           of the server's clock

-- Returns v, the writes that are not forgotten as a table id -> number, how many
-- they are, and the time in milliseconds. What is forgotten is removed.
local function writesOf(key)
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  local fields = redis.pcall('HGETALL', key)
  if fields.err then
    redis.call('DEL', key) -- another type: nothing of ours
    fields = {}
  end
  local v, writes, count = nil, {}, 0
  for i = 1, #fields, 2 do
    local number, ends = string.match(fields[i + 1], '^(%d+) (%d+)$')
    if fields[i] == 'v' then
      v = tonumber(fields[i + 1])
    elseif number and tonumber(ends) > now then
      writes[string.sub(fields[i], 3)] = number
      count = count + 1
    else
      redis.call('HDEL', key, fields[i])
    end
  end
  return v, writes, count, now
end
