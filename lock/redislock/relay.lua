-- Releases what one owner has, and asks for the lease for another one of the same
-- process.
--
-- It stands behind wake.lua and the other two scripts, as functions: release and
-- acquire.
--
-- KEYS[1] to KEYS[6]  as for release.lua
-- KEYS[7]             what is KEYS[6] for the owner who asks
-- ARGV[1] to ARGV[5]  as for release.lua
-- ARGV[6] to ARGV[11] ARGV[1] to ARGV[6] of acquire.lua
--
-- Returns  what release.lua does, and then what acquire.lua does, in one list
--
-- Atomic because that is what saves a command for each turn of a process. Each of the
-- two would be right in a step of its own: if the command arrives twice, the second
-- says what the first did, as theirs do.
local held, first, kept = release(KEYS, ARGV)
local me = ARGV[7] .. ':' .. ARGV[6]
-- If it is somebody else's turn, the asker has to wait. acquire would take twice as
-- long to find that out, and those who were woken hear of it when this ends. While an
-- exclusive lease was held there were no others.
local comes = first and held == 1 and ARGV[2] == 'x0' and ARGV[7] == 'x0' and tonumber(ARGV[11]) > 0
if comes and not redis.call('GET', KEYS[7]) and not redis.call('ZSCORE', KEYS[4], me) then
  enter(KEYS[4], KEYS[5], me, ARGV[11])
  return {held, 0, kept, ''}
end
local answer = acquire({KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[7]}, {unpack(ARGV, 6)})
if answer.err then
  return answer
end
return {held, unpack(answer)}
