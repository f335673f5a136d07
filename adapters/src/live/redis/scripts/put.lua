-- Keeps a fact: KEYS[1] its directory, ARGV its name, its value, for how many milliseconds.
-- A directory is a hash. A fact's field begins with "=", and its value with when it was put and when it ends.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = now + ARGV[3]
redis.call('HSET', KEYS[1], '=' .. ARGV[1], string.format('%.0f %.0f ', now, ends) .. ARGV[2])
if redis.call('PEXPIRETIME', KEYS[1]) < ends then
  redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', ends))
end
-- What has ended and is never looked at goes bit by bit, sooner than it comes.
local some = redis.call('HRANDFIELD', KEYS[1], 2, 'WITHVALUES')
for at = 1, #some, 2 do
  local ended = string.match(some[at + 1], '^%d+ (%d+) ')
  if string.sub(some[at], 1, 1) == '=' and tonumber(ended) <= now then
    redis.call('HDEL', KEYS[1], some[at])
  end
end
