-- Releases what one owner has, and asks for the lease for another one of the same
-- process.
--
-- It stands behind wake.lua, give.lua and the other two scripts, as functions: release
-- and acquire.
--
-- KEYS[1] to KEYS[6]  as for release.lua
-- KEYS[7]             what is KEYS[6] for the owner who asks
-- ARGV[1] to ARGV[6]  as for release.lua
-- ARGV[7] to ARGV[12] ARGV[1] to ARGV[6] of acquire.lua
--
-- Returns  what release.lua does, and then what acquire.lua does, in one list
--
-- Atomic because that is what saves a command for each turn of a process. Each of the
-- two would be right in a step of its own: if the command arrives twice, the second
-- says what the first did, as theirs do.
local held, first, kept = release(KEYS, ARGV)
local me = ARGV[8] .. ':' .. ARGV[7]
-- If it is somebody else's turn, the asker has to wait. acquire would take twice as
-- long to find that out, and those who were woken hear of it when this ends. While an
-- exclusive lease was held there were no others.
local comes = first and first ~= me and held == 1 and string.sub(ARGV[2], 1, 1) == 'x' and string.sub(ARGV[8], 1, 1) == 'x'
if comes and tonumber(ARGV[12]) > 0 and not redis.call('GET', KEYS[7]) then
  return {held, 0, kept, '', enter(KEYS[4], KEYS[5], me, ARGV[12])}
end
local answer = acquire({KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[7]}, {unpack(ARGV, 7)})
if answer.err then
  return answer
end
return {held, unpack(answer)}
