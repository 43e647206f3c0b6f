package redislimit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/middleware/ratelimit"
	"github.com/herdless/herdless/middleware/ratelimit/redislimit"
)

func clientIP(*http.Request) (string, error) { return "192.0.2.1", nil }

// logBuffer is a log that may be written and read at once.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Split(strings.TrimSpace(b.buf.String()), "\n")
}

// serve sends a request and returns the status and how long it took.
func serve(h http.Handler) (status int, took time.Duration) {
	rec := httptest.NewRecorder()
	begin := time.Now()
	h.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	return rec.Code, time.Since(begin)
}

// machine measures for how long this machine holds up who wants to run now, which no
// deadline can be better than, until the test ends.
type machine struct {
	lost, longest, napping atomic.Int64 // in ns; napping is since when
	start                  time.Time
}

const nap = time.Millisecond

func watch(t *testing.T) *machine {
	t.Helper()
	m := &machine{start: time.Now()}
	stopped := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			began := time.Since(m.start)
			m.napping.Store(int64(began))
			select {
			case <-time.After(nap):
				if late := time.Since(m.start) - began - nap; late > nap {
					m.lost.Add(int64(late))
					m.longest.Store(max(m.longest.Load(), int64(late)))
				}
			case <-stopped:
				return
			}
		}
	})
	t.Cleanup(func() { close(stopped); wg.Wait() })
	return m
}

// lostSoFar returns for how long, in all, one could not run who wanted to.
func (m *machine) lostSoFar() time.Duration {
	late := time.Since(m.start) - time.Duration(m.napping.Load()) - nap
	return time.Duration(m.lost.Load()) + max(0, late)
}

// worst returns the longest time for which one could not run.
func (m *machine) worst() time.Duration { return time.Duration(m.longest.Load()) }

var clients = map[string]func(addr string) *redis.Client{
	"a client with go-redis's defaults": func(addr string) *redis.Client {
		return redis.NewClient(&redis.Options{Addr: addr})
	},
	"a client that looks at contexts": func(addr string) *redis.Client {
		return redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
	},
}

// serveFor sends requests from 20 goroutines, for a while, and returns how long the
// slowest took, without the time for which the machine held it up.
func (m *machine) serveFor(t *testing.T, h http.Handler, status int, pause, length time.Duration) time.Duration {
	t.Helper()
	var slowest atomic.Int64
	var wg sync.WaitGroup
	for began, i := time.Now(), 0; i < 20; i++ {
		wg.Go(func() {
			for time.Since(began) < length {
				lost := m.lostSoFar()
				got, took := serve(h)
				took -= m.lostSoFar() - lost
				assert.Equal(t, status, got)
				for old := slowest.Load(); int64(took) > old && !slowest.CompareAndSwap(old, int64(took)); old = slowest.Load() {
				}
				time.Sleep(pause)
			}
		})
	}
	wg.Wait()
	return time.Duration(slowest.Load())
}

