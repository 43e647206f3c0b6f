-- Takes a lease if there is room and nobody is ahead, and gives out its fencing
-- token. Whoever has to wait may take a place in the queue.
--
-- KEYS[1]  the lease, see head.lua
-- ARGV[1]  the family of the owner, see head.lua
-- ARGV[2]  its last character
-- ARGV[3]  the kind of the lease: "x" if it excludes all others, and how many tokens
--          go with it if it may be given to the owner when its turn comes, see
--          give.lua, "x0" if not; or "s" and how many shared ones there may be at a
--          time, "s0" for any number
-- ARGV[4]  TTL of the lease in milliseconds
-- ARGV[5]  how many consecutive tokens are asked for; 1 if it is missing
-- ARGV[6]  for how long a place in the queue is kept, in milliseconds; 0, or missing,
--          for none
--
-- Returns  token      the lease is the owner's, under this token and the next
--                     ARGV[5] - 1
--          {milliseconds, owner, end}
--                     not yet; there may be room after so long. The owner is that of
--                     an exclusive lease, or empty. The asker's place ends at end, in
--                     ms of the server's clock; 0 if it has none
--          -1         the owner has released already
--
-- Atomic because the token must be given out in the order of the leases. With
-- the token in a command of its own:
--   A: takes the lease                   ... its lease ends ...
--   B:                 takes the lease, gets token 7
--   A:                                                   gets token 8
-- and A, whose lease is over, would overrule B. And because whoever is refused
-- must stand in the queue before the next release looks into it:
--   A: is refused                          enters the queue, waits
--   B:             releases, wakes nobody
--
-- The same command can arrive twice, because clients send again what was not
-- answered, and it can arrive late, after its sender gave up and released:
--   A: acquire (answer lost), acquire again  -> finds itself: a new token, as
--      nobody has seen the first one
--   A: acquire (stuck), release, acquire arrives -> must not take the lease,
--      which nobody would release
local family, char, kind = ARGV[1], ARGV[2], ARGV[3]
local owner, exclusive = join(family, char), string.sub(kind, 1, 1) == 'x'
local limit = tonumber(string.sub(kind, 2))
local me = kind .. ':' .. owner

local micros, now = clock()

local ended = releasedOf(family)
if outcome(ended, char) then -- a late command
  return -1
end

-- Both are rare: others who share, which count as one, and others who wait, as two.
local others = state.company and redis.call('EXISTS', shared, queue, queue) or 0
local shares, waiting = others % 2 == 1, others >= 2

-- A repeat: the lease is the owner's already.
local holds = holder()
local mine = holds == owner
if shares and not exclusive and not holds then
  mine = tonumber(redis.call('ZSCORE', shared, owner) or 0) > now
end

-- For how long there is no room, at most, and how many shared leases there are.
local full, sharing = 0, 0
if holds and not mine then
  full = math.max(state.ends - now, 1)
elseif shares and not mine then
  redis.call('ZREMRANGEBYSCORE', shared, '-inf', now)
  sharing = redis.call('ZCARD', shared)
  local ends = {}
  if exclusive then
    ends = redis.call('ZRANGE', shared, -1, -1, 'WITHSCORES')
  elseif limit > 0 and sharing >= limit then
    ends = redis.call('ZRANGE', shared, 0, 0, 'WITHSCORES')
  end
  full = ends[2] and ends[2] - now or 0
end

-- For how long somebody who is ahead may still come, at most.
local ahead = 0
local next = waiting and not mine and redis.call('ZRANGE', queue, 0, 0)[1] == me and tonumber(redis.call('ZSCORE', places, me) or 0) > now
if waiting and not mine and not next then
  -- Whoever has not asked for as long as its place is kept is dead, or as good.
  for _, dead in ipairs(redis.call('ZRANGEBYSCORE', places, '-inf', now, 'LIMIT', 0, 1000)) do
    redis.call('ZREM', queue, dead)
    redis.call('ZREM', places, dead)
  end
  local rank = redis.call('ZRANK', queue, me) or redis.call('ZCARD', queue)
  if rank > 0 then
    -- Shared leases come together: those ahead do not hinder as long as there is
    -- room for them too. 128 bounds the work.
    local before = redis.call('ZRANGE', queue, 0, math.min(rank, 128) - 1)
    local hindered = exclusive or rank > 128 or limit > 0 and sharing + rank >= limit
    for i = 1, hindered and 0 or #before do
      hindered = hindered or string.sub(before[i], 1, 1) == 'x'
    end
    if hindered then
      local kept = redis.call('ZSCORE', places, before[1])
      if not kept then
        redis.call('ZREM', queue, before[1]) -- Redis has evicted the places
      end
      ahead = math.max((kept or 0) - now, 1)
    end
  end
end

if full > 0 or ahead > 0 then
  local place, kept = tonumber(ARGV[6] or 0), 0
  if place > 0 then
    if not state.company or state.kept == 0 then
      state.company = true
      write(now)
    end
    kept = enter(me, place)
  end
  return {math.max(full, ahead), holds or '', kept}
end

if waiting then
  redis.call('ZREM', queue, me)
  redis.call('ZREM', places, me)
end
-- The clock makes tokens grow across the loss of the lease's key: its expiry, FLUSHALL,
-- a restart without persistence. The last token makes them grow when the clock is
-- set back. Microseconds fit a double until 2255.
local token = math.max(state.token + 1, micros)
state.token = token + (ARGV[5] or 1) - 1
if exclusive then
  hand(family, char, ended, now + ARGV[4])
  state.company = others > 0 and redis.call('EXISTS', shared, queue) > 0
  write(state.ends)
else
  state.company = true
  if state.ends > 0 then
    state.ends = -now -- that lease is over, also if the clock is set back
  end
  write(now + ARGV[4])
  redis.call('ZADD', shared, now + ARGV[4], owner)
  local latest = redis.call('ZRANGE', shared, -1, -1, 'WITHSCORES')
  redis.call('PEXPIRE', shared, latest[2] - now)
  if waiting then
    -- Several leases can end together, and a release wakes so many only.
    wake(count(), 1)
    local next = redis.call('ZRANGE', queue, 127, 127)
    if next[1] and string.sub(next[1], 1, 3) == 's0:' then
      local reader = string.sub(next[1], 4)
      redis.call('PUBLISH', channel(reader), reader)
    end
  end
end
return token
