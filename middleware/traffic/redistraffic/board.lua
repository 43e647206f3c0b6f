-- Changes members of a leaderboard, unless it has done so already.
--
-- KEYS[1]  the node, a hash: the part of a batch → the number of the last batch of
--          which that part was added
-- KEYS[2]  the board, a sorted set. The score is a whole number, the score of the
--          member, and a fraction: the member's admission, in 4096ths
-- KEYS[3]  how often members were forgotten, if ever
-- ARGV     part, number of the batch, time to live of the node in ms, that of the
--          board, how many members are kept at least; then for each member: name, what
--          to add, all that the node has of it, the admission that the node knows or 0,
--          1 if it may be admitted
-- Result   {seconds, microseconds, trims, admission or 0, …}: the server's clock, how
--          often members were forgotten, and for each member its admission now
--
-- What a node has sent of a member is gone when the member gives way to others. The
-- admission tells: if it is another one than the node knows, all that the node has of
-- it is added, and not only what is new. Node A: m, 5. The set is full, m goes. Node B
-- admits m with what it has, 7. Node A comes with 1 more: it has another admission, so
-- it adds its 6, and m has 13.
--
-- Why one script: with the number of the batch apart from the scores, one that comes
-- again would count twice; and between the look at an admission and the addition
-- another node could admit the member anew.

local part, seq, capacity = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[5])
local now = redis.call('TIME')
local again = (tonumber(redis.call('HGET', KEYS[1], part)) or 0) >= seq

-- Before anything is written: Redis does not take back what a script has done before
-- its error.
local trims = tonumber(redis.call('GET', KEYS[3]) or 0) or 0

local members = {}
for i = 6, #ARGV, 5 do members[#members + 1] = ARGV[i] end
local scores = redis.call('ZMSCORE', KEYS[2], unpack(members))

local function admission(score)
  score = tonumber(score)
  return math.floor((score - math.floor(score)) * 4096 + 0.5)
end

-- Scores end at 2^40. The fraction is added last: from 2^41 on there are no 4096ths, and
-- what is rounded is another admission, or none.
local function add(score, n)
  local whole = math.floor(score)
  return math.max(-2^40, math.min(2^40, whole + n)) + (score - whole)
end

if not again then
  local fresh = (tonumber(now[1]) % 4095 * 1000000 + tonumber(now[2])) % 4095 + 1
  local change = {}
  for i, member in ipairs(members) do
    local at = 6 + (i - 1) * 5
    local delta, total, known, candidate = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), ARGV[at + 4] == '1'
    local score = scores[i]
    if score and admission(score) == known then
      score = add(tonumber(score), delta)
    elseif score then
      score = add(tonumber(score), total)
    elseif candidate then
      score = add(fresh / 4096, total)
    end
    if score then
      change[#change + 1] = string.format('%.17g', score)
      change[#change + 1] = member
    end
  end
  if #change > 0 then
    redis.call('ZADD', KEYS[2], unpack(change))
    redis.call('PEXPIRE', KEYS[2], ARGV[4])
    if redis.call('ZCARD', KEYS[2]) > capacity + math.ceil(capacity / 2) then
      redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -capacity - 1)
      trims = trims + 1
      redis.call('SET', KEYS[3], string.format('%d', trims), 'PX', ARGV[4])
    end
  end
  redis.call('HSET', KEYS[1], part, ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  scores = redis.call('ZMSCORE', KEYS[2], unpack(members))
end

local result = { tonumber(now[1]), tonumber(now[2]), trims }
for i in ipairs(members) do result[i + 3] = scores[i] and admission(scores[i]) or 0 end
return result
