-- Stands before release.lua and relay.lua.

-- Gives the exclusive lease of an owner who releases it to the first in the queue, if
-- that one may be given it, and tells it by a message: its owner, the token and when
-- the lease ends. Where that is not so it removes the dead only, and returns nothing:
-- the rest of release.lua is for all cases. Otherwise it returns the member of the
-- first, and for how long it has the lease.
--
-- KEYS and ARGV are those of release.lua or relay.lua.
--
-- The lease ends when the place would have, for the first one may be dead. The end is
-- also what makes the message safe, however late it comes. The waiter knows when, at the
-- earliest, it asked for the place that ends then, and how long that lasts. If it has
-- asked again since, its place ends later, and it does not take the message for its own:
--   A: asks, has a place             asks again, has a place at the end
--   B:                   gives A the lease (the message is held up), which ends
--   A:                                                                   the message
local function give(KEYS, ARGV)
  local lease, fence, queue, places = KEYS[1], KEYS[2], KEYS[4], KEYS[5]
  local found = redis.call('MGET', lease, fence)
  local last = tonumber(found[2] or nil)
  if found[1] ~= ARGV[1] or not last then
    return
  end
  local micros, now = clock()
  for _ = 1, 128 do -- those in front may be dead
    local member = redis.call('ZRANGE', queue, 0, 0)[1]
    if not member then
      return
    end
    local kept = redis.call('ZSCORE', places, member)
    local alive = kept and tonumber(kept) > now
    local tokens, owner = string.match(member, '^x([1-9]%d*):(.*)$')
    -- Who asks in the same step is told by the answer.
    if alive and (not tokens or ARGV[7] and member == ARGV[8] .. ':' .. ARGV[7]) then
      return
    end
    -- This first: a Redis that is full refuses a script whose first write needs memory.
    redis.call('ZREM', queue, member)
    redis.call('ZREM', places, member)
    if alive then
      local token = math.max(last - ARGV[4] + 1, micros)
      redis.call('SET', lease, owner, 'PXAT', kept)
      redis.call('SET', fence, string.format('%.0f', token + tokens - 1), 'PX', kept - now + ARGV[6])
      redis.call('SET', KEYS[6], '+', 'PX', ARGV[3])
      redis.call('PUBLISH', channel(lease, owner), string.format('%s %.0f %s', owner, token, kept))
      return member, kept - now
    end
  end
end

