package redislimit_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/middleware/ratelimit"
	"github.com/herdless/herdless/middleware/ratelimit/ratelimittest"
	"github.com/herdless/herdless/middleware/ratelimit/redislimit"
)

// request asks for one unit of each of the keys, 100 an hour each.
func request(keys ...string) ratelimit.Request {
	return requestN(1, keys...)
}

func requestN(n int, keys ...string) ratelimit.Request {
	var req ratelimit.Request
	for _, key := range keys {
		req.Checks = append(req.Checks, ratelimit.Check{Key: key, Name: "limit", Limit: ratelimit.PerHour(100), N: n})
	}
	return req
}

func TestStore(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		ratelimittest.Run(t, func(t *testing.T) ratelimit.Store {
			// The hash tag makes requests with several keys one step on a Cluster, too.
			return redislimit.New(rdb, &redislimit.Options{Prefix: "{" + redistest.Prefix(t) + "}:"})
		})
	})
}

// Without a hash tag a Cluster takes the units of several keys in turn, and the rules
// hold all the same.
func TestStoreInSeveralSlots(t *testing.T) {
	rdb := redistest.SharedCluster(t).Client(t)
	ratelimittest.Run(t, func(t *testing.T) ratelimit.Store {
		return redislimit.New(rdb, &redislimit.Options{Prefix: redistest.Prefix(t)})
	})
}

func TestPermitStore(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		ratelimittest.RunPermits(t, func(t *testing.T) ratelimit.PermitStore {
			return redislimit.New(rdb, &redislimit.Options{Prefix: redistest.Prefix(t)})
		})
	})
}

// Three processes' worth of clients, 50 goroutines each, 10 requests each, for
// one key: exactly the limit is admitted.
func TestTheLimitIsExactAcrossProcesses(t *testing.T) {
	const processes, goroutines, requests = 3, 50, 10
	deployments := map[string]func(t *testing.T) redis.UniversalClient{
		"standalone": func(t *testing.T) redis.UniversalClient { return redistest.Standalone(t).Client(t) },
		"sentinel":   func(t *testing.T) redis.UniversalClient { return redistest.SharedSentinels(t).Client(t) },
		"cluster":    func(t *testing.T) redis.UniversalClient { return redistest.SharedCluster(t).Client(t) },
	}
	for name, newClient := range deployments {
		t.Run(name, func(t *testing.T) {
			options := &redislimit.Options{Prefix: redistest.Prefix(t)}
			var admitted atomic.Int64
			var wg sync.WaitGroup
			for range processes {
				store := redislimit.New(newClient(t), options)
				for range goroutines {
					wg.Go(func() {
						for range requests {
							d, err := store.Take(t.Context(), request("k"))
							assert.NoError(t, err)
							if d.Allowed {
								admitted.Add(1)
							}
						}
					})
				}
			}
			wg.Wait()
			assert.EqualValues(t, 100, admitted.Load())
		})
	}
}

func TestKeysEndWhenTheyAreFull(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		prefix := redistest.Prefix(t)
		store := redislimit.New(rdb, &redislimit.Options{Prefix: prefix})

		d, err := store.Take(t.Context(), requestN(50, "slow"))
		require.NoError(t, err)
		ttl, err := rdb.PTTL(t.Context(), prefix+"{slow}limit").Result()
		require.NoError(t, err)
		reset := d.States[0].ResetAfter // half an hour
		assert.LessOrEqual(t, ttl, reset+2*time.Millisecond, "a key must not outlive what it says")
		assert.Greater(t, ttl, reset-30*time.Second, "a key must not go before what it owes is back")

		_, err = store.Take(t.Context(), ratelimit.Request{Checks: []ratelimit.Check{
			{Key: "fast", Name: "limit", Limit: ratelimit.PerSecond(1_000_000), N: 3},
		}})
		require.NoError(t, err)
		assert.Eventually(t, func() bool {
			n, err := rdb.Exists(t.Context(), prefix+"{fast}limit").Result()
			return err == nil && n == 0
		}, 30*time.Second, time.Millisecond, "3 microseconds of debt")

		_, err = store.Take(t.Context(), requestN(0, "asked"))
		require.NoError(t, err)
		n, err := rdb.Exists(t.Context(), prefix+"{asked}limit").Result()
		require.NoError(t, err)
		assert.Zero(t, n, "asking writes nothing")
	})
}

