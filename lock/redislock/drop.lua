-- Stands before release.lua, for an exclusive lease that its owner has, while nobody
-- else is near: three commands, as in take.lua. All else is left to what follows.
if found and string.byte(found) == 1 and string.byte(ARGV[3]) == 120 and not ARGV[5] then
  local _, last, ends, kept, char, ended, family = struct.unpack(pack, found)
  if char == ARGV[2] and family == ARGV[1] then
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    if ends >= now then
      local packed = struct.pack(pack, 1, last - (ARGV[4] or 0), -now, kept, char, #ended + 2, ended .. '+' .. char, #ARGV[1], ARGV[1])
      -- A Redis that is full refuses that as the first write of a script.
      if not redis.pcall('SET', KEYS[1], packed, 'KEEPTTL').err then
        return 1
      end
    end
  end
end
