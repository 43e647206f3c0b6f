package pipelining_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/pipelining"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { os.Exit(redistest.Run(m)) }

var (
	echo = redis.NewScript("redis.call('INCR', KEYS[1]) return ARGV[1]")
	fail = redis.NewScript("return redis.error_reply('BAD ' .. ARGV[1])")
)

// slack is what a busy machine may add to a deadline.
const slack = 500 * time.Millisecond

func TestEachGetsItsOwnAnswer(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		prefix := redistest.Prefix(t)
		r := pipelining.New(rdb, false)
		const goroutines, times = 64, 50
		var wg sync.WaitGroup
		for g := range goroutines {
			wg.Go(func() {
				for i := range times {
					want := fmt.Sprint(g, "-", i)
					if i%10 == 3 { // a script that fails is nobody else's trouble
						_, err := r.Run(t.Context(), fail, []string{prefix + fmt.Sprint(g)}, want)
						assert.ErrorContains(t, err, "BAD "+want)
						continue
					}
					got, err := r.Run(t.Context(), echo, []string{prefix + fmt.Sprint(g)}, want)
					assert.NoError(t, err)
					assert.Equal(t, want, got)
				}
			})
		}
		wg.Wait()
		for g := range goroutines {
			assert.Equal(t, "45", rdb.Get(t.Context(), prefix+fmt.Sprint(g)).Val(), "each ran once")
		}
	})
}

func TestManyGoTogether(t *testing.T) {
	server := redistest.Standalone(t)
	proxy := redistest.NewProxy(t, server.Addr())
	proxy.SetLatency(2 * time.Millisecond)
	rdb := redis.NewClient(&redis.Options{Addr: proxy.Addr(), ContextTimeoutEnabled: true, PoolSize: 100})
	defer rdb.Close()
	r, key := pipelining.New(rdb, false), redistest.Prefix(t)+"k"
	_, err := r.Run(t.Context(), echo, []string{key}, "")
	require.NoError(t, err)
	proxy.Reset()
	const goroutines, times = 100, 20
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range times {
				_, err := r.Run(t.Context(), echo, []string{key}, "")
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	assert.Less(t, int(proxy.Stats().RoundTrips), goroutines*times/5)
}

// A server that comes back after a restart, or a replica after a failover, does
// not know the scripts.
func TestScriptsThatTheServerDoesNotKnow(t *testing.T) {
	rdb := redistest.NewStandalone(t).Client(t)
	r := pipelining.New(rdb, false)
	var wg sync.WaitGroup
	var ran atomic.Int64
	for i := range 200 {
		wg.Go(func() {
			if i%20 == 0 {
				assert.NoError(t, rdb.ScriptFlush(t.Context()).Err())
			}
			_, err := r.Run(t.Context(), echo, []string{"k"}, "x")
			assert.NoError(t, err)
			ran.Add(1)
		})
	}
	wg.Wait()
	assert.Equal(t, fmt.Sprint(ran.Load()), rdb.Get(t.Context(), "k").Val())
}

func TestDeadlinesHoldWhileRedisHangs(t *testing.T) {
	for _, obeys := range []bool{true, false} {
		t.Run(fmt.Sprintf("ContextTimeoutEnabled=%v", obeys), func(t *testing.T) {
			server := redistest.NewStandalone(t)
			rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: obeys, ReadTimeout: 2 * time.Second, MaxRetries: -1})
			before := goleak.IgnoreCurrent()
			r := pipelining.New(rdb, false)
			_, err := r.Run(t.Context(), echo, []string{"k"}, "")
			require.NoError(t, err)
			server.Stop(t)
			began := time.Now()
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
					defer cancel()
					_, err := r.Run(ctx, echo, []string{"k"}, "")
					assert.ErrorIs(t, err, context.DeadlineExceeded)
				})
			}
			wg.Wait()
			assert.Less(t, time.Since(began), 200*time.Millisecond+slack)

			// And whoever comes afterwards is served.
			server.Continue(t)
			for range 50 {
				wg.Go(func() {
					_, err := r.Run(t.Context(), echo, []string{"k"}, "")
					assert.NoError(t, err)
				})
			}
			wg.Wait()
			require.NoError(t, rdb.Close())
			goleak.VerifyNone(t, before)
		})
	}
}