// A Redis that hangs holds nobody up for longer than 60 ms, whether the client looks
// at contexts or not, and when it goes on, the limits hold again within a second.
func TestAStoppedRedis(t *testing.T) {
	policies := []struct {
		name       string
		failClosed bool
		status     int
	}{{"open", false, http.StatusNoContent}, {"closed", true, http.StatusServiceUnavailable}}

	for name, newClient := range clients {
		for _, policy := range policies {
			t.Run(name+", fail "+policy.name, func(t *testing.T) {
				server := redistest.NewStandalone(t)
				rdb := newClient(server.Addr())
				defer rdb.Close()
				log := &logBuffer{}
				limiter, err := ratelimit.NewPolicies(redislimit.New(rdb, nil), []ratelimit.Policy{{
					Name: "api", Limits: []ratelimit.Limit{ratelimit.PerHour(1)}, Key: clientIP, FailClosed: policy.failClosed,
				}}, &ratelimit.Options{Logger: slog.New(slog.NewTextHandler(log, nil)), LocalDenial: -1})
				require.NoError(t, err)
				h := limiter.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.WriteHeader(http.StatusNoContent)
				}))
				status, _ := serve(h)
				require.Equal(t, http.StatusNoContent, status)

				busy := watch(t)
				server.Stop(t)
				slowest := busy.serveFor(t, h, policy.status, time.Millisecond, time.Second)
				t.Logf("the slowest request took %v, without being held up by this machine; target: 60ms; this machine stalls for up to %v", slowest, busy.worst())
				assert.GreaterOrEqual(t, limiter.Stats().StoreErrors, uint64(3), "a hanging Redis should have been waited for")
				assert.LessOrEqual(t, slowest, 60*time.Millisecond)
				if lines := log.lines(); assert.Len(t, lines, 1, "failures within ten seconds are one line") {
					assert.Contains(t, lines[0], "the store fails")
					assert.Contains(t, lines[0], "50ms")
				}

				server.Continue(t)
				went := time.Now()
				for status = 0; status != http.StatusTooManyRequests && time.Since(went) < 30*time.Second; time.Sleep(time.Millisecond) {
					status, _ = serve(h)
				}
				t.Logf("the limit held again after %v; target: 1s", time.Since(went))
				assert.LessOrEqual(t, time.Since(went), time.Second+busy.worst())
			})
		}
	}
}

// A Redis that hangs holds up nobody who wants a permit, or has one.
func TestAStoppedRedisHasNoPermits(t *testing.T) {
	server := redistest.NewStandalone(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true})
	defer rdb.Close()
	c, err := ratelimit.NewConcurrency(redislimit.New(rdb, nil), "exports", 1, clientIP, &ratelimit.ConcurrencyOptions{
		Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	h := c.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	var held *ratelimit.Permit
	for held == nil || !held.Held() { // a busy machine may have let it pass without one
		if held, err = c.Acquire(t.Context(), "192.0.2.1"); !errors.Is(err, ratelimit.ErrNoPermit) {
			require.NoError(t, err)
		}
	}
	status := 0
	require.Eventually(t, func() bool {
		status, _ = serve(h)
		return status == http.StatusTooManyRequests
	}, 30*time.Second, time.Millisecond)

	busy := watch(t)
	server.Stop(t)
	slowest := busy.serveFor(t, h, http.StatusNoContent, time.Millisecond, time.Second)
	t.Logf("the slowest request took %v, without being held up by this machine; target: 60ms; this machine stalls for up to %v", slowest, busy.worst())
	assert.LessOrEqual(t, slowest, 60*time.Millisecond)
	assert.Positive(t, c.Stats().FailedOpen)
	server.Continue(t)
	went := time.Now()
	for status = 0; status != http.StatusTooManyRequests && time.Since(went) < 30*time.Second; time.Sleep(time.Millisecond) {
		status, _ = serve(h)
	}
	t.Logf("the limit held again after %v; target: 1s", time.Since(went))
	assert.LessOrEqual(t, time.Since(went), time.Second+busy.worst())
	assert.NoError(t, held.Context().Err(), "it was extended in time")
	held.Release(t.Context())
}

// A Redis that refuses connections: the first requests take 60 ms at most, those
// afterwards 5 ms.
func TestARedisThatIsGone(t *testing.T) {
	for name, newClient := range clients {
		t.Run(name, func(t *testing.T) {
			server := redistest.NewStandalone(t)
			rdb := newClient(server.Addr())
			defer rdb.Close()
			limiter, err := ratelimit.New(redislimit.New(rdb, nil), ratelimit.PerHour(2), clientIP, &ratelimit.Options{
				Logger: slog.New(slog.DiscardHandler),
			})
			require.NoError(t, err)
			h := limiter.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusNoContent)
			}))
			server.Kill(t)
			busy := watch(t)
			slowest := busy.serveFor(t, h, http.StatusNoContent, time.Millisecond, 100*time.Millisecond)
			t.Logf("the slowest of the first requests took %v, without being held up by this machine; target: 60ms; this machine stalls for up to %v", slowest, busy.worst())
			assert.LessOrEqual(t, slowest, 60*time.Millisecond)
			assert.True(t, limiter.Stats().BreakerOpen)

			var took []time.Duration
			for began := time.Now(); time.Since(began) < time.Second; time.Sleep(time.Millisecond) {
				lost := busy.lostSoFar()
				status, t1 := serve(h)
				assert.Equal(t, http.StatusNoContent, status)
				took = append(took, t1-(busy.lostSoFar()-lost))
			}
			slices.Sort(took)
			t.Logf("%d requests later: p50 %v, p99 %v, at most %v; target: 5ms; this machine stalls for up to %v",
				len(took), took[len(took)/2], took[len(took)*99/100], took[len(took)-1], busy.worst())
			assert.LessOrEqual(t, took[len(took)-1], 5*time.Millisecond)
		})
	}
}

