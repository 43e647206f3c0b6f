-- How a session is stored; this stands in front of every other script here.
--
-- A session is one string: the values, the head, perhaps some bytes of padding, and at
-- the end, in 4 bytes each, how many those are and how many with the head. The head is
-- 'hls2', then
--   d  the current digest, 32 bytes
--   twelve numbers, each a double in 8 bytes, the lowest byte first:
--     n version (commits)   e time of expiry        l time of last commit
--     c time of creation    r since when d is the digest
--     t when authenticated, or 0                    i idle timeout
--     a absolute timeout    s bytes of all names and values
--     x withdrawn until     g end of p's grace      v where the head begins
--   six strings, each behind its length in 4 bytes:
--     p superseded digest   q the first 8 bytes of each of up to 8 before that one
--     h handover to p       o owner                 m meta
--     b withdrawn by whom (see take.lua)
--   count, how many values there are, in 4 bytes; of each the name, behind its length,
--   where in the string the value begins, and its length.
-- All times are the server's, in milliseconds.
--
-- Why one string: Redis hands it over as it is, where it would have to put together a
-- hash of as many fields. Why the head is behind: a value that has grown is written
-- where the head was, and a new head behind it. So a script never has the values in its
-- hands, as long as they are: Lua goes through every byte of a string that it gets.

local HEAD = '<c4c32ddddddddddddI4c0I4c0I4c0I4c0I4c0I4c0I4'

-- get returns the end of what is at key, where in it the head of a session begins and
-- ends, and where the head begins in all of it. It returns false if there is none.
local function get(key)
  local piece = redis.pcall('GETRANGE', key, -512, -1)
  if type(piece) == 'table' then
    if not string.find(piece.err, 'WRONGTYPE', 1, true) then error(piece.err) end
    return false
  end
  if #piece < 8 then return false end
  local padding, length = struct.unpack('<I4I4', piece, #piece - 7)
  if length > #piece - 8 then
    piece = redis.call('GETRANGE', key, -length - 8, -1)
    if #piece ~= length + 8 then return false end
  end
  return piece, #piece - 7 - length, #piece - 8 - padding, redis.call('STRLEN', key) - 8 - length
end

-- read takes apart what get has found, and says where in the piece the names begin. It
-- returns nothing if it is none.
local function read(piece, at, ends, begins)
  local fine, magic, d, n, e, l, c, r, t, i, a, s, x, g, v, p, q, h, o, m, b, count, names =
    pcall(struct.unpack, HEAD, piece, at)
  if not fine or magic ~= 'hls2' or v ~= begins or ends < names - 1 then return end
  local parts = n % 1 + e % 1 + l % 1 + c % 1 + r % 1 + t % 1 + i % 1 + a % 1 + s % 1 + x % 1 + g % 1
  if parts == 0 and math.min(n, e, l, c, r, t, i, a, s, x, g) >= 0 and math.max(n, e, l, c, r, t, i, a, s, x, g) < 2 ^ 53 then
    return d, n, e, l, c, r, t, i, a, s, x, g, v, p, q, h, o, m, b, count, names
  end
end

-- made puts a head together.
local function made(d, n, e, l, c, r, t, i, a, s, x, g, v, p, q, h, o, m, b, count, names)
  return struct.pack(HEAD, 'hls2', d, n, e, l, c, r, t, i, a, s, x, g, v, #p, p, #q, q, #h, h, #o, o, #m, m, #b, b, count) .. names
end

-- ended returns a head as the end of a session, padded to so many bytes if it has less.
-- Behind what is shorter there would be the rest of what was there.
local function ended(head, least)
  local padding = math.max(0, least - #head)
  return head .. string.rep('\0', padding) .. struct.pack('<I4I4', padding, #head + padding)
end

-- index takes the names apart: the k-th one is at 3k - 1, then where its value begins, and
-- how long it is. And it says where the names end.
local function index(piece, names, count)
  local all = {}
  for from = 1, count, 100 do -- Lua takes some thousands at most
    local part = {pcall(struct.unpack, '<' .. string.rep('I4c0I4I4', math.min(100, count - from + 1)), piece, names)}
    if not part[1] then return nil end
    names = table.remove(part)
    if from == 1 then
      all = part
    else
      for k = 2, #part do all[#all + 1] = part[k] end
    end
  end
  return all, names
end

local function clock()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- present returns how long the session at key, of which e and l were read, has left, and
-- the time. Its key ends at e, and has so much left: so the time is known without asking
-- for it. If it has more left than there was at its last commit, or no TTL, somebody else
-- has seen to that. What has less than 0 left is no session. In its last millisecond a
-- key has 0 left and is still there.
local function present(key, e, l)
  local left = redis.call('PTTL', key)
  if left >= 0 and left <= e - l then return left, e - left end
  local now = clock()
  return e - now, now
end

-- places returns, for the session at key, the list of its owner's, nil if there is none, its
-- id, the channel of what has ended, and what the keys of the owner's sessions begin with.
local function places(key, owner)
  local open, close = string.find(key, '{', 1, true), string.find(key, '}', 1, true)
  local base = string.sub(key, 1, close)
  local list = owner ~= '' and base .. 'user:' .. string.sub(owner, 5) or nil
  if list then
    local kind = redis.call('TYPE', list).ok
    if kind ~= 'zset' and kind ~= 'none' then
      redis.call('DEL', list) -- it is in the way of every login of this user
    end
  end
  return list, string.sub(key, open + 1, close - 1) .. string.sub(key, close + 1), string.sub(key, 1, open - 1) .. 'ended', base
end

-- enlist notes in a list of an owner's sessions when the one called id ends.
local function enlist(list, id, now, expires)
  redis.call('ZADD', list, now + expires, id)
  if redis.call('PTTL', list) < expires then redis.call('PEXPIRE', list, expires) end
end

-- here fails while a Cluster moves the slot and may have one of the keys on another server,
-- where a script finds nothing in what is not named in KEYS. A session that is there would
-- be taken for one that has ended, would leave the list, and live. A command with several
-- keys is refused then.
local function here(list, key) redis.call('EXISTS', list, key) end

-- committed is the result of a commit that was made.
local function committed(n, expires, ends, now, before, earlier, evicted)
  local result = struct.pack('<bddddbI4c0', 1, n, expires, ends, now, before, #earlier, earlier)
  for _, id in ipairs(evicted) do result = result .. struct.pack('<I4c0', #id, id) end
  return result
end
