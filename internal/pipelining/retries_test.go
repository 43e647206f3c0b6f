package pipelining_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/deadline"
	"github.com/herdless/herdless/internal/pipelining"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What plain go-redis tries again is tried again, for those whom it concerns: the
// others' commands run once, as they would by themselves.
func TestOnlyWhatFailedIsTriedAgain(t *testing.T) {
	third := redis.NewScript("if redis.call('INCR', KEYS[1]) < 3 then return redis.error_reply('TRYAGAIN later') end return 'done'")
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		prefix, c := redistest.Prefix(t), pipelining.New(rdb, false)
		const goroutines, times = 64, 10
		inParallel(goroutines, func(g int) {
			for i := range times {
				if g%2 == 0 {
					got, err := c.Run(t.Context(), third, []string{fmt.Sprint(prefix, g, "-", i)})
					assert.NoError(t, err)
					assert.Equal(t, "done", got)
					continue
				}
				_, err := c.Run(t.Context(), echo, []string{fmt.Sprint(prefix, g)}, "")
				assert.NoError(t, err)
			}
		})
		for g := 1; g < goroutines; g += 2 {
			assert.Equal(t, fmt.Sprint(times), rdb.Get(t.Context(), fmt.Sprint(prefix, g)).Val(), "each ran once")
		}
	})
}

// breakingConn ends, once for all of its dialer, when it has brought some of the
// answers to a pipeline.
type breakingConn struct {
	net.Conn
	broken  *atomic.Int64 // how many commands the pipeline had, once there was one
	mine    bool
	allowed int
}

const answered = 10 // of ":1\r\n"

func (c *breakingConn) Write(p []byte) (int, error) {
	if n := bytes.Count(p, []byte("incr")); n > answered && c.broken.CompareAndSwap(0, int64(n)) {
		c.mine, c.allowed = true, answered*len(":1\r\n")
	}
	return c.Conn.Write(p)
}

func (c *breakingConn) Read(p []byte) (int, error) {
	if !c.mine {
		return c.Conn.Read(p)
	}
	if c.allowed == 0 {
		_ = c.Close()
	}
	n, err := c.Conn.Read(p[:min(len(p), max(c.allowed, 1))])
	c.allowed -= n
	return n, err
}

// A connection that breaks makes only those commands run again that were not
// answered.
func TestWhatWasAnsweredIsNotRunAgain(t *testing.T) {
	server := redistest.Standalone(t)
	var broken atomic.Int64
	o := &redis.Options{Addr: server.Addr()}
	o.Dialer = func(context.Context, string, string) (net.Conn, error) {
		conn, err := net.Dial("tcp", server.Addr())
		return &breakingConn{Conn: conn, broken: &broken}, err
	}
	rdb := redis.NewClient(o)
	defer rdb.Close()
	prefix, c := redistest.Prefix(t), pipelining.New(rdb, false)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var calls, ran atomic.Int64
	for broken.Load() == 0 && ctx.Err() == nil {
		inParallel(100, func(int) {
			key := fmt.Sprint(prefix, calls.Add(1))
			assert.NoError(t, c.Pipelined(ctx, func(p redis.Pipeliner) error {
				p.Incr(ctx, key)
				return nil
			}))
			n, err := rdb.Get(ctx, key).Int64()
			assert.NoError(t, err)
			ran.Add(n)
		})
	}
	assert.Equal(t, calls.Load()+broken.Load()-answered, ran.Load())
}

// Without retries there are none.
func TestNothingIsTriedAgainWithoutRetries(t *testing.T) {
	server := redistest.Standalone(t)
	o := &redis.Options{Addr: server.Addr()}
	o.MaxRetries = -1
	rdb := redis.NewClient(o)
	defer rdb.Close()
	key, c := redistest.Prefix(t), pipelining.New(rdb, false)
	again := redis.NewScript("redis.call('INCR', KEYS[1]) return redis.error_reply('TRYAGAIN later')")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := c.Run(ctx, again, []string{key})
	require.ErrorContains(t, err, "TRYAGAIN")
	assert.Equal(t, "1", rdb.Get(ctx, key).Val())
}

// losingConn breaks when it is to carry "lost".
type losingConn struct {
	net.Conn
	lost func()
}

func (c losingConn) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("lost")) {
		c.lost()
		_ = c.Close()
	}
	return c.Conn.Write(p)
}

// A command that goes by itself is not sent again once its caller has been cancelled.
func TestWhoIsCancelledIsNotTriedAgain(t *testing.T) {
	parent, cancelParent := context.WithCancel(t.Context())
	defer cancelParent()
	var sent atomic.Int64
	rdb := redis.NewClient(&redis.Options{
		Addr: redistest.Standalone(t).Addr(), ContextTimeoutEnabled: true, MinRetryBackoff: 50 * time.Millisecond, MaxRetryBackoff: 50 * time.Millisecond,
		Dialer: func(_ context.Context, network, addr string) (net.Conn, error) {
			c, err := net.Dial(network, addr)
			return losingConn{c, func() { sent.Add(1); time.AfterFunc(time.Millisecond, cancelParent) }}, err
		},
	})
	defer rdb.Close()
	ctx, cancel := deadline.After(parent, time.Minute, nil)
	defer cancel()
	err := pipelining.New(rdb, false).Process(ctx, redis.NewStatusCmd(ctx, "set", "lost", "v"))
	require.ErrorIs(t, err, context.Canceled)
	assert.EqualValues(t, 1, sent.Load())
}
