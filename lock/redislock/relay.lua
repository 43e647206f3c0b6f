-- Releases what one owner has, and asks for the lease for another one of the same
-- process.
--
-- It stands behind give.lua and the other two scripts, as functions: release and
-- acquire.
--
-- KEYS[1]             the lease, see head.lua
-- ARGV[1] to ARGV[4]  as for release.lua
-- ARGV[5] to ARGV[10] ARGV[1] to ARGV[6] of acquire.lua
--
-- Returns  {what release.lua does, what acquire.lua does}
--
-- Atomic because that is what saves a command for each turn of a process. Each of the
-- two would be right in a step of its own: if the command arrives twice, the second
-- says what the first did, as theirs do.
asker = ARGV[7] .. ':' .. join(ARGV[5], ARGV[6])
local held, first, kept = release({unpack(ARGV, 1, 4)})
-- If it is somebody else's turn, the asker has to wait. acquire would take twice as
-- long to find that out, and those who were woken hear of it when this ends. While an
-- exclusive lease was held there were no others.
local comes = first and first ~= asker and held == 1 and string.sub(ARGV[3], 1, 1) == 'x' and string.sub(ARGV[7], 1, 1) == 'x'
if comes and tonumber(ARGV[10]) > 0 and not outcome(releasedOf(ARGV[5]), ARGV[6]) then
  return {held, {kept, '', enter(asker, ARGV[10])}}
end
return {held, acquire({unpack(ARGV, 5)})}
