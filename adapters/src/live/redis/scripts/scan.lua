-- What a directory keeps: KEYS[1] the directory, ARGV the server's run, how far apart looks may be and how long to remember this
-- one, in milliseconds. Answers for how long it is intact, then names and values.
-- Field "intact": since when, of which run of which server, and when that was last looked at. Gone after a flush; of another run
-- after a restart or a failover, which may have lost the last puts; long ago if the clock was set.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local run, since, looked = string.match(redis.call('HGET', KEYS[1], 'intact') or '', '^(%S+) (%d+) (%d+)$')
if run ~= ARGV[1] or now < tonumber(looked) or now > looked + ARGV[2] then
  since = now
end
redis.call('HSET', KEYS[1], 'intact', string.format('%s %.0f %.0f', ARGV[1], since, now))
local remembered = now + ARGV[3]
if redis.call('PEXPIRETIME', KEYS[1]) < remembered then
  redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', remembered))
end
local found = {}
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  if string.sub(all[at], 1, 1) == '=' then
    local put, ends, value = string.match(all[at + 1], '^(%d+) (%d+) (.*)$')
    -- One that is put in the future was put before the clock was set back.
    if tonumber(put) <= now and now < tonumber(ends) then
      found[#found + 1] = string.sub(all[at], 2)
      found[#found + 1] = value
    else
      redis.call('HDEL', KEYS[1], all[at])
    end
  end
end
return { now - since, found }
