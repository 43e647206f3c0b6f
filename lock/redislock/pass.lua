-- Stands before release.lua, for an exclusive lease that its owner has, while others
-- wait and the first of them may be given it: what give.lua does then, without what it
-- takes for all else, while everybody waits. All else is left to what follows.
if found and string.byte(found) == 2 and string.byte(ARGV[3]) == 120 and not ARGV[5] then
  local _, last, ends, kept, char, ended, family = struct.unpack(pack, found)
  local member = char == ARGV[2] and family == ARGV[1] and redis.call('ZRANGE', KEYS[1] .. ':queue', 0, 0)[1]
  local tokens, owner = string.match(member or '', '^x([1-9]%d*):(.*)$')
  local till = owner and redis.call('ZSCORE', KEYS[1] .. ':places', member)
  if till then
    local time = redis.call('TIME')
    local micros = time[1] * 1000000 + time[2]
    local now = math.floor(micros / 1000)
    if ends >= now and tonumber(till) > now then
      -- This first: a Redis that is full refuses a script whose first write needs memory.
      redis.call('ZREM', KEYS[1] .. ':queue', member)
      redis.call('ZREM', KEYS[1] .. ':places', member)
      local token = math.max(last - (ARGV[4] or 0) + 1, micros)
      local process = string.match(owner, '^([^.]*)%.')
      local theirs, its = string.match(owner, '^(.*)(%w)$')
      if not its then
        theirs, its = owner, '*'
      end
      ended = ended .. '+' .. char
      if theirs ~= family then
        redis.call('SET', KEYS[1] .. ':ended:' .. family, ended, 'PX', lateness)
        ended = redis.call('GET', KEYS[1] .. ':ended:' .. theirs) or ''
      end
      local expiry = {'KEEPTTL'}
      if till + fencing > kept then
        kept = till + fencing + spare
        expiry = {'PX', kept - now}
      end
      redis.call('SET', KEYS[1], struct.pack(pack, 2, token + tokens - 1, till, kept, its, #ended, ended, #theirs, theirs), unpack(expiry))
      redis.call('PUBLISH', KEYS[1] .. ':turn' .. (process and ':' .. process or ''), string.format('%s %.0f %s', owner, token, till))
      return 1
    end
  end
end
