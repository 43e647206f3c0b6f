-- Stands behind state.lua, before acquire.lua, give.lua, release.lua and relay.lua.

-- The channel on which a waiter is woken: that of its process, which its owner
-- begins with, up to a dot. With one channel for all, each message would wake
-- every process that waits. Owners without a dot have the channel of all.
local function channel(owner)
  local dot = string.find(owner, '.', 1, true)
  return lease .. ':turn' .. (dot and ':' .. string.sub(owner, 1, dot - 1) or '')
end

-- Wakes those in the queue for whom there is room beside so many shared leases, from
-- the front, each with a message that is its owner. most bounds how many are looked
-- at; who comes after them asks by itself before long. Returns the first of them, and
-- for how long its place is kept.
local function wake(sharing, most)
  local _, now = clock()
  local first, kept
  for _, member in ipairs(redis.call('ZRANGE', queue, 0, most - 1)) do
    local place = tonumber(redis.call('ZSCORE', places, member) or 0)
    local kind, limit, owner = string.match(member, '^([xs])(%d+):(.*)$')
    if place <= now then
      redis.call('ZREM', queue, member) -- dead
      redis.call('ZREM', places, member)
    elseif kind == 'x' and sharing > 0 or kind == 's' and tonumber(limit) > 0 and sharing >= tonumber(limit) then
      break
    else
      redis.call('PUBLISH', channel(owner), owner)
      sharing = sharing + 1
      if not first then
        first, kept = member, place - now
      end
      if kind == 'x' then
        break
      end
    end
  end
  return first, kept
end

-- How many shared leases there are.
local function count()
  local _, now = clock()
  return redis.call('ZCOUNT', shared, '(' .. now, '+inf')
end

-- Gives a member a place at the end of the queue, or keeps the one that it has, for
-- so many milliseconds from now. Returns when that ends, in ms of the server's clock.
local function enter(member, place)
  local came, now = clock()
  -- In the order of coming, also if the clock is set back, and if two come within a
  -- microsecond.
  local back = redis.call('ZRANGE', queue, -1, -1, 'WITHSCORES')
  redis.call('ZADD', queue, 'NX', string.format('%.0f', math.max(came, (back[2] or 0) + 1)), member)
  redis.call('ZADD', places, now + place, member)
  local latest = redis.call('ZRANGE', places, -1, -1, 'WITHSCORES')
  redis.call('PEXPIRE', queue, latest[2] - now)
  redis.call('PEXPIRE', places, latest[2] - now)
  return now + place
end