func TestADecisionIsOneCommand(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		store := redislimit.New(rdb, &redislimit.Options{Prefix: "{" + redistest.Prefix(t) + "}:"})
		steps := func() {
			_, err := store.Take(t.Context(), request("a"))
			require.NoError(t, err)
			_, err = store.Take(t.Context(), request("a", "b", "c"))
			require.NoError(t, err)
			require.NoError(t, store.Reset(t.Context(), "a", "limit"))
		}
		steps() // the server knows the scripts now

		seen := &recorder{}
		rdb.AddHook(seen)
		steps()
		assert.Equal(t, []string{"evalsha", "evalsha", "evalsha"}, seen.commands)
	})
}

func TestAScriptThatRedisHasForgotten(t *testing.T) {
	server := redistest.NewStandalone(t)
	rdb := server.Client(t)
	store := redislimit.New(rdb, nil)
	for want := 99; want >= 97; want-- {
		d, err := store.Take(t.Context(), request("k"))
		require.NoError(t, err)
		assert.Equal(t, want, d.States[0].Remaining)
		require.NoError(t, rdb.ScriptFlush(t.Context()).Err())
	}
}

// What Retry-After says is when a request passes, to the second.
func TestRetryAfterOnRedis(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	for _, limit := range []ratelimit.Limit{{Rate: 1, Period: 2 * time.Second}, ratelimit.Window(1, time.Second)} {
		t.Run(limit.String(), func(t *testing.T) {
			t.Parallel()
			l, err := ratelimit.New(redislimit.New(rdb, &redislimit.Options{Prefix: redistest.Prefix(t)}), limit,
				func(*http.Request) (string, error) { return "k", nil }, &ratelimit.Options{Timeout: 10 * time.Second})
			require.NoError(t, err)
			h := l.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
			// The denial was decided between sent and told.
			var sent, told time.Time
			w := httptest.NewRecorder()
			for w.Code != http.StatusTooManyRequests { // the first one passes, and more if this machine is held up
				w, sent = httptest.NewRecorder(), time.Now()
				h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
				told = time.Now()
			}
			seconds, err := strconv.Atoi(w.Header().Get("Retry-After"))
			require.NoError(t, err)
			for asked := told; asked.Before(sent.Add(time.Duration(seconds-1)*time.Second - 10*time.Millisecond)); {
				status, _ := serve(h)
				if asked = time.Now(); asked.Before(sent.Add(time.Duration(seconds-1) * time.Second)) {
					require.Equal(t, http.StatusTooManyRequests, status, "%v after it was told to wait for %d s", asked.Sub(sent), seconds)
				}
				time.Sleep(5 * time.Millisecond)
			}
			time.Sleep(time.Until(told.Add(time.Duration(seconds) * time.Second)))
			status, _ := serve(h)
			assert.Equal(t, http.StatusNoContent, status)
		})
	}
}

func TestDefaultPrefix(t *testing.T) {
	rdb := redistest.NewStandalone(t).Client(t)
	for _, o := range []*redislimit.Options{nil, {}} {
		_, err := redislimit.New(rdb, o).Take(t.Context(), request("api:192.0.2.1"))
		require.NoError(t, err)
	}
	value, err := rdb.Get(t.Context(), "herdless:ratelimit:{api:192.0.2.1}limit").Result()
	require.NoError(t, err)
	require.Len(t, value, 24)
	assert.Equal(t, held(0, 0, 1)[8:], value[8:])
}

// Redis takes empty braces for no hash tag, and looks for no other one: the limits of one key
// would be in different slots, and every decision of a Cluster fail, which is to pass.
func TestAPrefixWithEmptyBracesIsRefused(t *testing.T) {
	rdb := redistest.SharedCluster(t).Client(t)
	for _, prefix := range []string{"{}:", "app{}:", "{}{limits}:"} {
		assert.PanicsWithValue(t, fmt.Sprintf("redislimit: Options.Prefix is %q: Redis takes {} for no hash tag; "+
			"put something between the braces, or leave them out", prefix), func() {
			redislimit.New(rdb, &redislimit.Options{Prefix: prefix})
		}, prefix)
	}
	// Other braces do no harm.
	two := ratelimit.Request{Checks: []ratelimit.Check{
		{Key: "k", Name: "one", Limit: ratelimit.PerHour(10), N: 1}, {Key: "k", Name: "two", Limit: ratelimit.Window(10, time.Hour), N: 1},
	}}
	for _, prefix := range []string{"{x}{}:", "}{:", "{:", "}:", "a{b}c}"} {
		store := redislimit.New(rdb, &redislimit.Options{Prefix: redistest.Prefix(t) + prefix})
		d, err := store.Take(t.Context(), two)
		require.NoError(t, err, prefix)
		assert.True(t, d.Allowed, prefix)
		require.NoError(t, store.Reset(t.Context(), "k", "one", "two"), prefix)
	}
}

