-- Stands behind head.lua: what a lease, the queue and the clock look like to the
-- scripts that follow.
local lease = KEYS[1]
local shared, queue, places = lease .. ':shared', lease .. ':queue', lease .. ':places'

-- What is in the lease. Changes are kept by write.
local state = {company = true, token = 0, ends = 0, kept = 0, char = '*', ended = '', family = ''}
if found then
  local kind, token, ends, kept, char, ended, family = struct.unpack(pack, found)
  state = {company = kind == 2, token = token, ends = ends, kept = kept, char = char, ended = ended, family = family}
end

-- The server's clock in microseconds, and in milliseconds. A script has one now.
local micros, millis
local function clock()
  if not micros then
    local time = redis.call('TIME')
    micros = time[1] * 1000000 + time[2]
    millis = math.floor(micros / 1000)
  end
  return micros, millis
end

-- Until when the key is to be kept for a lease that ends then. That is never put
-- forward: others may count on it.
local function keep(ends)
  return ends + fencing <= state.kept and state.kept or ends + fencing + spare
end

-- Writes the state, for a lease that ends then, or for the one that is in it.
local function write(ends)
  local s, _, now = state, clock()
  local kept = ends and keep(ends) or s.kept
  local packed = struct.pack(pack, s.company and 2 or 1, s.token, s.ends, kept, s.char, #s.ended, s.ended, #s.family, s.family)
  if kept == s.kept then
    redis.call('SET', lease, packed, 'KEEPTTL')
  else
    redis.call('SET', lease, packed, 'PX', kept - now)
  end
  s.kept = kept
end

-- An owner, of its family and its last character, and these of an owner.
local function join(family, char)
  return char == '*' and family or family .. char
end
local function split(owner)
  if string.find(owner, '%w$') then
    return string.sub(owner, 1, -2), string.sub(owner, -1)
  end
  return owner, '*'
end

-- Who has the exclusive lease, or nil. One that ends in this millisecond is not over:
-- the one in which it began was cut off.
local function holder()
  local _, now = clock()
  return state.ends >= now and join(state.family, state.char) or nil
end

-- Who has released of a family, and what the release of one of those came to, if it has.
local function releasedOf(family)
  if state.ends ~= 0 and state.family == family then
    return state.ended
  end
  return redis.call('GET', lease .. ':ended:' .. family) or ''
end
local function outcome(ended, char)
  return string.find(ended, '+' .. char, 1, true) and '+' or string.find(ended, '-' .. char, 1, true) and '-' or nil
end

-- Notes what the release of one came to, beside those of its family. Reports whether
-- that is in state, and to be written.
local function note(family, char, ended, came)
  ended = ended .. came .. char
  if state.ends == 0 or state.family ~= family then
    redis.call('SET', lease .. ':ended:' .. family, ended, 'PX', lateness)
    return false
  end
  local _, now = clock()
  state.ended = ended
  if state.ends < now then
    state.ends = -now
  end
  return true
end

-- Gives the exclusive lease to an owner, until then. ended is who has released of its
-- family.
local function hand(family, char, ended, ends)
  local _, now = clock()
  if state.family ~= family and state.ended ~= '' and (state.ends > 0 or now + state.ends < lateness) then
    redis.call('SET', lease .. ':ended:' .. state.family, state.ended, 'PX', lateness)
  end
  state.family, state.char, state.ended, state.ends = family, char, ended, ends
end
