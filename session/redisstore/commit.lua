-- Commits one change to one session, whole or not at all.
--
-- KEYS[1]  the session, <prefix>{<place>}<rest of the id>
-- ARGV[1]  the digest that the request was authenticated with (with C: the new
--          session's first), and in 4 bytes more than how many bytes of names and
--          values are refused, 0 if none; then any number of operations:
--          C                 create the session    O <owner>  of this owner
--          N <max> <0|1>     of so many of its; 1 ends the oldest if there are more
--          F <name> <0|1> <value>  only if the value is this (1), or is not there (0)
--          S <name> <value>  set a value; those that are new or of another length come to
--                            lie in this order     D <name>   delete one
--          T <meta>          set the meta          X          authenticated now
--          R <digest> <grace ms> <handover> <0|1>  rotate; 1: only from the current digest
--          I <ms>            set idle timeout      A <ms>     set absolute timeout
--          L <ms>            do nothing if there is so much time left or more
-- Result   a string, numbers and texts in it as in a session; the first byte is
--          1 committed: version, ms until expiry, ms until the absolute end, now;
--            0 or 1 whether an earlier rotation was in the way, and the handover of it;
--            and the ids that were evicted
--          2 gone   3 exists   4 too large   6 too many of the owner
--          5 conflict, nothing was written: of each value its name, 0 or 1 whether it is
--            there, and what it is
--
-- Besides KEYS[1] it uses, in the same slot, the owner's index,
-- <prefix>{<place>}user:<rest of the owner>, a sorted set of the ids by their
-- expiry, and of sessions that are evicted the keys that the index names. Of every
-- session that ends it tells in the channel <prefix>ended.
--
-- Why one script: with a read, a decision and a write apart, this happens:
--   request A reads the session; request B logs out, the key is deleted;
--   A writes its value: SET makes a new key. The logout is undone.
-- And this: A and B read the same session, each writes back the whole of it, and
-- the value of the slower overwrites the other's. Here only the values that
-- changed are replaced in what is there, under the same check as everything else.
-- And this: a session is created; the user revokes all; the index gets the
-- session. It lives, and no list shows it, or the list shows it, and it does not.

local key, digest, max = KEYS[1], struct.unpack('<c32I4', ARGV[1])
local GONE, EXISTS, TOO_LARGE, TOO_MANY = '\2', '\3', '\4', '\6'

local create, owner, most, evict, meta, authenticated, rotate, grace, handover, once, newIdle, newAbsolute, low
local set, order, del, conditions, named = {}, {}, {}, {}, false
local at = 2
while at <= #ARGV do
  local op, arg = ARGV[at], ARGV[at + 1]
  at = at + 2
  if op == 'S' then set[arg], order[#order + 1], named = ARGV[at], arg, true; at = at + 1
  elseif op == 'D' then del[arg], named = true, true
  elseif op == 'F' then conditions[arg], named = ARGV[at] == '1' and ARGV[at + 1], true; at = at + 2
  elseif op == 'C' then create = true; at = at - 1
  elseif op == 'O' then owner = arg
  elseif op == 'N' then most, evict = tonumber(arg), ARGV[at] == '1'; at = at + 1
  elseif op == 'T' then meta = arg
  elseif op == 'X' then authenticated = true; at = at - 1
  elseif op == 'R' then
    rotate, grace, handover, once = arg, tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 2] == '1'
    at = at + 3
  elseif op == 'I' then newIdle = tonumber(arg)
  elseif op == 'A' then newAbsolute = tonumber(arg)
  elseif op == 'L' then low = tonumber(arg)
  else return redis.error_reply('ERR unknown operation ' .. op) end
end

local piece, from, ends, begins = get(key)
local d, n, e, l, c, r, t, i, a, s, x, g, v, p, q, h, o, m, b, count, names
if piece then d, n, e, l, c, r, t, i, a, s, x, g, v, p, q, h, o, m, b, count, names = read(piece, from, ends, begins) end
local fresh, now = create and d ~= digest, nil
if fresh then
  if redis.call('EXISTS', key) == 1 then return EXISTS end
  now = clock()
  d, n, e, l, c, r, t, i, a, s, x, g, v = digest, 0, 0, 0, now, now, 0, 0, 0, 0, 0, 0, 0
  p, q, h, o, m, b, count, names = '', '', '', owner or '', '', '', 0, 1
  piece, from, ends = '', 1, 0
else
  if not d then return GONE end
  local left
  left, now = present(key, e, l)
  -- A rotation whose answer was lost arrives again with the old digest.
  local accepted = left >= 0 and (d == digest or rotate == d or (p == digest and now < g))
  if not accepted or now < x then return GONE end
  x, b = 0, '' -- what was withdrawn is back
  if low and left >= low then return committed(n, left, math.max(left, c + a - now), now, 0, '', {}) end
end

-- The values: one of the same length is written over the one before, others where the
-- head is now.
local entries, over, added, last = string.sub(piece, names, ends), {}, {}, v
local live = v -- how many bytes of them are values still; all, as far as we know
if named then
  local all, behind = index(piece, names, count)
  if not all or behind ~= ends + 1 then return GONE end
  local kept, found, conflict = {}, {}, false
  local nameAt, keptFrom = names, names
  live = 0
  for k = 1, count do
    local name, at, length = all[3 * k - 1], all[3 * k], all[3 * k + 1]
    local nameEnds = nameAt + 12 + #name
    local want, value = conditions[name], set[name]
    if at + length > v then return GONE end
    if want ~= nil then
      local got = length > 0 and redis.call('GETRANGE', key, at, at + length - 1) or ''
      conditions[name] = nil
      found[#found + 1] = struct.pack('<I4c0bI4c0', #name, name, 1, #got, got)
      -- What is there already as it would be set, was set by the same command when
      -- it came the first time.
      if got ~= want and got ~= value then conflict = true end
    end
    live = live + length
    if value and #value == length then
      over[#over + 1], over[#over + 2] = at, value
      set[name] = nil
    elseif value or del[name] then
      kept[#kept + 1] = string.sub(piece, keptFrom, nameAt - 1)
      keptFrom = nameEnds
      s, count, live = s - #name - length, count - 1, live - length
    end
    nameAt = nameEnds
  end
  for name, want in pairs(conditions) do
    found[#found + 1] = struct.pack('<I4c0bI4', #name, name, 0, 0)
    if want then conflict = true end
  end
  if conflict then return '\5' .. table.concat(found) end
  kept[#kept + 1] = string.sub(piece, keptFrom, behind - 1)
  for _, name in ipairs(order) do
    local value = set[name]
    if value then
      kept[#kept + 1] = struct.pack('<I4c0I4I4', #name, name, last, #value)
      added[#added + 1] = value
      s, count, live, last = s + #name + #value, count + 1, live + #value, last + #value
    end
  end
  entries = table.concat(kept)
end
if max > 0 and s > max then return TOO_LARGE end

local list, id, channel, base
if o ~= '' then list, id, channel, base = places(key, o) end
local evicted = {}
if fresh and list then
  redis.call('ZREMRANGEBYSCORE', list, '-inf', now)
  if most and redis.call('ZCARD', list) >= most then
    local began = {}
    for _, other in ipairs(redis.call('ZRANGE', list, 0, -1)) do
      local theirs = base .. string.sub(other, 5)
      local there, at, ends, begins = get(theirs)
      local created = there and select(5, read(there, at, ends, begins))
      if created then
        began[#began + 1] = {other, created}
      else
        here(list, theirs)
        redis.call('ZREM', list, other)
      end
    end
    if #began >= most and not evict then return TOO_MANY end
    table.sort(began, function(one, two) return one[2] < two[2] or one[2] == two[2] and one[1] < two[1] end)
    for k = 1, #began + 1 - most do evicted[k] = began[k][1] end
  end
end

n, l, i, a = n + 1, now, newIdle or i, newAbsolute or a
local ends = c + a - now
local expires = math.min(i, ends)
if expires <= 0 then
  redis.call('DEL', key)
  if list then
    redis.call('ZREM', list, id)
  else
    list, id, channel = places(key, '')
  end
  redis.call('PUBLISH', channel, id)
  return committed(n, 0, 0, now, 0, '', evicted)
end

local earlier, before = '', 0
if rotate and rotate ~= d then
  if once and d ~= digest then
    earlier, before = h, 1
  else
    if grace > 0 then
      -- The one before, if nobody has come with it since its grace was over.
      if p ~= '' and now >= g then q = string.sub(string.sub(p, 1, 8) .. q, 1, 64) end
      p, g, h = d, now + grace, handover
    else
      p, g, h = '', 0, ''
    end
    d, r = rotate, now
  end
end
if meta then m = meta end
if authenticated then t = now end

-- The key ends at e and not after so long: what is made of e later is the time, and must
-- not lag a little more with each commit.
--
-- What is written comes first: of the commands below it and ZADD alone are refused when
-- Redis is out of memory, and then nothing is written. (A new session of an owner is not
-- refused: its list has been cleared of what has ended, and a script that has written may.)
e = now + expires
local head = made(d, n, e, l, c, r, t, i, a, s, x, g, last, p, q, h, o, m, b, count, entries)
local least = fresh and 0 or v + #piece - 7 - from - last -- so that all is as long as it was
local squeezed = last - live + math.max(0, least - #head) > 512 + live / 2 and {index(entries, 1, count)}
if squeezed and not squeezed[1] then return GONE end
if fresh then
  redis.call('SET', key, table.concat(added) .. ended(head, 0), 'PXAT', e)
else
  redis.call('SETRANGE', key, v, table.concat(added) .. ended(head, least))
  for k = 1, #over, 2 do
    if over[k + 1] ~= '' then redis.call('SETRANGE', key, over[k], over[k + 1]) end
  end
  redis.call('PEXPIREAT', key, e)
end
if squeezed then
  -- What nobody reads any more goes.
  local whole, all = redis.call('GET', key), squeezed[1]
  local values, moved, at = {}, {}, 0
  for k = 1, count do
    local name, from, length = all[3 * k - 1], all[3 * k], all[3 * k + 1]
    values[k], moved[k] = string.sub(whole, from + 1, from + length), struct.pack('<I4c0I4I4', #name, name, at, length)
    at = at + length
  end
  head = made(d, n, e, l, c, r, t, i, a, s, x, g, at, p, q, h, o, m, b, count, table.concat(moved))
  redis.call('SET', key, table.concat(values) .. ended(head, 0), 'PXAT', e)
end
for _, other in ipairs(evicted) do
  redis.call('DEL', base .. string.sub(other, 5))
  redis.call('ZREM', list, other)
  redis.call('PUBLISH', channel, other)
end
if list then enlist(list, id, now, expires) end
return committed(n, expires, ends, now, before, earlier, evicted)