// On a Cluster the keys of a request may be in different slots. It is all or
// nothing there, too.
func TestSeveralSlotsOfACluster(t *testing.T) {
	rdb := redistest.SharedCluster(t).Client(t)
	prefix := redistest.Prefix(t)
	store := redislimit.New(rdb, &redislimit.Options{Prefix: prefix})
	for range 3 {
		d, err := store.Take(t.Context(), request("a", "b", "c"))
		require.NoError(t, err)
		assert.True(t, d.Allowed)
	}
	_, err := store.Take(t.Context(), requestN(97, "b"))
	require.NoError(t, err)
	for range 3 {
		d, err := store.Take(t.Context(), request("a", "b", "c"))
		require.NoError(t, err)
		assert.False(t, d.Allowed)
		assert.Equal(t, []bool{false, true, false}, []bool{d.States[0].Over, d.States[1].Over, d.States[2].Over})
		assert.Equal(t, []int{97, 0, 97}, []int{d.States[0].Remaining, d.States[1].Remaining, d.States[2].Remaining})
	}

	// With windows, and several limits of a key.
	mixed := ratelimit.Request{Extra: 50, Checks: []ratelimit.Check{
		{Key: "a", Name: "hour", Limit: ratelimit.PerHour(100), N: 5},
		{Key: "d", Name: "window", Limit: ratelimit.Window(20, 1000*time.Hour), N: 5},
		{Key: "a", Name: "window", Limit: ratelimit.Window(40, 1000*time.Hour), N: 5},
	}}
	for _, want := range []struct {
		allowed bool
		extra   int
		left    [3]int
	}{{true, 15, [3]int{80, 0, 20}}, {false, 0, [3]int{80, 0, 20}}, {false, 0, [3]int{80, 0, 20}}} {
		d, err := store.Take(t.Context(), mixed)
		require.NoError(t, err)
		assert.Equal(t, want.allowed, d.Allowed)
		assert.Equal(t, want.extra, d.Extra)
		assert.Equal(t, want.left, [3]int{d.States[0].Remaining, d.States[1].Remaining, d.States[2].Remaining})
	}

	slots := map[int64]bool{}
	for i := range 20 {
		slot, err := rdb.ClusterKeySlot(t.Context(), fmt.Sprintf("%s{%d}", prefix, i)).Result()
		require.NoError(t, err)
		slots[slot] = true
	}
	assert.Greater(t, len(slots), 10, "keys without a tag in the prefix spread over the slots")
}

// A Ring asks the server of a script's first key, and would keep a limit for everybody
// on each of its servers.
func TestALimitForEverybodyOnARing(t *testing.T) {
	rdb := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{
		"a": redistest.Standalone(t).Addr(), "b": redistest.NewStandalone(t).Addr(),
	}})
	defer rdb.Close()
	for _, prefix := range []string{redistest.Prefix(t), "{" + redistest.Prefix(t) + "}:"} {
		store := redislimit.New(rdb, &redislimit.Options{Prefix: prefix})
		admitted := 0
		for i := range 150 {
			d, err := store.Take(t.Context(), request(fmt.Sprint("user ", i), "everybody"))
			require.NoError(t, err)
			if d.Allowed {
				admitted++
			}
		}
		assert.Equal(t, 100, admitted)
	}
}

