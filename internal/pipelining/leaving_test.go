package pipelining_test

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"github.com/herdless/herdless/internal/deadline"
	"github.com/herdless/herdless/internal/pipelining"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// hanging returns a client whose connections hang once they have carried "hang",
// until the test is over, and a channel that tells each that does.
func hanging(t *testing.T) (*redis.Client, <-chan struct{}) {
	server := redistest.Standalone(t)
	goOn, hangs := make(chan struct{}), make(chan struct{}, 200)
	o := &redis.Options{}
	o.PoolSize = 200
	o.Dialer = func(context.Context, string, string) (net.Conn, error) {
		c, err := net.Dial("tcp", server.Addr())
		return &hangingConn{Conn: c, goOn: goOn, hangs: hangs}, err
	}
	rdb := redis.NewClient(o)
	t.Cleanup(func() {
		close(goOn)
		_ = rdb.Close()
	})
	return rdb, hangs
}

// Who has left, because nobody wants the answer any more, holds up nobody.
func TestPipelinesOfThoseWhoHaveLeftDoNotAddUp(t *testing.T) {
	rdb, hangs := hanging(t)
	c, key := pipelining.New(rdb, false), redistest.Prefix(t)
	run := func(ctx context.Context, arg string) error {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second) // later than the test waits
		defer cancel()
		_, err := c.Run(ctx, echo, []string{key}, arg)
		return err
	}
	require.NoError(t, run(t.Context(), ""))
	for range 10 { // more than may send at a time
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { assert.ErrorIs(t, run(ctx, "hang"), context.Canceled) })
		}
		select {
		case <-hangs:
		case <-time.After(10 * time.Second):
			t.Error("what comes waits for connections that hang, and for which nobody waits")
		}
		cancel()
		wg.Wait()
		if t.Failed() {
			return
		}
	}
	assert.NoError(t, run(t.Context(), "next"))
}

// A connection that hangs holds up nobody, even if nobody comes later who notices.
func TestTheLastToComeDoesNotWaitForAConnectionThatHangs(t *testing.T) {
	rdb, hangs := hanging(t)
	c, key := pipelining.New(rdb, false), redistest.Prefix(t)
	run := func(ctx context.Context, arg string) error {
		_, err := c.Run(ctx, echo, []string{key}, arg)
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, run(ctx, ""))
	hung := make(chan error, 1)
	go func() { hung <- run(ctx, "hang") }()
	<-hangs
	next, cancelNext := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancelNext()
	assert.NoError(t, run(next, "next"))
	cancel()
	assert.ErrorIs(t, <-hung, context.Canceled)
}

// While connections hang, what nobody waits for takes no memory.
func TestWhatNobodyWaitsForTakesNoMemory(t *testing.T) {
	rdb, hangs := hanging(t)
	c, key := pipelining.New(rdb, false), redistest.Prefix(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := c.Run(ctx, echo, []string{key}, "")
	require.NoError(t, err)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for range 4 { // as many as may send at a time
		wg.Go(func() { _, _ = c.Run(ctx, echo, []string{key}, "hang") })
		<-hangs
		time.Sleep(30 * time.Millisecond) // it is known to have stalled
	}
	arg := func() weak.Pointer[byte] {
		big := make([]byte, 10<<10)
		limited, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		_, err := c.Run(limited, echo, []string{key}, big)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		return weak.Make(&big[0])
	}()
	assert.Eventually(t, func() bool {
		runtime.GC()
		return arg.Value() == nil
	}, 10*time.Second, 10*time.Millisecond)
}

// Where answers come at the moment when callers leave, each has its own answer or none.
func TestWhoLeavesAsTheAnswerComesGetsItsOwnOrNone(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	c, key := pipelining.New(rdb, false), redistest.Prefix(t)
	var answers, ends atomic.Int64
	inParallel(64, func(g int) {
		bound := deadline.After
		if g%2 == 0 {
			bound = context.WithTimeoutCause
		}
		for i := range 200 {
			ctx, cancel := bound(t.Context(), time.Duration(i)*20*time.Microsecond, nil)
			want := fmt.Sprint(g, "-", i)
			got, err := c.Run(ctx, echo, []string{key}, want)
			cancel()
			if err != nil {
				ends.Add(1)
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				continue
			}
			answers.Add(1)
			assert.Equal(t, want, got)
		}
	})
	assert.NotZero(t, answers.Load())
	assert.NotZero(t, ends.Load())
}
