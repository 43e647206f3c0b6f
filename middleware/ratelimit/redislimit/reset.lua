-- reset.lua: forgets what was taken.
--
-- KEYS      the keys of limits, all in one slot.
-- Result    {n}: how many keys were removed.
--
-- A single command, atomic by itself. It is a script so that the store needs
-- nothing of a client but to run scripts.

return { redis.call('DEL', unpack(KEYS)) }
