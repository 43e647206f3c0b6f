-- Tells whether there is a session.
--
-- KEYS[1]  the session, a hash (see commit.lua)
-- Result   1 if there is one that is not withdrawn
--
-- Why a script: a command that only reads may go to a replica, which does not have
-- a new session yet, and still has one that was ended.

local x = redis.pcall('HGET', KEYS[1], 'x')
if type(x) == 'table' or redis.call('PTTL', KEYS[1]) < 0 then return 0 end
if not x then return 1 end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
return now < (string.match(x, '^%d+$') and tonumber(x) or 0) and 0 or 1
