-- take.lua: asks for units under several limits, all or nothing (GCRA).
--
-- KEYS[i]   the key of the i-th limit. All are in one slot.
-- ARGV      five whole numbers for each limit, in the order of KEYS:
--             cost          what the units cost, in whole microseconds,
--             costNum         and the numerator of the rest;
--             capacity      the largest debt, in whole microseconds,
--             capacityNum     and the numerator of the rest;
--             den           the denominator of both numerators.
--           If no unit is asked for, every cost is zero.
-- Result    {allowed, debt 1, debtNum 1, debt 2, debtNum 2, ...}: 1 or 0, and
--           what each key owes after the decision.
-- Error     WRONGTYPE or HERDLESSVALUE if a key holds something else. Nothing
--           has been charged then.
--
-- A key holds its theoretical arrival time (TAT), the instant at which all that
-- was taken is given back, as "micros+num/den": microseconds since 1970 on this
-- server's clock, and a fraction of one. The debt is the distance from now to
-- it. The key expires when the debt is over, so a key that does not exist owes
-- nothing.
--
-- Arithmetic. Lua's numbers are doubles: whole numbers are exact up to 2^53. A
-- unit costs period/rate, which is seldom whole (7 a minute: 8571428+4/7
-- microseconds), and a rounded or binary fraction would drift with every unit.
-- So fractions are numerators over the limit's own denominator, and here they
-- are only added and compared; whatever is multiplied or divided comes ready in
-- ARGV. The caller sees to it that the largest values fit: an instant plus a
-- capacity of 100 years is below 2^53 until the year 2155, and den below 2^50.
--
-- Why it must be one atomic step. Two nodes that read, decide and write:
--   A reads the TAT, room for one; B reads the same TAT, room for one;
--   A writes its TAT; B writes the same one: two admitted, one charged.
-- And two limits charged one after the other: the first is charged, the second
-- denies, and a refund of the first comes after others were denied for it.
-- Everything is read and checked before anything is written.

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

local limits, fits = {}, true
for i, key in ipairs(KEYS) do
  local a = 5 * i - 4
  local l = {
    cost = tonumber(ARGV[a]), costNum = tonumber(ARGV[a + 1]),
    capacity = tonumber(ARGV[a + 2]), capacityNum = tonumber(ARGV[a + 3]),
    den = tonumber(ARGV[a + 4]), debt = 0, debtNum = 0,
  }
  limits[i] = l

  local held = redis.pcall('GET', key)
  if type(held) == 'table' then
    return held -- the error as it is: Redis 6.2 would bury what redis.call raises
  end
  if held then
    local micros, num, den = string.match(held, '^(%d+)%+(%d+)/(%d+)$')
    if not micros then
      return redis.error_reply('HERDLESSVALUE the key does not hold a rate limit')
    end
    local debt, debtNum = micros - now, tonumber(num)
    -- Written under another rate: round up, by less than a microsecond.
    if tonumber(den) ~= l.den and debtNum > 0 then
      debt, debtNum = debt + 1, 0
    end
    -- More than the capacity is owed if the burst was lowered, or if the clock
    -- went back, as it may when a replica takes over: nobody waits longer than
    -- for a spent burst.
    if debt > l.capacity or (debt == l.capacity and debtNum > l.capacityNum) then
      debt, debtNum = l.capacity, l.capacityNum
    end
    if debt >= 0 then
      l.debt, l.debtNum = debt, debtNum
    end
  end

  l.after, l.afterNum = l.debt + l.cost, l.debtNum + l.costNum
  if l.afterNum >= l.den then
    l.after, l.afterNum = l.after + 1, l.afterNum - l.den
  end
  if l.after > l.capacity or (l.after == l.capacity and l.afterNum > l.capacityNum) then
    fits = false
  end
end

local result = { fits and 1 or 0 }
for i, key in ipairs(KEYS) do
  local l = limits[i]
  if fits and (l.cost > 0 or l.costNum > 0) then
    l.debt, l.debtNum = l.after, l.afterNum
    -- %.0f, because %d is 32 bits wide on some platforms. One millisecond more
    -- than the debt rounded up: a key that goes late costs nothing, one that
    -- goes early gives away what its client owes.
    redis.call('SET', key, string.format('%.0f+%.0f/%.0f', now + l.debt, l.debtNum, l.den),
      'PX', string.format('%.0f', math.ceil(l.debt / 1000) + 1))
  end
  result[2 * i] = l.debt
  result[2 * i + 1] = l.debtNum
end
return result