func TestSomethingElseAtTheKey(t *testing.T) {
	put := map[string]func(ctx context.Context, rdb redis.UniversalClient, key string) error{
		"a hash": func(ctx context.Context, rdb redis.UniversalClient, key string) error {
			return rdb.HSet(ctx, key, "field", "value").Err()
		},
		"a list": func(ctx context.Context, rdb redis.UniversalClient, key string) error {
			return rdb.RPush(ctx, key, "value").Err()
		},
	}
	for _, value := range []string{
		"", "5", "\x00\xff", "1000000000000000+0/1", strings.Repeat("1", 24), held(1, 0, 1) + "x", held(1, 0, 1)[1:],
		held(0.5, 0, 1), held(1, 0.5, 1), held(1, 0, 0.5), held(-1, 0, 1), held(1, -1, 1),
		held(math.NaN(), 0, 1), held(1, math.NaN(), 1), held(1, 0, math.NaN()), held(math.Inf(1), 0, 1), held(1, math.Inf(1), 1), held(1, 0, math.Inf(1)),
	} {
		put[fmt.Sprintf("the string %q", value)] = func(ctx context.Context, rdb redis.UniversalClient, key string) error {
			return rdb.Set(ctx, key, value, 0).Err()
		}
	}
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		for name, put := range put {
			t.Run(name, func(t *testing.T) {
				prefix := "{" + redistest.Prefix(t) + "}:"
				store := redislimit.New(rdb, &redislimit.Options{Prefix: prefix})
				key := prefix + "{odd}limit"
				require.NoError(t, put(t.Context(), rdb, key))
				before, err := rdb.Dump(t.Context(), key).Result()
				require.NoError(t, err)

				d, err := store.Take(t.Context(), request("good", "odd"))
				require.ErrorIs(t, err, ratelimit.ErrForeign)
				assert.False(t, d.Allowed)
				assert.ErrorContains(t, err, "Options.Prefix")

				after, err := rdb.Dump(t.Context(), key).Result()
				require.NoError(t, err)
				assert.Equal(t, before, after, "it is left alone")
				n, err := rdb.Exists(t.Context(), prefix+"{good}limit").Result()
				require.NoError(t, err)
				assert.Zero(t, n, "the other check has been charged")

				require.NoError(t, store.Reset(t.Context(), "odd", "limit"))
				d, err = store.Take(t.Context(), request("good", "odd"))
				require.NoError(t, err, "Reset is the way out")
				assert.True(t, d.Allowed)
			})
		}
	})
}

// held is the value of a key: see take.lua.
func held(micros, num, den float64) string {
	var b []byte
	for _, n := range []float64{micros, num, den} {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(n))
	}
	return string(b)
}

// A replica whose clock is behind takes over: what the keys say lies further in
// the future than it can. Nobody waits longer than for a spent burst.
func TestTheServersClockWentBack(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		prefix := redistest.Prefix(t)
		store := redislimit.New(rdb, &redislimit.Options{Prefix: prefix})
		limit, window := ratelimit.Limit{Rate: 7, Period: time.Second}, ratelimit.Window(7, time.Second)
		inTenHours := time.Now().Add(10 * time.Hour)
		var asked []ratelimit.Request
		var longest time.Duration
		for i, tt := range []struct {
			limit ratelimit.Limit
			extra int
			value string
		}{
			{limit, 0, held(float64(inTenHours.UnixMicro()), 0, 1)},
			{limit, 0, held(9007199254740992, 999, 1000)},
			{limit, 0, held(1e38, 1, 2)},
			{limit, 0, held(1, 1e38, 7)},
			{limit, 1, held(float64(inTenHours.UnixMicro()), 0, 1)},
			{window, 0, fmt.Sprintf("%d*1000000:7,7", inTenHours.Unix())},
			{window, 1, fmt.Sprintf("%d*1000000:0,7", inTenHours.Unix())},
		} {
			check := ratelimit.Check{Key: fmt.Sprint(i), Name: "limit", Limit: tt.limit, N: 7}
			key := fmt.Sprintf("%s{%d}limit", prefix, i)
			if tt.limit.Sliding {
				key += ":w"
			}
			require.NoError(t, rdb.Set(t.Context(), key, tt.value, time.Hour).Err())
			req := ratelimit.Request{Checks: []ratelimit.Check{check}, Extra: tt.extra}
			d, err := store.Take(t.Context(), req)
			require.NoError(t, err)
			s := d.States[0]
			assert.LessOrEqual(t, s.ResetAfter, 2*time.Second, "%q", tt.value)
			assert.LessOrEqual(t, s.RetryAfter, 2*time.Second, "%q", tt.value)
			assert.GreaterOrEqual(t, s.Remaining, 0, "%q", tt.value)
			asked, longest = append(asked, req), max(longest, s.RetryAfter)
		}
		time.Sleep(longest)
		for _, req := range asked { // who has waited as long as he was told
			d, err := store.Take(t.Context(), req)
			require.NoError(t, err)
			assert.True(t, d.Allowed, "%v: %+v", req, d)
		}
	})
}

// recorder is a hook that keeps the names of commands.
type recorder struct{ commands []string }

func (r *recorder) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (r *recorder) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		r.commands = append(r.commands, cmd.Name())
		return next(ctx, cmd)
	}
}

func (r *recorder) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { return next(ctx, cmds) }
}

func TestNewNeedsAClient(t *testing.T) {
	for _, none := range []redis.Scripter{nil, (*redis.Client)(nil), (*redis.ClusterClient)(nil)} {
		assert.PanicsWithValue(t, "redislimit: New needs a client, such as that of redis.NewUniversalClient or redisconn.Open", func() {
			redislimit.New(none, nil)
		})
	}
}
