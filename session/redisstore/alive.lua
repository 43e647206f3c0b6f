-- Tells whether there is a session.
--
-- KEYS[1]  the session, a hash (see commit.lua)
-- Result   1 if there is one that is not withdrawn
--
-- Why a script: a command that only reads may go to a replica, which does not have
-- a new session yet, and still has one that was ended.

local f = redis.pcall('HMGET', KEYS[1], 'e', 'x')
if f.err or not f[1] then return 0 end
local x = f[2]
if not x then return 1 end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
return now < (string.match(x, '^%d+$') and tonumber(x) or 0) and 0 or 1
