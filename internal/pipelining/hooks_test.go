package pipelining_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/pipelining"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// hook does f in place of sending a pipeline, or a command by itself.
type hook struct {
	redis.Hook
	f func(next func() error) error
}

func (*hook) DialHook(next redis.DialHook) redis.DialHook { return next }
func (h *hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { return h.f(func() error { return next(ctx, cmd) }) }
}

func (h *hook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if name := cmds[0].Name(); name == "hello" || name == "client" {
			return next(ctx, cmds)
		}
		return h.f(func() error { return next(ctx, cmds) })
	}
}

// A hook that sends nothing, as a circuit breaker's does, leaves nobody with what
// looks like an answer.
func TestAHookThatSendsNothing(t *testing.T) {
	open := errors.New("the circuit is open")
	for _, alone := range []bool{true, false} {
		for _, limit := range []time.Duration{0, 30 * time.Second} {
			t.Run(fmt.Sprintf("alone=%v, deadline=%v", alone, limit), func(t *testing.T) {
				rdb := redis.NewClient(&redis.Options{Addr: redistest.Standalone(t).Addr()})
				defer rdb.Close()
				rdb.AddHook(&hook{f: func(func() error) error { return open }})
				c, ctx := pipelining.New(rdb, alone), t.Context()
				if limit > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, limit)
					defer cancel()
				}
				var get *redis.StringCmd
				err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
					get = p.Get(ctx, "k")
					return nil
				})
				require.ErrorIs(t, err, open)
				assert.ErrorIs(t, get.Err(), open)
			})
		}
	}
}

// A hook's panic comes to those who called, where a server of HTTP contains it.
func TestAHookThatPanics(t *testing.T) {
	for _, limit := range []time.Duration{0, 30 * time.Second} {
		for _, big := range []bool{false, true} {
			t.Run(fmt.Sprintf("deadline=%v, big=%v", limit, big), func(t *testing.T) {
				rdb := redis.NewClient(&redis.Options{Addr: redistest.Standalone(t).Addr()})
				defer rdb.Close()
				var panics atomic.Bool
				rdb.AddHook(&hook{f: func(next func() error) error {
					if panics.Load() {
						panic("at the hook")
					}
					return next()
				}})
				c, ctx, value := pipelining.New(rdb, false), t.Context(), ""
				if limit > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, limit)
					defer cancel()
				}
				if big {
					value = strings.Repeat("x", 20<<10)
				}
				set := func() error {
					return c.Pipelined(ctx, func(p redis.Pipeliner) error {
						p.Set(ctx, redistest.Prefix(t), value, time.Minute)
						return nil
					})
				}
				panics.Store(true)
				for range 10 {
					func() {
						defer func() { assert.Contains(t, fmt.Sprint(recover()), "at the hook") }()
						_ = set()
					}()
				}
				panics.Store(false)
				assert.NoError(t, set())
			})
		}
	}
}

// refusing is a client of a program's own, which may send nothing.
type refusing struct {
	redis.Scripter
	err error
}

func (r *refusing) Pipelined(context.Context, func(redis.Pipeliner) error) ([]redis.Cmder, error) {
	return nil, r.err
}

// The same holds for a client that somebody has wrapped.
func TestAWrappedClientThatSendsNothing(t *testing.T) {
	open := errors.New("the circuit is open")
	for _, limit := range []time.Duration{0, 30 * time.Second} {
		ctx := t.Context()
		if limit > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, limit)
			defer cancel()
		}
		get := redis.NewStringCmd(ctx, "get", "k")
		err := pipelining.New(&refusing{err: open}, false).Process(ctx, get)
		require.ErrorIs(t, err, open)
		assert.ErrorIs(t, get.Err(), open, "deadline=%v", limit)
	}
}

// tracing is a client of a program's own that does something for scripts.
type tracing struct {
	redis.UniversalClient
	scripts atomic.Int64
}

func (c *tracing) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	c.scripts.Add(1)
	return c.UniversalClient.EvalSha(ctx, sha, keys, args...)
}

// Its scripts go through it, although it can run commands past that.
func TestScriptsGoThroughAWrappedClient(t *testing.T) {
	rdb := &tracing{UniversalClient: redistest.Standalone(t).Client(t)}
	got, err := pipelining.New(rdb, false).Run(t.Context(), echo, []string{redistest.Prefix(t)}, "x")
	require.NoError(t, err)
	assert.Equal(t, "x", got)
	assert.EqualValues(t, 1, rdb.scripts.Load())
}
