-- Returns a member of a leaderboard with its neighbours.
--
-- KEYS[1]  the board, a sorted set
-- ARGV     the member, how many before and after it
-- Result   {rank of the first one, from 0, member, score, …}, or {} if it is not there
--
-- Why one script: between the rank and the range the member could move.

local rank = redis.call('ZREVRANK', KEYS[1], ARGV[1])
if not rank then return {} end
local n = tonumber(ARGV[2])
local from = math.max(0, rank - n)
local list = redis.call('ZREVRANGE', KEYS[1], from, rank + n, 'WITHSCORES')
table.insert(list, 1, from)
return list