func TestWhatNobodyWaitsForIsNotSent(t *testing.T) {
	server := redistest.NewStandalone(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), ReadTimeout: 3 * time.Second, MaxRetries: -1})
	defer rdb.Close()
	r := pipelining.New(rdb, false)
	_, err := r.Run(t.Context(), echo, []string{"k"}, "")
	require.NoError(t, err)
	server.Stop(t)
	// All come before the first of them gives up, also on a busy machine.
	var wg sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for range 1000 {
		wg.Go(func() {
			_, err := r.Run(ctx, echo, []string{"k"}, "")
			assert.ErrorIs(t, err, context.DeadlineExceeded)
		})
	}
	wg.Wait()
	server.Continue(t)
	_, err = r.Run(t.Context(), echo, []string{"k"}, "")
	require.NoError(t, err)
	n, err := rdb.Get(t.Context(), "k").Int()
	require.NoError(t, err)
	assert.Less(t, n, 600, "only what was under way when Redis stopped answering")
}

// hangingConn answers no more once it has carried "hang", until it is told to.
type hangingConn struct {
	net.Conn
	hung  atomic.Bool
	goOn  <-chan struct{}
	hangs chan<- struct{}
}

func (c *hangingConn) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("hang")) && c.hung.CompareAndSwap(false, true) {
		c.hangs <- struct{}{}
	}
	return c.Conn.Write(p)
}

func (c *hangingConn) Read(p []byte) (int, error) {
	if c.hung.Load() {
		<-c.goOn
	}
	return c.Conn.Read(p)
}

// One connection that hangs holds up those whose scripts it carries, and not all
// who come after them.
func TestAConnectionThatHangsHoldsUpItsOwn(t *testing.T) {
	server := redistest.Standalone(t)
	goOn, hangs := make(chan struct{}), make(chan struct{}, 100)
	rdb := redis.NewClient(&redis.Options{PoolSize: 20, Dialer: func(context.Context, string, string) (net.Conn, error) {
		c, err := net.Dial("tcp", server.Addr())
		return &hangingConn{Conn: c, goOn: goOn, hangs: hangs}, err
	}})
	defer rdb.Close()
	r, key := pipelining.New(rdb, false), redistest.Prefix(t)+"k"
	_, err := r.Run(t.Context(), echo, []string{key}, "")
	require.NoError(t, err)
	run := func(arg string) <-chan struct{} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, err := r.Run(t.Context(), echo, []string{key}, arg)
			assert.NoError(t, err)
		}()
		return done
	}
	var hung []<-chan struct{}
	for range 5 { // four go by themselves, and one in a pipeline
		hung = append(hung, run("hang"))
		<-hangs
	}
	time.Sleep(50 * time.Millisecond) // it is known to have stalled
	select {
	case <-run("next"):
	case <-time.After(5 * time.Second):
		t.Error("a script waits for a connection that hangs")
	}
	close(goOn)
	for _, done := range hung {
		<-done
	}
}

// Whoever has a deadline does not wait longer for a connection that hangs, and does
// not let others wait for it either: with the client's timeouts, that is seconds.
func TestConnectionsThatHangDoNotAddUp(t *testing.T) {
	server := redistest.Standalone(t)
	goOn, hangs := make(chan struct{}), make(chan struct{}, 200)
	rdb := redis.NewClient(&redis.Options{PoolSize: 200, Dialer: func(context.Context, string, string) (net.Conn, error) {
		c, err := net.Dial("tcp", server.Addr())
		return &hangingConn{Conn: c, goOn: goOn, hangs: hangs}, err
	}})
	defer rdb.Close()
	before := goleak.IgnoreCurrent()
	r, key := pipelining.New(rdb, false), redistest.Prefix(t)+"k"
	run := func(arg string, limit time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		_, err := r.Run(ctx, echo, []string{key}, arg)
		return err
	}
	require.NoError(t, run("", 5*time.Second))
	for began := time.Now(); len(hangs) < 10 && time.Since(began) < 10*time.Second; { // more than may send at a time
		require.ErrorIs(t, run("hang", 50*time.Millisecond), context.DeadlineExceeded)
	}
	assert.GreaterOrEqual(t, len(hangs), 10, "what is sent while others hang") // one can get there after its deadline
	assert.NoError(t, run("next", 5*time.Second), "a script waits for connections that hang")

	// They are bounded all the same.
	for range 100 {
		_ = run("hang", 5*time.Millisecond)
	}
	assert.LessOrEqual(t, len(hangs), 70)
	close(goOn)
	assert.NoError(t, run("next", 5*time.Second))
	require.NoError(t, rdb.Close())
	goleak.VerifyNone(t, before)
}

func TestAContextThatHasEnded(t *testing.T) {
	r := pipelining.New(redistest.Standalone(t).Client(t), false)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := r.Run(ctx, echo, []string{"k"}, "")
	require.ErrorIs(t, err, context.Canceled)
	ctx, cancel = context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	_, err = r.Run(ctx, echo, []string{"k"}, "")
	require.True(t, errors.Is(err, context.DeadlineExceeded))
}
