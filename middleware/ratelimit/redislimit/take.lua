-- take.lua: asks for units under several limits, all or nothing.
--
-- KEYS[i]   the key of the i-th limit. All are in one slot.
-- ARGV      whole numbers:
--             m, then the sizes of m steps in which extra units may be taken;
--           then for each limit, in the order of KEYS, one of
--             'g', shadow       GCRA; shadow is 1 if it must not deny, else 0,
--             capacity, num       the largest debt, in whole microseconds and the
--                                 numerator of the rest,
--             den                 the denominator of all numerators,
--             cost, num           what the units cost,
--             cost, num ...       and what each of the m steps costs;
--             'w', shadow       sliding window; shadow likewise,
--             limit               units in a window,
--             period, tick        the length of a window in ticks, and of a tick in
--                                 microseconds,
--             n                   how many units are asked for,
--             n ...               and the sizes of the steps once more.
--           If no unit is asked for, every cost and n is zero.
-- Result    {allowed, extra, then for each limit over, a, b, c}: allowed and over
--           (it had no room) are 1 or 0, extra is how many extra units were taken.
--           Of 'g', a + b/den is what the key owes after the decision, in
--           microseconds, and c is 0. Of 'w', a and b were taken in the previous
--           window and in this one, and c is the time in microseconds.
-- Error     WRONGTYPE or HERDLESSVALUE if a key holds something else. Nothing
--           has been charged then.
--
-- A key of GCRA holds its theoretical arrival time (TAT), the instant at which all
-- that was taken is given back, as three whole numbers, each a double in 8 bytes, the
-- lowest first: microseconds since 1970 on this server's clock, and the numerator and
-- denominator of a fraction of one. The debt is the distance from now to
-- it. The key expires when the debt is over, so a key that does not exist owes
-- nothing.
--
-- A key of a sliding window holds "window*micros:previous,present": the number of
-- the window since 1970, its length, and what was taken in the one before and in it. The
-- previous one counts in proportion to the part of it that the last period
-- covers. The key expires when nothing counts any more.
--
-- Arithmetic. Lua's numbers are doubles: whole numbers are exact up to 2^53. A
-- unit costs period/rate, which is seldom whole (7 a minute: 8571428+4/7
-- microseconds), and a rounded or binary fraction would drift with every unit.
-- So fractions are numerators over the limit's own denominator, and here they
-- are only added and compared; whatever is multiplied or divided comes ready in
-- ARGV. That is why extra units come in steps: of halves, so that taking each that
-- fits, the largest first, takes as many as fit. The caller sees to it that the
-- largest values fit: an instant plus a capacity of 100 years is below 2^53 until the
-- year 2155, twice a capacity always is, and den is below 2^50. A window's limit ×
-- period is below 2^51, and three such products are added.
--
-- Why it must be one atomic step. Two nodes that read, decide and write:
--   A reads the TAT, room for one; B reads the same TAT, room for one;
--   A writes its TAT; B writes the same one: two admitted, one charged.
-- And two limits charged one after the other: the first is charged, the second
-- denies, and a refund of the first comes after others were denied for it.
-- Everything is read and checked before anything is written.

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

local at = 0
local function number()
  at = at + 1
  return tonumber(ARGV[at])
end

local steps = {}
for i = 1, number() do
  steps[i] = number()
end

local function is_over(l)
  if l.sliding then
    return l.used + l.wanted * l.period > l.limit * l.period
  end
  return l.after > l.capacity or (l.after == l.capacity and l.after_num > l.capacity_num)
end

-- add asks for the i-th step besides, or for the units themselves if i is 0, and
-- reports whether there is room.
local function add(l, i)
  local wanted, after, after_num = l.wanted, l.after, l.after_num
  local cost = l.costs[i]
  if l.sliding then
    l.wanted = wanted + cost
    if l.wanted == 0 then
      return true
    end
  else
    l.after, l.after_num = after + cost, after_num + l.nums[i]
    if l.after_num >= l.den then
      l.after, l.after_num = l.after + 1, l.after_num - l.den
    end
  end
  if is_over(l) then
    l.wanted, l.after, l.after_num = wanted, after, after_num
    return false
  end
  return true
end

local function read_gcra(l, held)
  if #held ~= 24 then
    return false
  end
  local micros, debt_num, den = struct.unpack('<ddd', held)
  if micros % 1 + debt_num % 1 + den % 1 ~= 0 or micros < 0 or debt_num < 0 then
    return false
  end
  local debt = micros - now
  -- Written under another rate: round up, by less than a microsecond.
  if den ~= l.den and debt_num > 0 then
    debt, debt_num = debt + 1, 0
  end
  -- More than the capacity is owed if the burst was lowered, or if the clock
  -- went back, as it may when a replica takes over: nobody waits longer than
  -- for a spent burst. It is written although nothing is taken, or the next one
  -- who looks would find the old debt, and wait again.
  if debt > l.capacity or (debt == l.capacity and debt_num > l.capacity_num) then
    debt, debt_num, l.mended = l.capacity, l.capacity_num, true
  end
  if debt >= 0 then
    l.after, l.after_num = debt, debt_num
  end
  return true
