-- Stands before acquire.lua and release.lua.

-- The channel on which a waiter is woken: that of its process, which its owner
-- begins with, up to a dot. With one channel for all, each message would wake
-- every process that waits. Owners without a dot have the channel of all.
local function channel(lease, owner)
  local dot = string.find(owner, '.', 1, true)
  return lease .. ':turn' .. (dot and ':' .. string.sub(owner, 1, dot - 1) or '')
end

-- Wakes those in the queue for whom there is room, from the front, each with a
-- message that is its owner. most bounds how many are looked at; who comes after
-- them asks by itself before long. now is in milliseconds of the server's clock.
local function wake(lease, shared, queue, places, most, now)
  if redis.call('EXISTS', lease) == 1 then
    return
  end
  local sharing = redis.call('ZCOUNT', shared, '(' .. now, '+inf')
  for _, member in ipairs(redis.call('ZRANGE', queue, 0, most - 1)) do
    local kind, limit, owner = string.match(member, '^([xs])(%d+):(.*)$')
    if tonumber(redis.call('ZSCORE', places, member) or 0) <= now then
      redis.call('ZREM', queue, member) -- dead
      redis.call('ZREM', places, member)
    elseif kind == 'x' and sharing > 0 or kind == 's' and tonumber(limit) > 0 and sharing >= tonumber(limit) then
      return
    else
      redis.call('PUBLISH', channel(lease, owner), owner)
      sharing = sharing + 1
      if kind == 'x' then
        return
      end
    end
  end
end

