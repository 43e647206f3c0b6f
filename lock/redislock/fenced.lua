-- Refuses a stale fencing token; what is appended to this runs only if it passes.
--
-- KEYS[1]   a hash, of which the field "fence" is the largest token seen
-- KEYS[2…]  what follows may use them
-- ARGV[1]   token: a decimal number above 0, without leading zeros
-- ARGV[2]   TTL of KEYS[1] in milliseconds, set anew each time, or 0 for none
-- ARGV[3…]  what follows may use them
--
-- Returns   the error STALETOKEN <largest token> if the token is stale; the error
--           NOFENCE if KEYS[1] is a hash without a fence, which is somebody
--           else's; otherwise what follows returns
--
-- Atomic because of this interleaving:
--   A: token 33 is compared ................................ writes
--   B:                       token 34 is compared, writes
--
-- The fence is raised before anything else is written. Scripts are not rolled
-- back, so what follows may stop half way, and a predecessor must not come after
-- that. If raising it fails (Redis is full), nothing has been written.
do
  local token, fence = ARGV[1], redis.call('HGET', KEYS[1], 'fence')
  if not fence then
    if redis.call('EXISTS', KEYS[1]) == 1 then
      return redis.error_reply('NOFENCE the hash at the key has no fencing token, so somebody else has written it')
    end
  elseif not string.find(fence, '^[1-9]%d*$') then
    return redis.error_reply('NOFENCE the field "fence" at the key is no fencing token, so somebody else has written it')
  elseif #token < #fence or #token == #fence and token < fence then
    -- As text, because a number is exact to 2^53 only. Text of digits alone is
    -- in the same order in every locale.
    return redis.error_reply('STALETOKEN ' .. fence)
  end
  redis.call('HSET', KEYS[1], 'fence', token)
  if ARGV[2] == '0' then
    redis.call('PERSIST', KEYS[1])
  else
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
  end
end
