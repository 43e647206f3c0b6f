-- Ends what an owner has, its lease or its place in the queue, and wakes those
-- whose turn it is now, or gives the first of them the lease: see give.lua.
--
-- KEYS[1]  the lease, see head.lua
-- ARGV[1] to ARGV[3]  as for acquire.lua
-- ARGV[4]  how many tokens at the end of its block the owner did not use; 0 if it is
--          missing
-- ARGV[5]  whom to wake, if not those whose turn it is: in a quorum, where there is no
--          queue, "all" for everybody who listens, with an empty message; and "none"
--          for nobody, where the owner takes back what he was granted by too few
--          servers
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
-- lost would be told that it had lost its lease. So it is noted what became of each
-- owner. A release that found nothing is noted too: the acquire that it follows may be
-- still on its way (see acquire.lua). That of the last owner would not be enough, as
-- others come and go in between.
local family, char, kind = ARGV[1], ARGV[2], ARGV[3]
local owner, exclusive = join(family, char), string.sub(kind, 1, 1) == 'x'
local me = kind .. ':' .. owner

local waiting = not ARGV[5] and state.company and redis.call('EXISTS', queue) == 1
if exclusive and waiting then
  local first, kept = give(ARGV)
  if first then
    return 1, first, kept
  end
end

local _, now = clock()
local ended, held = releasedOf(family)
if exclusive then
  held = holder() == owner
else
  held = tonumber(redis.call('ZSCORE', shared, owner) or 0) > now
  redis.call('ZREM', shared, owner)
end
if not held then -- an owner that has released holds nothing: see acquire.lua
  local came = outcome(ended, char)
  if came then
    return came == '+' and 1 or 0
  end
end
-- This first: a Redis that is full refuses a script whose first write needs memory.
redis.call('ZREM', queue, me)
redis.call('ZREM', places, me)
if exclusive and held then
  state.ends = -now
  -- Or tokens could run ahead of the clock, and go back if the key is lost. While the
  -- lease was held nobody else was given any.
  state.token = state.token - (ARGV[4] or 0)
end
if note(family, char, ended, held and '+' or '-') then
  write()
end

local first, kept -- of those whose turn it is
if ARGV[5] == 'all' then
  if held then
    redis.call('PUBLISH', channel(''), '')
  end
elseif waiting then
  if exclusive and held then
    first, kept = wake(0, 128) -- there were no other leases
  elseif not holder() then
    first, kept = wake(count(), 128)
  end
end
return held and 1 or 0, first, kept -- of which Redis passes on the first
