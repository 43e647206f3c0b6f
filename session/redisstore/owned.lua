-- Lists the sessions of an owner, or ends some of them.
--
-- KEYS[1]  the owner's index, <prefix>{<place>}user:<rest>, a sorted set (see
--          commit.lua)
-- ARGV[1]  L to list, R to revoke
-- ARGV[2]  with R: the id of the one to end, or '' for all but
-- ARGV[3]  with R: this one, which must be alive, or '' for all
-- Result   L: {{id, ms until it ends, c, t, l, m}, ...}   R: {ids that were ended}, or
--          nothing, and then none was, if the one of ARGV[3] is not alive
--
-- Besides KEYS[1] it uses the keys of the sessions that the index names, and of that of
-- ARGV[3], which are in the same slot. Of every session that ends it tells in the
-- channel <prefix>ended.
--
-- Why one script: a login that falls between reading the list and ending what is
-- in it would be missed, though it came before the end. And this:
--   a thief's request reads its session; the owner ends all others, and the thief's
--   with them; the thief's request ends all others, and the owner is out.
-- Whether it is alive is read from the session, not from the index, which may have been
-- lost.

local index, doing, only, except = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local prefix, place, owner = string.match(index, '^(.*){(.*)}user:(.*)$')
local base, channel = prefix .. '{' .. place .. '}', prefix .. 'ended'
local now = clock()
if except and except ~= '' then
  local key = base .. string.sub(except, 5)
  local piece, at, ends, begins = get(key)
  if not piece then here(index, key) end
  local d, _, e, x, o
  if piece then d, _, e, _, _, _, _, _, _, _, x, _, _, _, _, _, o = read(piece, at, ends, begins) end
  if not d or e < now or now < x or o ~= place .. owner or string.sub(except, 1, 4) ~= place then return false end
end
redis.call('ZREMRANGEBYSCORE', index, '-inf', string.format('%.0f', now))

local ids
if only and only ~= '' then
  ids = redis.call('ZSCORE', index, only) and {only} or {}
else
  ids = redis.call('ZRANGE', index, 0, -1)
end
local result = {}
for _, id in ipairs(ids) do
  local key = base .. string.sub(id, 5)
  local piece, at, ends, begins = get(key)
  local d, e, l, c, t, m
  if piece then d, _, e, l, c, _, t, _, _, _, _, _, _, _, _, _, _, m = read(piece, at, ends, begins) end
  if not d or e < now then
    here(index, key)
    redis.call('ZREM', index, id)
  elseif doing == 'L' then
    result[#result + 1] = {id, e - now, c, t, l, m}
  elseif only ~= '' or except ~= id then
    redis.call('DEL', key)
    redis.call('ZREM', index, id)
    redis.call('PUBLISH', channel, id)
    result[#result + 1] = id
  end
end
return result
