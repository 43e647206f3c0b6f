-- Begins a fill, unless there is an entry already or the filler is overtaken.
--
-- KEYS[1]  the entry
-- KEYS[2]  the fill: the token of the one begun last that has not ended
-- ARGV[1]  the token
-- ARGV[2]  milliseconds after which the fill is forgotten
-- ARGV[3]  "1" if ARGV[4] says what may be replaced, "0" if nothing may
-- ARGV[4]  the version (state and checksum) of the bytes that may be, because
--          they were looked at and are not fresh, or because the caller says so
--
-- Returns {1} begun, {2, bytes, milliseconds left} something else is there, and
-- the caller decides what it is, {3} overtaken.
--
-- One step, because between looking and announcing another one could fill, and
-- its entry would be computed a second time; and because of two that announce,
-- the larger token must win in whatever order they come. A client that repeats
-- the command, because the reply was lost, begins the same fill again.
local entry = redis.pcall('GET', KEYS[1]) -- pcall: it may hold another type
if type(entry) == 'string' and (ARGV[3] == '0' or string.sub(entry, 5, 9) ~= ARGV[4]) then
  return {2, entry, redis.call('PTTL', KEYS[1])}
end

local begun = redis.pcall('GET', KEYS[2])
if type(begun) == 'string' then
  -- Tokens have no leading zeros, so the longer one is the larger, and of two
  -- of equal length the one that sorts later: exact beyond 2^53, where Lua's
  -- numbers are not.
  if #begun > #ARGV[1] or (#begun == #ARGV[1] and begun > ARGV[1]) then
    return {3}
  end
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return {1}
