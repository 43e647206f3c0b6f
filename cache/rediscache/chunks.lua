-- Stands before fill.lua, write.lua and purge.lua: what they know of the bytes of
-- an entry (see codec.go), and of the chunks that belong to it.
--
-- The chunks' keys are named by the entry, so that they are not among KEYS; they
-- lie in its slot.
local GRACE = 60000 -- ms that chunks outlive their entry: somebody may be reading

-- The fixed part of the entry at a key, or nothing that is like one.
local function header(key)
  local found = redis.pcall('GETRANGE', key, 0, 118) -- pcall: it may hold another type
  return type(found) == 'string' and string.sub(found, 1, 4) == 'hlc3' and found or ''
end

-- Whether both are the same entry, whatever became of its state and its end. Entries differ
-- by a random number at least, so that only a command sent twice has the same.
local function same(a, b)
  return #a > 0 and #b > 0 and string.sub(a, 6, 9) == string.sub(b, 6, 9) and string.sub(a, 26, 119) == string.sub(b, 26, 119)
end

-- Stores the bytes of an entry for so many milliseconds from now on.
local function store(key, bytes, now, ms)
  local ends = now + ms
  redis.call('SET', key, bytes, 'PXAT', string.format('%.0f', ends))
  redis.call('SETRANGE', key, 9, struct.pack('>dd', ends, ends))
end

-- Lets the chunks of the entry that bytes are live for so long from now, except
-- for those that belong to other, too. Returns whether all are there. It ends at
-- the first that is not, so that no number in foreign bytes makes it long.
local function keep(key, bytes, other, ms)
  if #bytes < 119 then
    return true
  end
  for _, at in ipairs({72, 92}) do -- the data's, the body's
    local id, count = string.sub(bytes, at, at + 15), struct.unpack('>I4', bytes, at + 16)
    if count > 0 and string.sub(other, at, at + 15) ~= id then
      local name = key .. ':' .. string.gsub(id, '.', function(c)
        return string.format('%02x', string.byte(c))
      end) .. ':'
      for i = 0, count - 1 do
        if redis.call('PEXPIRE', name .. string.format('%.0f', i), ms) == 0 then
          return false
        end
      end
    end
  end
  return true
end
