-- Stands before release.lua and relay.lua.

-- Gives the exclusive lease of an owner who releases it to the first in the queue, if
-- that one may be given it, and tells it by a message: its owner, the token and when
-- the lease ends. Where that is not so it removes the dead only, and returns nothing:
-- the rest of release.lua is for all cases. Otherwise it returns the member of the
-- first, and for how long it has the lease.
--
-- ARGV is that of release.lua.
--
-- The lease ends when the place would have, for the first one may be dead. The end is
-- also what makes the message safe, however late it comes. The waiter knows when, at the
-- earliest, it asked for the place that ends then, and how long that lasts. If it has
-- asked again since, its place ends later, and it does not take the message for its own:
--   A: asks, has a place             asks again, has a place at the end
--   B:                   gives A the lease (the message is held up), which ends
--   A:                                                                   the message
local asker -- the member of the one who asks in the same step, in relay.lua
local function give(ARGV)
  if holder() ~= join(ARGV[1], ARGV[2]) then
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
    if alive and (not tokens or member == asker) then
      return
    end
    -- This first: a Redis that is full refuses a script whose first write needs memory.
    redis.call('ZREM', queue, member)
    redis.call('ZREM', places, member)
    if alive then
      local token = math.max(state.token - (ARGV[4] or 0) + 1, micros)
      note(ARGV[1], ARGV[2], state.ended, '+')
      local family, char = split(owner)
      hand(family, char, releasedOf(family), tonumber(kept))
      state.token = token + tokens - 1
      write(state.ends)
      redis.call('PUBLISH', channel(owner), string.format('%s %.0f %s', owner, token, kept))
      return member, kept - now
    end
  end
end