// Connections break all the time while three clients ask: answers get lost and
// requests are sent again, so units may be charged twice, but never admitted
// twice.
func TestCutConnectionsAdmitNobodyTwice(t *testing.T) {
	proxy := redistest.NewProxy(t, redistest.Standalone(t).Addr())
	options := &redislimit.Options{Prefix: redistest.Prefix(t)}
	var admitted, failed atomic.Int64
	stop := make(chan struct{})
	var cutter, wg sync.WaitGroup
	cutter.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(3 * time.Millisecond):
				proxy.Cut()
			}
		}
	})
	for range 3 {
		rdb := redis.NewClient(&redis.Options{Addr: proxy.Addr()})
		defer rdb.Close()
		store := redislimit.New(rdb, options)
		for range 10 {
			wg.Go(func() {
				for range 20 {
					d, err := store.Take(t.Context(), request("k"))
					if err != nil {
						failed.Add(1)
					} else if d.Allowed {
						admitted.Add(1)
					}
				}
			})
		}
	}
	wg.Wait()
	close(stop)
	cutter.Wait()
	assert.LessOrEqual(t, admitted.Load(), int64(100))
	assert.Positive(t, admitted.Load())
	t.Logf("of 600 requests %d were admitted and %d failed", admitted.Load(), failed.Load())
}

// Of two keys on two servers the first is charged, and the second server hangs: the
// first gets its units back.
func TestAServerThatHangsInBetween(t *testing.T) {
	a, b := redistest.NewStandalone(t), redistest.NewStandalone(t)
	rdb := redis.NewRing(&redis.RingOptions{
		Addrs:              map[string]string{"a": a.Addr(), "b": b.Addr()},
		HeartbeatFrequency: time.Hour, ContextTimeoutEnabled: true,
	})
	defer rdb.Close()
	store := redislimit.New(rdb, nil)
	var onA, onB string
	for i := 0; onA == "" || onB == ""; i++ {
		key := fmt.Sprint("key ", i)
		_, err := store.Take(t.Context(), request(key))
		require.NoError(t, err)
		n, err := a.Client(t).Exists(t.Context(), "herdless:ratelimit:{"+key+"}limit").Result()
		require.NoError(t, err)
		if n == 1 {
			onA = key
		} else {
			onB = key
		}
	}
	require.NoError(t, store.Reset(t.Context(), onA, "limit"))

	b.Stop(t)
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, err := store.Take(ctx, requestN(10, onA, onB))
		cancel()
		require.Error(t, err)
	}
	assert.Eventually(t, func() bool {
		d, err := store.Take(t.Context(), requestN(0, onA))
		return err == nil && d.States[0].Remaining == 100
	}, 30*time.Second, time.Millisecond, "what was taken is given back")
	b.Continue(t)
	require.Eventually(t, func() bool {
		d, err := store.Take(t.Context(), request(onA, onB))
		return err == nil && d.Allowed
	}, 30*time.Second, 10*time.Millisecond)
}

// scripted is a client whose n-th script meets what is said for it, and runs if that is nothing.
type scripted struct {
	redis.Scripter
	n    atomic.Int64
	meet func(n int64) error
}

