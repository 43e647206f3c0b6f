package pipelining_test

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

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
for i, key in ipairs(KEYS) do
  local sum = add(key, ARGV[i])
  if type(sum) == 'table' then
    if string.find(sum.err, 'READONLY') then return sum end
    sum = {sum.err}
  end
  sums[i] = sum
end
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

// What a server does not know costs one round trip more.
func TestAScriptThatIsNotKnown(t *testing.T) {
	rdb := redistest.NewStandalone(t).Client(t)
	sent := watch(rdb)
	r := pipelining.New(rdb, false)
	got, err := r.RunEach(t.Context(), addUp, "k", 1)
	require.NoError(t, err)
	require.Equal(t, "is 1", got)
	require.EqualValues(t, 2, sent.commands.Load())
}

// Nothing is nothing.
func TestNoCommandsInACrowd(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	r, key := pipelining.New(rdb, false), redistest.Prefix(t)+"k"
	inParallel(40, func(g int) {
		for range 20 {
			if g%2 == 0 {
				assert.NoError(t, r.Process(t.Context()))
			} else {
				_, err := r.RunEach(t.Context(), addUp, key, 1)
				assert.NoError(t, err)
			}
		}
	})
}

// A key may come twice.
func TestAScriptRunsForAKeyOfMany(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	r, key := pipelining.New(rdb, false), redistest.Prefix(t)+"k"
	require.NoError(t, addUp.Load(t.Context(), rdb).Err())
	var seen [401]atomic.Bool
	inParallel(20, func(int) {
		for range 20 {
			got, err := r.RunEach(t.Context(), addUp, key, 1)
			if !assert.NoError(t, err) {
				return
			}
			var sum int
			_, err = fmt.Sscanf(got.(string), "is %d", &sum)
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

// An error that go-redis has a type for is nobody else's either.
func TestAnErrorOfAKnownKindIsOfOne(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	r := pipelining.New(rdb, false)
	prefix := redistest.Prefix(t)
	named := redis.NewScript(`
local function name(key, fails) return fails == '' and key or redis.error_reply(fails .. ' of ' .. key) end
if #KEYS == 1 then return name(KEYS[1], ARGV[1]) end
local names = {}
for i, key in ipairs(KEYS) do
  local answer = name(key, ARGV[i])
  names[i] = type(answer) == 'table' and {answer.err} or answer
end
return names`)
	require.NoError(t, named.Load(t.Context(), rdb).Err())
	inParallel(50, func(g int) {
		key, fails := fmt.Sprint(prefix, g), ""
		if g%5 == 4 {
			fails = []string{"OOM", "NOREPLICAS", "MISCONF", "ERR", "EXECABORT"}[g/5%5]
		}
		for range 100 {
			got, err := r.RunEach(t.Context(), named, key, fails)
			switch {
			case fails != "":
				assert.True(t, redis.HasErrorPrefix(err, fails+" of "+key) || redis.HasErrorPrefix(err, "of "+key), "%v", err) // without ERR
			case assert.NoError(t, err):
				assert.Equal(t, key, got)
			}
		}
	})
}

// idle is a hook that does nothing.
type idle struct{}

func (idle) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (idle) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

// refuser is a hook like a proxy that refuses scripts of several keys.
type refuser struct {
	idle
	says    error
	refused atomic.Int64
}

func (r *refuser) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		var rest []redis.Cmder
		for _, cmd := range cmds {
			if cmd.Name() == "evalsha" && cmd.Args()[2] != 1 {
				r.refused.Add(1)
				cmd.SetErr(r.says)
			} else {
				rest = append(rest, cmd)
			}
		}
		if len(rest) == 0 {
			return nil
		}
		return next(ctx, rest)
	}
}

// said is an error of a server.
type said string

func (s said) Error() string { return string(s) }
func (said) RedisError()     {}

// What calls itself a server may be a proxy before several: then nothing fails, and scripts
// are of one key again.
func TestAProxyBeforeSeveralServers(t *testing.T) {
	for _, says := range []said{"CROSSSLOT Keys in request don't hash to the same slot", "ERR all keys must be in the same Slot"} {
		rdb := redistest.Standalone(t).Client(t)
		proxy := &refuser{says: says}
		rdb.AddHook(proxy)
		prefix := redistest.Prefix(t)
		r := pipelining.New(rdb, false)
		require.NoError(t, addUp.Load(t.Context(), rdb).Err())
		call := func() {
			inParallel(64, func(g int) {
				for range 10 {
					_, err := r.RunEach(t.Context(), addUp, prefix+fmt.Sprint(g), 1)
					assert.NoError(t, err)
				}
			})
		}
		call()
		refused := proxy.refused.Load()
		assert.NotZero(t, refused)
		call()
		assert.Equal(t, refused, proxy.refused.Load())
		for g := range 64 {
			assert.Equal(t, "20", rdb.Get(t.Context(), prefix+fmt.Sprint(g)).Val())
		}
	}
}

// Connections to what has become a replica are left, also by a client that tries nothing
// again.
func TestAMasterThatBecomesAReplica(t *testing.T) {
	before, after := redistest.NewStandalone(t), redistest.NewStandalone(t)
	var addr atomic.Value
	addr.Store(before.Addr())
	rdb := redis.NewClient(&redis.Options{
		MaxRetries: -1, PoolSize: 8,
		Dialer: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr.Load().(string))
		},
	})
	defer rdb.Close()
	for _, server := range []*redistest.Server{before, after} {
		require.NoError(t, addUp.Load(t.Context(), server.Client(t)).Err())
	}
	r := pipelining.New(rdb, false)
	call := func() (failed int64) {
		var n atomic.Int64
		inParallel(64, func(g int) {
			for range 10 {
				_, err := r.RunEach(t.Context(), addUp, fmt.Sprint("k", g), 1)
				if err != nil {
					assert.ErrorContains(t, err, "READONLY")
					n.Add(1)
				}
			}
		})
		return n.Load()
	}
	require.Zero(t, call())
	addr.Store(after.Addr())
	require.NoError(t, before.Client(t).Do(t.Context(), "REPLICAOF", "127.0.0.1", "1").Err())
	require.Eventually(t, func() bool { return call() == 0 }, 20*time.Second, 10*time.Millisecond)
}

