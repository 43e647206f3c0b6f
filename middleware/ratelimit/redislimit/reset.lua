-- reset.lua: forgets what was taken.
--
-- KEYS[1]   the key of a limit.
-- Result    {n}: how many keys were removed, 1 or 0.
--
-- A single command, atomic by itself. It is a script so that the store needs
-- nothing of a client but to run scripts.

return { redis.call('DEL', KEYS[1]) }