func (s *scripted) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	if err := s.meet(s.n.Add(1)); err != nil {
		return redis.NewCmdResult(nil, err)
	}
	return s.Scripter.EvalSha(ctx, sha, keys, args...)
}

// losing is a client that loses the first answers to a script.
type losing struct {
	redis.Scripter
	script *redis.Script
	most   int64
	calls  atomic.Int64
}

func (l *losing) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	if sha != l.script.Hash() {
		return l.Scripter.EvalSha(ctx, sha, keys, args...)
	}
	cmd := l.script.Run(ctx, l.Scripter, keys, args...)
	if l.calls.Add(1) <= l.most {
		return redis.NewCmdResult(nil, io.ErrUnexpectedEOF)
	}
	return cmd
}

// What was given back, and is given back again because the answer was lost, would be what
// others have taken.
func TestUnitsAreGivenBackOnce(t *testing.T) {
	client := &losing{Scripter: redistest.SharedCluster(t).Client(t), script: redis.NewScript(redislimit.GiveBackSource), most: 1}
	store := redislimit.New(client, &redislimit.Options{Prefix: redistest.Prefix(t)})
	for _, limit := range []ratelimit.Limit{ratelimit.PerHour(100), ratelimit.Window(100, time.Hour)} {
		client.calls.Store(0)
		req := func(n int, keys ...string) ratelimit.Request {
			req := requestN(n, keys...)
			for i := range req.Checks {
				req.Checks[i].Limit = limit
			}
			return req
		}
		_, err := store.Take(t.Context(), req(50, "a"))
		require.NoError(t, err)
		_, err = store.Take(t.Context(), req(100, "b"))
		require.NoError(t, err)
		d, err := store.Take(t.Context(), req(10, "a", "b"))
		require.NoError(t, err)
		require.False(t, d.Allowed)
		require.Eventually(t, func() bool { return client.calls.Load() == 2 }, 30*time.Second, time.Millisecond)
		d, err = store.Take(t.Context(), req(0, "a"))
		require.NoError(t, err)
		assert.Equal(t, 50, d.States[0].Remaining, "%v", limit)
	}
}

// redisError is an error that Redis answers with.
type redisError string

func (e redisError) Error() string { return string(e) }
func (redisError) RedisError()     {}

// What a decision that has failed took is given back in a goroutine of the store's own, where a
// hook of go-redis that panics would end the process.
func TestAPanicWhileUnitsAreGivenBackIsContained(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	options := &redislimit.Options{Prefix: redistest.Prefix(t)}
	_, err := redislimit.New(rdb, options).Take(t.Context(), request("new")) // the server knows the script now
	require.NoError(t, err)
	panicked := make(chan struct{})
	client := &scripted{Scripter: rdb, meet: func(n int64) error {
		switch n {
		case 1: // for both keys at once
			return redisError("CROSSSLOT Keys in request don't hash to the same slot")
		case 3: // for the second key
			return redisError("ERR broken")
		case 4: // to give back what was taken of the first one
			defer close(panicked)
			panic("a mistake in a hook")
		}
		return nil
	}}
	store := redislimit.New(client, options)
	_, err = store.Take(t.Context(), request("a", "b"))
	require.ErrorContains(t, err, "broken")
	<-panicked
	for _, want := range []int{98, 97} {
		d, err := store.Take(t.Context(), request("a"))
		require.NoError(t, err)
		assert.Equal(t, want, d.States[0].Remaining, "what was not given back comes back at the limit's rate")
	}
}

func TestAnAbandonedDecisionLeavesNoGoroutine(t *testing.T) {
	server := redistest.NewStandalone(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true})
	require.NoError(t, rdb.Ping(t.Context()).Err())
	running := goleak.IgnoreCurrent()
	server.Stop(t)
	for range 10 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		_, err := redislimit.New(rdb, nil).Take(ctx, request("k"))
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		cancel()
	}
	require.NoError(t, rdb.Close())
	server.Continue(t)
	goleak.VerifyNone(t, running)
}