// A key that the user may not touch is nobody else's trouble.
func TestAForbiddenKey(t *testing.T) {
	server := redistest.NewStandalone(t)
	require.NoError(t, server.Client(t).Do(t.Context(), "ACL", "SETUSER", "u", "on", "nopass", "+@all", "~fine*").Err())
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), Username: "u", Password: "x"})
	defer rdb.Close()
	r := pipelining.New(rdb, false)
	require.NoError(t, addUp.Load(t.Context(), rdb).Err())
	inParallel(64, func(g int) {
		key := fmt.Sprint("fine", g)
		if g == 5 {
			key = "forbidden"
		}
		for range 20 {
			_, err := r.RunEach(t.Context(), addUp, key, 1)
			if g == 5 {
				assert.ErrorContains(t, err, "NOPERM")
			} else {
				assert.NoError(t, err)
			}
		}
	})
	assert.Equal(t, "20", server.Client(t).Get(t.Context(), "fine1").Val())
}

// On a node of a Cluster, and where the server does not say what it is, no two go as one.
func TestServersThatAreNotByThemselves(t *testing.T) {
	silent := redistest.NewStandalone(t)
	require.NoError(t, silent.Client(t).Do(t.Context(), "ACL", "SETUSER", "u", "on", "nopass", "~*", "+@all", "-info").Err())
	quiet := redis.NewClient(&redis.Options{Addr: silent.Addr(), Username: "u", Password: "x"})
	defer quiet.Close()
	cluster := redistest.SharedCluster(t)
	tag := "{" + redistest.Prefix(t) + "}"
	for name, rdb := range map[string]*redis.Client{"a node": cluster.MasterOf(t, tag).Client(t), "silent": quiet} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, addUp.Load(t.Context(), rdb).Err())
			sent := watch(rdb)
			r := pipelining.New(rdb, false)
			inParallel(64, func(g int) {
				for range 20 {
					_, err := r.RunEach(t.Context(), addUp, tag+fmt.Sprint(g), 1)
					assert.NoError(t, err)
				}
			})
			assert.GreaterOrEqual(t, sent.commands.Load(), int64(64*20))
		})
	}
}
