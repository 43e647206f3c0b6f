-- Stands before acquire.lua, for an exclusive lease that is free, of which nobody else
-- is near, and was last had by an owner of the same family. That is how it nearly
-- always is, and costs three commands. All else is left to what follows.
if found and string.byte(found) == 1 and string.byte(ARGV[3]) == 120 then -- "x"
  local _, last, ends, kept, _, ended, family = struct.unpack(pack, found)
  if family == ARGV[1] and not string.find(ended, ARGV[2], 1, true) then
    local time = redis.call('TIME')
    local micros = time[1] * 1000000 + time[2]
    local now = math.floor(micros / 1000)
    local till = now + ARGV[4]
    if ends < now and till + fencing <= kept then
      local token = math.max(last + 1, micros)
      redis.call('SET', KEYS[1], struct.pack(pack, 1, token + (ARGV[5] or 1) - 1, till, kept, ARGV[2], #ended, ended, #ARGV[1], ARGV[1]), 'KEEPTTL')
      return token
    end
  end
end
