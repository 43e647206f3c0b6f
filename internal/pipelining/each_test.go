package pipelining_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/herdless/herdless/internal/pipelining"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// addUp adds to each key, and answers with what it is then, as text.
var addUp = redis.NewScript(`
local function add(key, n)
  local sum = redis.pcall('INCRBY', key, n)
  return type(sum) == 'number' and 'is ' .. sum or sum
end
if #KEYS == 1 then return add(KEYS[1], ARGV[1]) end
local sums = {}
for i, key in ipairs(KEYS) do sums[i] = add(key, ARGV[i]) end
return sums`)

// Each gets the answer about its own key, and its own error, also while servers forget the
// script; and where one server has all keys there are fewer scripts than calls.
func TestAScriptRunsOnceForMany(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		sent := watch(rdb)
		prefix := redistest.Prefix(t)
		r := pipelining.New(rdb, false)
		const goroutines, times = 64, 40
		require.NoError(t, rdb.RPush(t.Context(), prefix+"7", "a list").Err())
		sent.reset()
		inParallel(goroutines, func(g int) {
			key := prefix + fmt.Sprint(g)
			for i := range times {
				if g == 0 && i%20 == 19 {
					assert.NoError(t, rdb.ScriptFlush(t.Context()).Err())
				}
				got, err := r.RunEach(t.Context(), addUp, key, g)
				if g == 7 {
					assert.ErrorContains(t, err, "WRONGTYPE")
					continue
				}
				assert.NoError(t, err)
				assert.Equal(t, fmt.Sprint("is ", (i+1)*g), got)
			}
		})
		if _, cluster := rdb.(*redis.ClusterClient); cluster {
			assert.GreaterOrEqual(t, sent.commands.Load(), int64(goroutines*times))
		} else {
			assert.Less(t, sent.commands.Load(), int64(goroutines*times/2))
		}
	})
}

// A StringCmd gets its answer as well, and a key may come twice.
func TestAScriptRunsForCommands(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	r, key := pipelining.New(rdb, false), redistest.Prefix(t)+"k"
	require.NoError(t, addUp.Load(t.Context(), rdb).Err())
	var seen [401]atomic.Bool
	inParallel(20, func(int) {
		for range 20 {
			cmd := redis.NewStringCmd(t.Context(), "evalsha", addUp.Hash(), 1, key, 1)
			cmd.SetFirstKeyPos(3)
			if !assert.NoError(t, r.Process(t.Context(), &pipelining.Each{Cmder: cmd})) {
				return
			}
			var sum int
			_, err := fmt.Sscanf(cmd.Val(), "is %d", &sum)
			assert.NoError(t, err)
			assert.False(t, seen[sum].Swap(true), "%d came twice", sum)
		}
	})
	assert.Equal(t, "400", rdb.Get(t.Context(), key).Val())
}

// A script that fails for all says so to all, and so does one whose answer is none.
func TestAScriptThatFailsForAll(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	r, prefix := pipelining.New(rdb, false), redistest.Prefix(t)
	for src, want := range map[string]string{
		"if #KEYS > 1 then error('BAD') end return 'fine'":                    "BAD",
		"if #KEYS > 1 then return {'one'} end return 'fine'":                  "1 answers for",
		"if #KEYS > 1 then return 'one' end return 'fine'":                    "0 answers for",
		"if #KEYS > 1 then KEYS[#KEYS + 1] = 1 return KEYS end return 'fine'": "answers for",
	} {
		script := redis.NewScript(src)
		require.NoError(t, script.Load(t.Context(), rdb).Err())
		var failed atomic.Int64
		inParallel(64, func(g int) {
			for range 20 {
				got, err := r.RunEach(t.Context(), script, prefix+fmt.Sprint(g), 1)
				if err != nil {
					failed.Add(1)
					assert.ErrorContains(t, err, want)
				} else {
					assert.Equal(t, "fine", got)
				}
			}
		})
		assert.NotZero(t, failed.Load(), src)
	}
}

// What seems to be a server may stand for a Cluster: then nothing fails, and scripts are
// of one key again.
func TestKeysOfSeveralServers(t *testing.T) {
	cluster := redistest.SharedCluster(t)
	prefix := redistest.Prefix(t)
	server := cluster.MasterOf(t, prefix)
	var keys []string // of that server, in several slots
	for i := 0; len(keys) < 64; i++ {
		if key := fmt.Sprint(prefix, i); cluster.MasterOf(t, key) == server {
			keys = append(keys, key)
		}
	}
	rdb := server.Client(t)
	r := pipelining.New(rdb, false)
	sent := watch(rdb)
	inParallel(len(keys), func(g int) {
		for i := range 10 {
			got, err := r.RunEach(t.Context(), addUp, keys[g], 1)
			assert.NoError(t, err)
			assert.Equal(t, fmt.Sprint("is ", i+1), got)
		}
	})
	sent.reset()
	inParallel(len(keys), func(g int) {
		_, err := r.RunEach(t.Context(), addUp, keys[g], 1)
		assert.NoError(t, err)
	})
	assert.Equal(t, int64(len(keys)), sent.commands.Load())
}
