-- Ends what an owner has, its lease or its place in the queue, and wakes those
-- whose turn it is now.
--
-- KEYS     as for acquire.lua
-- ARGV[1]  owner
-- ARGV[2]  "x" for a lease that excludes all others, "s" for a shared one
-- ARGV[3]  how many shared leases there may be at a time; 0 for any number
-- ARGV[4]  TTL of the fence in milliseconds, so that it knows a late command of
--          this owner
-- ARGV[5]  the channel on which to wake them, with the owner as the message
-- ARGV[6]  whom to wake: "turn" for those whose turn it is. In a quorum, where
--          there is no queue, "all" for everybody who listens, with an empty
--          message; and "none" for nobody, where the owner takes back what he was
--          granted by too few servers, and will ask again
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
-- lost would be told that it had lost its lease. So the fence keeps the outcome,
-- also that of a release which found nothing: the acquire that it follows may be
-- still on its way (see acquire.lua).
local lease, fence, shared, queue, places = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local owner, kind = ARGV[1], ARGV[2]

local record = redis.call('GET', fence) or '0'
local last, outcome, ended = string.match(record, '^(%d+) ?([+-]?)(.*)$')
if not last then
  return redis.error_reply('ERR the key of the fence has something else in it: somebody else writes under this prefix')
end
if outcome ~= '' and ended == owner then
  return outcome == '+' and 1 or 0
end

local now -- in ms, read where it is needed
local function clock()
  if not now then
    local time = redis.call('TIME')
    now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  end
  return now
end

local held
if kind == 'x' then
  held = redis.call('GET', lease) == owner
  if held then
    redis.call('DEL', lease)
  end
else
  held = tonumber(redis.call('ZSCORE', shared, owner) or 0) > clock()
  redis.call('ZREM', shared, owner)
end
if ARGV[6] ~= 'none' then
  redis.call('SET', fence, last .. ' ' .. (held and '+' or '-') .. owner, 'PX', ARGV[4])
end

if ARGV[6] == 'all' then
  if held then
    redis.call('PUBLISH', ARGV[5], '')
  end
elseif ARGV[6] == 'turn' and redis.call('EXISTS', queue) == 1 then
  local me = kind .. ARGV[3] .. ':' .. owner
  redis.call('ZREM', queue, me)
  redis.call('ZREM', places, me)
  if redis.call('EXISTS', lease) == 0 then
    -- From the front, as many as there is room for. 128 bounds the work; who
    -- comes after them asks by itself before long.
    local sharing = redis.call('ZCOUNT', shared, '(' .. clock(), '+inf')
    for _, member in ipairs(redis.call('ZRANGE', queue, 0, 127)) do
      local kind, limit, owner = string.match(member, '^([xs])(%d+):(.*)$')
      if tonumber(redis.call('ZSCORE', places, member) or 0) <= clock() then
        redis.call('ZREM', queue, member) -- dead
        redis.call('ZREM', places, member)
      elseif kind == 'x' and sharing > 0 or kind == 's' and tonumber(limit) > 0 and sharing >= tonumber(limit) then
        break
      else
        redis.call('PUBLISH', ARGV[5], owner)
        sharing = sharing + 1
        if kind == 'x' then
          break
        end
      end
    end
  end
end
return held and 1 or 0
