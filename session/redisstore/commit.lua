-- Commits one change to one session, whole or not at all.
--
-- KEYS[1]  the session, a hash:
--          d current digest        p superseded digest     g end of its grace
--          u user                  n version (commits)     c time of creation
--          i idle timeout          a absolute timeout      e time of expiry
--          s bytes of all names and values                 v<name> a value
--          All times are the server's, in milliseconds.
-- ARGV[1]  the digest that the request was authenticated with (with C: the new
--          session's first), then any number of operations:
--          C                 create the session
--          S <name> <value>  set a value          D <name>   delete one
--          U <user>          set the user         R <digest> <grace ms>  rotate
--          I <ms>            set idle timeout     A <ms>     set absolute timeout
--          M <bytes>         refuse beyond so many bytes of names and values
-- Result   {1, version, ms until expiry, ms until the absolute end}
--          {2} gone   {3} exists   {4} too large: nothing was written
--
-- Why one script: with a read, a decision and a write apart, this happens:
--   request A reads the session; request B logs out, the key is deleted;
--   A writes its value: HSET makes a new key. The logout is undone.
-- And this: A and B read the same session, each writes back the whole of it, and
-- the value of the slower overwrites the other's. Here only the fields that
-- changed are written, under the same check as everything else.

local key, digest = KEYS[1], ARGV[1]
local GONE, EXISTS, TOO_LARGE = {2}, {3}, {4}

local create, user, rotate, grace, idle, absolute, max
local set, del = {}, {}
local i = 2
while i <= #ARGV do
  local op, arg = ARGV[i], ARGV[i + 1]
  i = i + 2
  if op == 'C' then create = true; i = i - 1
  elseif op == 'S' then set['v' .. arg] = ARGV[i]; i = i + 1
  elseif op == 'D' then del['v' .. arg] = true
  elseif op == 'U' then user = arg
  elseif op == 'R' then rotate, grace = arg, tonumber(ARGV[i]); i = i + 1
  elseif op == 'I' then idle = tonumber(arg)
  elseif op == 'A' then absolute = tonumber(arg)
  elseif op == 'M' then max = tonumber(arg)
  else return redis.error_reply('ERR unknown operation ' .. op) end
end

-- A number as this script writes it, or nil.
local function number(s)
  return s and #s <= 16 and string.match(s, '^%d+$') and tonumber(s) or nil
end

local function text(n) return string.format('%.0f', n) end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local d, p, g, n, c, size
local fields = redis.pcall('HMGET', key, 'd', 'p', 'g', 'n', 'c', 'i', 'a', 's', 'e')
if fields.err then
  if not string.find(fields.err, 'WRONGTYPE', 1, true) then return fields end
  return create and EXISTS or GONE
end
d, p = fields[1], fields[2]
if create and d ~= digest then
  if redis.call('EXISTS', key) == 1 then return EXISTS end
  d, p, n, c, size = digest, false, 0, now, 0
else
  g, n, c, size = number(fields[3]), number(fields[4]), number(fields[5]), number(fields[8])
  idle, absolute = idle or number(fields[6]), absolute or number(fields[7])
  -- A rotation whose answer was lost arrives again with the old digest.
  local accepted = d and (d == digest or rotate == d or (p == digest and g and now < g))
  -- Without a TTL, or with metadata that this script did not write, it is no
  -- session. In its last millisecond a key has 0 left and is still there.
  if not accepted or not (n and c and idle and absolute and size and number(fields[9]))
    or redis.call('PTTL', key) < 0 then
    return GONE
  end
end

local function stored(field)
  local length = redis.call('HSTRLEN', key, field)
  if length == 0 and redis.call('HEXISTS', key, field) == 0 then return 0 end
  return #field - 1 + length
end
for field, value in pairs(set) do size = size - stored(field) + #field - 1 + #value end
for field in pairs(del) do size = size - stored(field) end
if max and size > max then return TOO_LARGE end

n = n + 1
local ends = c + absolute - now
local expires = math.min(idle, ends)
if expires <= 0 then
  redis.call('DEL', key)
  return {1, n, 0, 0}
end

-- HSET comes first: of the commands below it alone is refused when Redis is out
-- of memory, and then nothing is written.
local write = {
  'n', text(n), 's', text(size), 'e', text(now + expires), 'i', text(idle), 'a', text(absolute),
}
local function put(field, value)
  write[#write + 1] = field
  write[#write + 1] = value
end
if create then
  put('c', text(c))
  put('d', d)
end
if rotate and rotate ~= d then
  put('p', d)
  put('g', text(now + grace))
  put('d', rotate)
end
if user then put('u', user) end
redis.call('HSET', key, unpack(write))
for field, value in pairs(set) do redis.call('HSET', key, field, value) end
for field in pairs(del) do redis.call('HDEL', key, field) end
redis.call('PEXPIRE', key, text(expires))
return {1, n, expires, ends}
