-- Commits one change to one session, whole or not at all.
--
-- KEYS[1]  the session, <prefix>{<place>}<rest of the id>, a hash:
--          d current digest        r when it became so
--          p superseded digest     g end of its grace      h handover to its holder
--          q the first 8 bytes of each of up to 8 digests before that one
--          o owner                 m meta                  t when authenticated
--          n version (commits)     c time of creation      l time of the last commit
--          i idle timeout          a absolute timeout      e time of expiry
--          x withdrawn until       b by whom (see take.lua)
--          s bytes of all names and values                 v<name> a value
--          All times are the server's, in milliseconds.
-- ARGV[1]  the digest that the request was authenticated with (with C: the new
--          session's first)
--          and then any number of operations:
--          C                 create the session    O <owner>  of this owner
--          N <max> <0|1>     of so many of its; 1 ends the oldest if there are more
--          F <name> <0|1> <value>  only if the value is this (1), or is not there (0)
--          S <name> <value>  set a value           D <name>   delete one
--          T <meta>          set the meta          X          authenticated now
--          R <digest> <grace ms> <handover> <0|1>  rotate; 1: only from the current digest
--          I <ms>            set idle timeout      A <ms>     set absolute timeout
--          M <bytes>         refuse beyond so many bytes of names and values
--          L <ms>            do nothing if there is so much time left or more
-- Result   {1, version, ms until expiry, ms until the absolute end, now,
--           handover of an earlier rotation or '', whether there was one (0|1), {ids evicted}}
--          {2} gone   {3} exists   {4} too large   {6} too many of the owner
--          {5, {name, 0|1, value, ...}} conflict: nothing was written
--
-- Besides KEYS[1] it uses, in the same slot, the owner's index,
-- <prefix>{<place>}user:<rest of the owner>, a sorted set of the ids by their
-- expiry, and of sessions that are evicted the keys that the index names. Of every
-- session that ends it tells in the channel <prefix>ended.
--
-- Why one script: with a read, a decision and a write apart, this happens:
--   request A reads the session; request B logs out, the key is deleted;
--   A writes its value: HSET makes a new key. The logout is undone.
-- And this: A and B read the same session, each writes back the whole of it, and
-- the value of the slower overwrites the other's. Here only the fields that
-- changed are written, under the same check as everything else.
-- And this: a session is created; the user revokes all; the index gets the
-- session. It lives, and no list shows it, or the list shows it, and it does not.

local key, digest = KEYS[1], ARGV[1]
local open, close = string.find(key, '{', 1, true), string.find(key, '}', 1, true)
local base, channel = string.sub(key, 1, close), string.sub(key, 1, open - 1) .. 'ended'
local id = string.sub(key, open + 1, close - 1) .. string.sub(key, close + 1)
local GONE, EXISTS, TOO_LARGE, TOO_MANY = {2}, {3}, {4}, {6}

local create, owner, most, evict, meta, authenticated, rotate, grace, handover, once, newIdle, newAbsolute, max, low
local set, del, conditions = {}, {}, {}
local i = 2
while i <= #ARGV do
  local op, arg = ARGV[i], ARGV[i + 1]
  i = i + 2
  if op == 'C' then create = true; i = i - 1
  elseif op == 'O' then owner = arg
  elseif op == 'N' then most, evict = tonumber(arg), ARGV[i] == '1'; i = i + 1
  elseif op == 'F' then conditions[arg] = ARGV[i] == '1' and ARGV[i + 1]; i = i + 2
  elseif op == 'S' then set['v' .. arg] = ARGV[i]; i = i + 1
  elseif op == 'D' then del['v' .. arg] = true
  elseif op == 'T' then meta = arg
  elseif op == 'X' then authenticated = true; i = i - 1
  elseif op == 'R' then
    rotate, grace, handover, once = arg, tonumber(ARGV[i]), ARGV[i + 1], ARGV[i + 2] == '1'
    i = i + 3
  elseif op == 'I' then newIdle = tonumber(arg)
  elseif op == 'A' then newAbsolute = tonumber(arg)
  elseif op == 'M' then max = tonumber(arg)
  elseif op == 'L' then low = tonumber(arg)
  else return redis.error_reply('ERR unknown operation ' .. op) end
end

-- A number as this script writes it, or nil.
local function number(s)
  return s and #s <= 16 and string.match(s, '^%d+$') and tonumber(s) or nil
end

-- Numbers are whole and below 2^53, so that Redis takes them as they are: it spells
-- them without an exponent.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local d, p, g, n, c, size, x
local idle, absolute = newIdle, newAbsolute
local fields = redis.pcall('HMGET', key, 'd', 'p', 'g', 'n', 'c', 'i', 'a', 's', 'e', 'o', 'x')
if fields.err then
  if not string.find(fields.err, 'WRONGTYPE', 1, true) then return fields end
  return create and EXISTS or GONE
end
d, p, x = fields[1], fields[2], number(fields[11])
local fresh = create and d ~= digest
if fresh then
  if redis.call('EXISTS', key) == 1 then return EXISTS end
  d, p, n, c, size = digest, false, 0, now, 0
else
  g, n, c, size, owner = number(fields[3]), number(fields[4]), number(fields[5]), number(fields[8]), fields[10]
  idle, absolute = newIdle or number(fields[6]), newAbsolute or number(fields[7])
  -- A rotation whose answer was lost arrives again with the old digest.
  local accepted = d and (d == digest or rotate == d or (p == digest and g and now < g))
  -- Without a TTL, or with metadata that this script did not write, it is no
  -- session. In its last millisecond a key has 0 left and is still there.
  local left = redis.call('PTTL', key)
  if not accepted or not (n and c and idle and absolute and size and number(fields[9]))
    or x and now < x or left < 0 then
    return GONE
  end
  if low and left >= low then return {1, n, left, math.max(left, c + absolute - now), now, '', 0, {}} end
end

local conflict, values = false, {}
for name, want in pairs(conditions) do
  local got = redis.call('HGET', key, 'v' .. name)
  values[#values + 1] = name
  values[#values + 1] = got and 1 or 0
  values[#values + 1] = got or ''
  -- What is there already as it would be set, was set by the same command when
  -- it came the first time.
  if got ~= want and not (got and got == set['v' .. name]) then conflict = true end
end
if conflict then return {5, values} end

local function stored(field)
  local length = redis.call('HSTRLEN', key, field)
  if length == 0 and redis.call('HEXISTS', key, field) == 0 then return 0 end
  return #field - 1 + length
end
for field, value in pairs(set) do size = size - stored(field) + #field - 1 + #value end
for field in pairs(del) do size = size - stored(field) end
if max and size > max then return TOO_LARGE end

local index = owner and base .. 'user:' .. string.sub(owner, 5)
local kind = index and redis.call('TYPE', index).ok
if index and kind ~= 'zset' and kind ~= 'none' then
  redis.call('DEL', index) -- it is in the way of every login of this user
end
local evicted = {}
if fresh and index then
  redis.call('ZREMRANGEBYSCORE', index, '-inf', now)
  if most and redis.call('ZCARD', index) >= most then
    local began = {}
    for _, other in ipairs(redis.call('ZRANGE', index, 0, -1)) do
      local created = redis.pcall('HGET', base .. string.sub(other, 5), 'c')
      created = type(created) == 'string' and number(created) -- not an error, if it is of another type
      if created then
        began[#began + 1] = {other, created}
      else
        redis.call('ZREM', index, other)
      end
    end
    if #began >= most and not evict then return TOO_MANY end
    table.sort(began, function(a, b) return a[2] < b[2] or a[2] == b[2] and a[1] < b[1] end)
    for k = 1, #began + 1 - most do evicted[k] = began[k][1] end
  end
end

n = n + 1
local ends = c + absolute - now
local expires = math.min(idle, ends)
if expires <= 0 then
  redis.call('DEL', key)
  if index then redis.call('ZREM', index, id) end
  redis.call('PUBLISH', channel, id)
  return {1, n, 0, 0, now, '', 0, evicted}
end

-- HSET comes first: of the commands below it and ZADD alone are refused when
-- Redis is out of memory, and then nothing is written.
local write = {
  'n', n, 's', size, 'e', now + expires, 'l', now,
}
local function put(field, value)
  if #write >= 1000 then -- Lua unpacks some thousands at most
    redis.call('HSET', key, unpack(write))
    write = {}
  end
  write[#write + 1] = field
  write[#write + 1] = value
end
if newIdle then put('i', idle) end
if newAbsolute then put('a', absolute) end
if fresh then
  put('c', c)
  put('d', d)
  put('r', now)
  if owner then put('o', owner) end
end
local drop, earlier, before = {}, '', 0
if rotate and rotate ~= d then
  if once and d ~= digest then
    earlier, before = redis.call('HGET', key, 'h') or '', 1
  else
    put('d', rotate)
    put('r', now)
    if grace > 0 then
      if p and g and now >= g then
        -- The one before, if nobody has come with it since its grace was over.
        put('q', string.sub(string.sub(p, 1, 8) .. (redis.call('HGET', key, 'q') or ''), 1, 64))
      end
      put('p', d)
      put('g', now + grace)
      put('h', handover)
    else
      drop = {'p', 'g', 'h'}
    end
  end
end
if meta then put('m', meta) end
if authenticated then put('t', now) end
for field, value in pairs(set) do put(field, value) end
redis.call('HSET', key, unpack(write))
for field in pairs(del) do redis.call('HDEL', key, field) end
if #drop > 0 then redis.call('HDEL', key, unpack(drop)) end
redis.call('PEXPIRE', key, expires)
for _, other in ipairs(evicted) do
  redis.call('DEL', base .. string.sub(other, 5))
  redis.call('ZREM', index, other)
  redis.call('PUBLISH', channel, other)
end
if index then
  redis.call('ZADD', index, now + expires, id)
  if redis.call('PTTL', index) < expires then redis.call('PEXPIRE', index, expires) end
end
return {1, n, expires, ends, now, earlier, before, evicted}
