-- Ends what an owner has, its lease or its place in the queue, and wakes those
-- whose turn it is now, or gives the first of them the lease: see give.lua.
--
-- KEYS     as for acquire.lua
-- ARGV[1]  owner
-- ARGV[2]  the kind of the lease, as for acquire.lua
-- ARGV[3]  for how long KEYS[6] is kept, in milliseconds
-- ARGV[4]  how many tokens at the end of its block the owner did not use
-- ARGV[5]  whom to wake: "turn" for those whose turn it is. In a quorum, where
--          there is no queue, "all" for everybody who listens, with an empty
--          message; and "none" for nobody, where the owner takes back what he was
--          granted by too few servers
-- ARGV[6]  for how long the fence outlives a lease, in milliseconds
--
-- Returns  1 if the owner held the lease, 0 if not
--
-- Atomic because of two interleavings:
--   A: GET finds A; its lease ends
--   B:                             takes the lease
--   A:                                              DEL ends B's lease
-- and, with the message in a command of its own, a holder that dies between the
-- two lets everybody wait.
--
-- The same command can arrive twice, because clients send again what was not
-- answered. The second must say what the first did, or a holder whose answer was
-- lost would be told that it had lost its lease. So KEYS[6] keeps the outcome: "+"
-- if the owner held a lease, "-" if not. A release that found nothing is kept too:
-- the acquire that it follows may be still on its way (see acquire.lua). It is a
-- key for each owner, because others come and go in between.
local lease, fence, shared, queue, places, ended = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local owner, exclusive = ARGV[1], string.sub(ARGV[2], 1, 1) == 'x'

local waiting = ARGV[5] == 'turn' and redis.call('EXISTS', queue) == 1
if exclusive and waiting then
  local first, kept = give(KEYS, ARGV)
  if first then
    return 1, first, kept
  end
end

local held
if exclusive then
  held = redis.call('GET', lease) == owner
  if held then
    redis.call('DEL', lease)
    -- Or tokens could run ahead of the clock, and go back if the fence is lost.
    -- While the lease was held nobody else was given any. If the fence is lost
    -- already, it must not come back without a TTL.
    if ARGV[4] ~= '0' and redis.call('DECRBY', fence, ARGV[4]) <= 0 then
      redis.call('DEL', fence)
    end
  end
else
  local _, now = clock()
  held = tonumber(redis.call('ZSCORE', shared, owner) or 0) > now
  redis.call('ZREM', shared, owner)
end
if not held then -- an owner that has released holds nothing: see acquire.lua
  local outcome = redis.call('GET', ended)
  if outcome then
    return outcome == '+' and 1 or 0
  end
end
redis.call('SET', ended, held and '+' or '-', 'PX', ARGV[3])

local first, kept -- of those whose turn it is
if ARGV[5] == 'all' then
  if held then
    redis.call('PUBLISH', channel(lease, ''), '')
  end
elseif waiting then
  if exclusive and held then
    first, kept = wake(lease, queue, places, 0, 128) -- there were no other leases
  else
    local me = ARGV[2] .. ':' .. owner
    redis.call('ZREM', queue, me)
    redis.call('ZREM', places, me)
    if redis.call('EXISTS', lease) == 0 then
      first, kept = wake(lease, queue, places, count(shared), 128)
    end
  end
end
return held and 1 or 0, first, kept -- of which Redis passes on the first
