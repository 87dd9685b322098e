package state

import "github.com/redis/go-redis/v9"

// scripts are the atomic steps in Redis. Writes of a view are replayed inside the
// script that checks the position, rather than in MULTI/EXEC under WATCH: not every
// Redis-compatible server counts a flush as a change of a watched key.
type scripts struct {
	save   *redis.Script // KEYS entity; ARGV sequence, id, state, seconds to live, id that may be replaced
	begin  *redis.Script // KEYS position; ARGV generation, now
	clear  *redis.Script // KEYS position, key...; ARGV generation
	fold   *redis.Script // KEYS position; ARGV generation, evicted
	reset  *redis.Script // KEYS position; ARGV generation, new generation, now
	apply  *redis.Script // KEYS position; ARGV generation, expected sequence, sequence, now, applied, id, then argc, arg... per command
	evict  *redis.Script // KEYS position; ARGV generation, evicted
	fields []string      // of the position hash, in the order of position
}

func newScripts() scripts {
	return scripts{
		save: redis.NewScript(`
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then redis.call('DEL', KEYS[1]) end
local old = redis.call('HMGET', KEYS[1], 'sequence', 'id')
local held = tonumber(old[1] or '')
if held and old[2] and old[2] ~= ARGV[5] and held >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'sequence', ARGV[1], 'id', ARGV[2], 'state', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1`),
		begin: redis.NewScript(`
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then redis.call('DEL', KEYS[1]) end
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'generation', ARGV[1], 'phase', 'clearing', 'sequence', '0', 'applied', '0', 'id', '', 'moved', ARGV[2], 'began', ARGV[2], 'evicted', '0')
end
return 1`),
		clear: redis.NewScript(`
local at = redis.call('HMGET', KEYS[1], 'generation', 'phase')
if at[1] ~= ARGV[1] or at[2] ~= 'clearing' then return 0 end
for i = 2, #KEYS do redis.call('DEL', KEYS[i]) end
return 1`),
		fold: redis.NewScript(`
local at = redis.call('HMGET', KEYS[1], 'generation', 'phase')
if at[1] ~= ARGV[1] or at[2] ~= 'clearing' then return 0 end
redis.call('HSET', KEYS[1], 'phase', 'folding', 'evicted', ARGV[2])
return 1`),
		reset: redis.NewScript(`
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'generation', ARGV[2], 'phase', 'clearing', 'sequence', '0', 'applied', '0', 'id', '', 'moved', ARGV[3], 'began', ARGV[3])
return 1`),
		apply: redis.NewScript(`
local at = redis.call('HMGET', KEYS[1], 'generation', 'phase', 'sequence')
if at[1] ~= ARGV[1] or at[2] ~= 'folding' then return {0, '0', ''} end
if at[3] ~= ARGV[2] then return {2, at[3], ''} end
local refused = ''
local i, n = 7, #ARGV
while i <= n do
  local argc = tonumber(ARGV[i])
  local r = redis.pcall(unpack(ARGV, i + 1, i + argc))
  if type(r) == 'table' and r['err'] and refused == '' then refused = ARGV[i + 1] .. ': ' .. r['err'] end
  i = i + argc + 1
end
redis.call('HSET', KEYS[1], 'sequence', ARGV[3], 'moved', ARGV[4])
if ARGV[6] ~= '' then redis.call('HSET', KEYS[1], 'applied', ARGV[5], 'id', ARGV[6]) end
return {1, ARGV[3], refused}`),
		evict: redis.NewScript(`
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'evicted', ARGV[2])
return 1`),
		fields: []string{"generation", "phase", "sequence", "applied", "id", "moved", "began", "evicted"},
	}
}
