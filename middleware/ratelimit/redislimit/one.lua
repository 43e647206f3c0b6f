-- one.lua: asks for units under one GCRA limit, as most requests do. It decides what
-- take.lua decides about a single check without extra units, in half the time: take.lua
-- spends most of its own on what it has for several limits and steps. It decides for several
-- requests as well, each under its own limit, as if they came one after the other.
--
-- KEYS[i]   the key of the limit of the i-th request, as take.lua keeps it
-- ARGV[i]   whole numbers, each a double in 8 bytes, the lowest first, because five arguments
--           take Redis longer than one:
--             capacity, num     the largest debt, in whole microseconds and the numerator
--                               of the rest,
--             den               the denominator of all numerators,
--             cost, num         what the units cost; zero only asks.
-- Result    {over, a, b}: over is 1 if there was no room, else 0, and a + b/den is what
--           the key owes after the decision, in microseconds. {0, a, 0} is a alone, because
--           a table takes a twelfth of the time of all. Or an error, as of take.lua. With
--           several keys it is a list of that, in which an error is a list of its text; or
--           an error of all, if the server is a replica.
--
-- The arithmetic, and why it must be one atomic step, are explained in take.lua.
-- Errors are returned as redis.pcall returns them, and not raised: it is one request's, and
-- Redis 6.2 would bury it.

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

-- keep writes what a key owes. One millisecond more than it counts, rounded up: see take.lua.
local function keep(key, debt, num, den)
  return redis.pcall('SET', key, struct.pack('<ddd', now + debt, num, den), 'PX', (debt + -debt % 1000) / 1000 + 1)
end

local function decide(key, asked)
  local capacity, capacity_num, den, cost, cost_num = struct.unpack('<ddddd', asked)
  local before, before_num = 0, 0

  local held = redis.pcall('GET', key)
  if held then
    if type(held) == 'table' then
      return held
    end
    local micros, debt_num, written = 0.5, 0, 0
    if #held == 24 then
      micros, debt_num, written = struct.unpack('<ddd', held)
    end
    if micros % 1 + debt_num % 1 + written % 1 ~= 0 or micros < 0 or debt_num < 0 then
      return redis.error_reply('HERDLESSVALUE the key does not hold a rate limit')
    end
    local debt = micros - now
    -- Written under another rate: round up, by less than a microsecond.
    if debt_num > 0 and written ~= den then
      debt, debt_num = debt + 1, 0
    end
    -- More is owed if the burst was lowered, or the clock went back. See take.lua for why
    -- it is written, also if it is only asked for, or Redis is too full for it.
    if debt > capacity or (debt == capacity and debt_num > capacity_num) then
      debt, debt_num = capacity, capacity_num
      keep(key, debt, debt_num, den)
    end
    if debt >= 0 then
      before, before_num = debt, debt_num
    end
  end

  local after, after_num = before + cost, before_num + cost_num
  if after_num >= den then
    after, after_num = after + 1, after_num - den
  end
  if after > capacity or (after == capacity and after_num > capacity_num) then
    return { 1, before, before_num }
  end
  if after ~= before or after_num ~= before_num then
    local wrote = keep(key, after, after_num, den)
    if wrote.err then
      return wrote
    end
  end
  if after_num == 0 then
    return after
  end
  return { 0, after, after_num }
end

if #KEYS == 1 then
  return decide(KEYS[1], ARGV[1])
end
local decisions = {}
for i, key in ipairs(KEYS) do
  local decision = decide(key, ARGV[i])
  if type(decision) == 'table' and decision.err then
    if string.find(decision.err, 'READONLY', 1, true) then
      return decision -- go-redis leaves the connection for it
    end
    decision = { decision.err }
  end
  decisions[i] = decision
end
return decisions
