-- Tells whether there is a session.
--
-- KEYS[1]  the session
-- Result   1 if there is one that is not withdrawn
--
-- Why a script: a command that only reads may go to a replica, which does not have
-- a new session yet, and still has one that was ended.

local piece, at, ends, begins = get(KEYS[1])
if not piece then return 0 end
local d, _, e, _, _, _, _, _, _, _, x = read(piece, at, ends, begins)
local now = d and clock()
return d and now <= e and now >= x and 1 or 0
