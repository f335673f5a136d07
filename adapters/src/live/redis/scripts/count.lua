-- Adds to a counter: KEYS[1] the counter, ARGV how much, how many milliseconds its window has.
if ARGV[1] == '0' then
  return tonumber(redis.call('GET', KEYS[1]) or 0)
end
local count = redis.call('INCRBY', KEYS[1], ARGV[1])
if redis.call('PTTL', KEYS[1]) < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return count
