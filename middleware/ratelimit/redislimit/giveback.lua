-- giveback.lua: gives back units that were taken a moment ago, because a limit
-- whose key is in another slot has denied the request.
--
-- KEYS[i]   the key of the i-th limit, and after the last one a key that names this gift
--           and no other. All are in one slot.
-- ARGV      three for each limit, in the order of KEYS, one of
--             'g', cost, num   GCRA: what the units cost, as whole microseconds and a
--                              numerator,
--             'w', window, n   sliding window: the number of the window in which
--                              the units were taken, and how many,
--           and after those for how many ms the gift is remembered.
-- Result    {n}: to how many keys something was given back.
--
-- What is given back is never more than what was taken: a key that owes less
-- (it was reset meanwhile) owes nothing afterwards, and one that holds something
-- else, or was written under another rate, is left alone.
--
-- It must be atomic, because in between somebody else may take what would be
-- overwritten. And when it arrives a second time, because the answer was lost, nothing is
-- given back: it would be what somebody else has taken. See take.lua for what the keys hold.

if not redis.call('SET', KEYS[#KEYS], '', 'NX', 'PX', ARGV[#ARGV]) then
  return { 0 }
end

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

local function gcra(key, held, cost, num)
  if #held ~= 24 then
    return 0
  end
  local micros, held_num, den = struct.unpack('<ddd', held)
  if micros % 1 + held_num % 1 + den % 1 ~= 0 or held_num < 0 or num >= den then
    return 0
  end
  micros, held_num = micros - cost, held_num - num
  if held_num < 0 then
    micros, held_num = micros - 1, held_num + den
  end
  if micros < now then
    return redis.call('DEL', key)
  end
  redis.call('SET', key, struct.pack('<ddd', micros, held_num, den),
    'PX', string.format('%.0f', math.ceil((micros - now) / 1000) + 1))
  return 1
end

local function window(key, held, taken_in, n)
  local window, micros, prev, cur = string.match(held, '^(%d+)%*(%d+):(%d+),(%d+)$')
  if not window then
    return 0
  end
  window = tonumber(window)
  if window == taken_in then
    cur = math.max(0, cur - n)
  elseif window == taken_in + 1 then
    prev = math.max(0, prev - n)
  else
    return 0
  end
  redis.call('SET', key, string.format('%.0f*%s:%.0f,%.0f', window, micros, prev, cur), 'KEEPTTL')
  return 1
end

local n = 0
for i = 1, #KEYS - 1 do
  local key = KEYS[i]
  local held = redis.pcall('GET', key)
  if type(held) == 'string' then
    local kind, x, y = ARGV[3 * i - 2], tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
    n = n + (kind == 'w' and window or gcra)(key, held, x, y)
  end
end
return { n }
