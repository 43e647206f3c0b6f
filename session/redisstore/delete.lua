-- Ends a session.
--
-- KEYS[1]  the session
-- Result   1 if there was one
--
-- Besides KEYS[1] it uses the owner's index, which is in the same slot, and tells
-- of the end in the channel <prefix>ended.
--
-- Why one script: between two steps the session would be gone and still in the
-- list, or live and not in it.

local key = KEYS[1]
local prefix, place, rest = string.match(key, '^(.*){(.*)}(.*)$')
local id = place .. rest
local piece, at, ends, begins = get(key)
local owner = piece and select(17, read(piece, at, ends, begins)) or ''
local there = redis.call('DEL', key)
if owner ~= '' then
  redis.pcall('ZREM', prefix .. '{' .. place .. '}user:' .. string.sub(owner, 5), id)
end
redis.call('PUBLISH', prefix .. 'ended', id)
return there