end

local function read_window(l, held)
  local window, micros, prev, cur = string.match(held, '^(%d+)%*(%d+):(%d+),(%d+)$')
  if not window then
    return false
  end
  window, prev, cur = tonumber(window), tonumber(prev), tonumber(cur)
  if tonumber(micros) ~= l.period * l.tick then
    -- Written under another period: it counts in the present window, to be safe.
    window, prev, cur, l.mended = l.window, 0, prev + cur, true
  end
  -- A clock that went back prolongs the present window, and a limit that was
  -- lowered is full at most. As with GCRA, what counts in another window now is
  -- written.
  l.mended = l.mended or l.window < window
  if l.window == window + 1 then
    prev, cur = cur, 0
  elseif l.window > window then
    prev, cur = 0, 0
  end
  l.prev, l.cur = math.min(prev, l.limit), math.min(cur, l.limit)
  return true
end

local limits, allowed = {}, true
for i, key in ipairs(KEYS) do
  at = at + 1
  local l = { sliding = ARGV[at] == 'w', shadow = number() == 1, costs = {}, nums = {}, wanted = 0 }
  limits[i] = l
  local read
  if l.sliding then
    l.limit, l.period, l.tick = number(), number(), number()
    local ticks = math.floor(now / l.tick)
    l.elapsed = ticks % l.period
    l.window = (ticks - l.elapsed) / l.period
    l.prev, l.cur, read = 0, 0, read_window
    for s = 0, #steps do
      l.costs[s] = number()
    end
  else
    l.capacity, l.capacity_num, l.den = number(), number(), number()
    l.after, l.after_num, read = 0, 0, read_gcra
    for s = 0, #steps do
      l.costs[s], l.nums[s] = number(), number()
    end
  end

  local held = redis.pcall('GET', key)
  if type(held) == 'table' then
    return held -- the error as it is: Redis 6.2 would bury what redis.call raises
  end
  if held and not read(l, held) then
    return redis.error_reply('HERDLESSVALUE the key does not hold a rate limit')
  end
  if l.sliding then
    l.used = l.prev * (l.period - l.elapsed) + l.cur * l.period
  end
  l.before, l.before_num = l.after, l.after_num
  l.over = not add(l, 0)
  if l.over and not l.shadow then
    allowed = false
  end
end

local extra = 0
if allowed then
  for s, size in ipairs(steps) do
    local undo, fits = {}, true
    for i, l in ipairs(limits) do
      if not l.over then
        undo[i] = { l.wanted, l.after, l.after_num }
        if not add(l, s) and not l.shadow then
          fits = false
        end
      end
    end
    if fits then
      extra = extra + size
    else
      for i, u in pairs(undo) do
        limits[i].wanted, limits[i].after, limits[i].after_num = u[1], u[2], u[3]
      end
    end
  end
end

-- write sets a key. If that is not to take anything it need not be.
local function write(taken, key, value, ttl)
  local call = taken and redis.call or redis.pcall
  call('SET', key, value, 'PX', string.format('%.0f', ttl))
end

local result = { allowed and 1 or 0, extra }
for i, key in ipairs(KEYS) do
  local l, a, b, c = limits[i], 0, 0, 0
  local charge = allowed and not l.over
  -- %.0f, because %d is 32 bits wide on some platforms. One millisecond more
  -- than it counts, rounded up: a key that goes late costs nothing, one that
  -- goes early gives away what its client owes.
  if l.sliding then
    local takes = charge and l.wanted > 0
    if takes then
      l.cur = l.cur + l.wanted
    end
    if takes or l.mended then
      write(takes, key, string.format('%.0f*%.0f:%.0f,%.0f', l.window, l.period * l.tick, l.prev, l.cur),
        math.ceil((2 * l.period - l.elapsed) * l.tick / 1000) + 1)
    end
    a, b, c = l.prev, l.cur, now
  else
    local takes = charge and (l.after ~= l.before or l.after_num ~= l.before_num)
    a, b = l.before, l.before_num
    if takes then
      a, b = l.after, l.after_num
    end
    if takes or l.mended then
      write(takes, key, struct.pack('<ddd', now + a, b, l.den), math.ceil(a / 1000) + 1)
    end
  end
  local r = 4 * i - 1
  result[r], result[r + 1], result[r + 2], result[r + 3] = l.over and 1 or 0, a, b, c
end
return result
