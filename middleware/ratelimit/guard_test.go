package ratelimit_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/middleware/ratelimit"
)

// switched is a store that fails while it is off.
type switched struct {
	*ratelimit.MemoryStore
	off atomic.Bool
}

func (s *switched) Take(ctx context.Context, req ratelimit.Request) (ratelimit.Decision, error) {
	if s.off.Load() {
		return ratelimit.Decision{}, errors.New("switched off")
	}
	return s.MemoryStore.Take(ctx, req)
}

// Who hears of the circuit breaker late, because the processor is busy or Observe is, hears
// of one change after the other all the same, and ends with how it stands.
func TestChangesOfTheCircuitBreakerAreToldInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &switched{MemoryStore: ratelimit.NewMemoryStore()}
		var mu sync.Mutex
		var told []bool
		l := newPolicy(t, store, ratelimit.Policy{Limits: []ratelimit.Limit{ratelimit.PerHour(1000)}}, &ratelimit.Options{
			Logger: slog.New(slog.DiscardHandler),
			Observe: func(_ context.Context, e ratelimit.Event) {
				if e.Kind != ratelimit.BreakerChanged {
					return
				}
				if e.Open {
					time.Sleep(2 * time.Second) // held up
				}
				mu.Lock()
				defer mu.Unlock()
				told = append(told, e.Open)
			},
		})
		allow := func() { _, _ = l.Allow(t.Context(), "a") } // whatever it says
		store.off.Store(true)
		for range 3 {
			go allow()
		}
		time.Sleep(time.Second)
		store.off.Store(false)
		allow() // which tries the store, beside
		time.Sleep(500 * time.Millisecond)
		assert.False(t, l.Stats().BreakerOpen)
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		assert.Equal(t, []bool{true, false}, told)
	})
}

// scripted is a store whose steps are what step does.
type scripted struct {
	*ratelimit.MemoryStore
	step atomic.Pointer[func() error]
}

func newScripted(step func() error) *scripted {
	s := &scripted{MemoryStore: ratelimit.NewMemoryStore()}
	s.step.Store(&step)
	return s
}

func (s *scripted) Take(ctx context.Context, req ratelimit.Request) (ratelimit.Decision, error) {
	if err := (*s.step.Load())(); err != nil {
		return ratelimit.Decision{}, err
	}
	return s.MemoryStore.Take(ctx, req)
}

func (s *scripted) Extend(ctx context.Context, p ratelimit.PermitRequest) (bool, error) {
	if err := (*s.step.Load())(); err != nil {
		return false, err
	}
	return s.MemoryStore.Extend(ctx, p)
}

func (s *scripted) Release(ctx context.Context, p ratelimit.PermitRequest) error {
	if err := (*s.step.Load())(); err != nil {
		return err
	}
	return s.MemoryStore.Release(ctx, p)
}

func panics() error { panic("a mistake") }
func fails() error  { return errors.New("broken") }
func works() error  { return nil }

// lines is a log that may be written and read at once.
type lines struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// A store or an Observe that panics beside the requests, where no server of HTTP contains
// it, does not end the process, and the store is tried again.
func TestAPanicWhileTheStoreIsTriedIsContained(t *testing.T) {
	for name, observePanics := range map[string]bool{"the store": false, "Observe": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, log, request := newScripted(fails), &lines{}, true
				l := newPolicy(t, store, ratelimit.Policy{Limits: []ratelimit.Limit{ratelimit.PerHour(1)}}, &ratelimit.Options{
					Logger: slog.New(slog.NewTextHandler(log, nil)),
					Observe: func(context.Context, ratelimit.Event) {
						if observePanics && !request {
							panic("a mistake")
						}
					},
				})
				allow := func() bool {
					result, _ := l.Allow(t.Context(), "a") // the error is not what this is about
					return result.Allowed
				}
				for range 3 {
					assert.True(t, allow())
				}
				if !observePanics {
					store.step.Store(ptr(panics))
				}
				for range 5 {
					time.Sleep(time.Second)
					request = false
					func() {
						defer func() { _ = recover() }() // what Observe does to the request
						allow()
					}()
					synctest.Wait()
					request = true
					assert.True(t, l.Stats().BreakerOpen)
				}
				assert.Contains(t, log.String(), "a mistake")
				assert.Contains(t, log.String(), "guard_test.go", "where it was")
				store.step.Store(ptr(works))
				time.Sleep(time.Second)
				allow()
				synctest.Wait()
				assert.False(t, l.Stats().BreakerOpen)
				assert.True(t, allow())
				assert.False(t, allow())
			})
		})
	}
}

func ptr[T any](v T) *T { return &v }

// The same of what keeps a permit or gives one back, and of who hears that it is lost.
func TestAPanicWhileAPermitIsKeptIsContained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, log, heard := newScripted(panics), &lines{}, make(chan struct{}, 1)
		c := newConcurrency(t, store, 1, &ratelimit.ConcurrencyOptions{
			Logger: slog.New(slog.NewTextHandler(log, nil)),
			Observe: func(_ context.Context, e ratelimit.Event) {
				if e.Kind == ratelimit.PermitLost {
					heard <- struct{}{}
					panic("another mistake")
				}
			},
		})
		left, leave := context.WithCancel(t.Context())
		leave()
		_, err := c.Acquire(left, "a")
		assert.ErrorIs(t, err, context.Canceled)
		synctest.Wait()
		assert.Contains(t, log.String(), "a mistake", "in giving back what may have been acquired")

		store.step.Store(ptr(works))
		p, err := c.Acquire(t.Context(), "a")
		require.NoError(t, err)
		store.step.Store(ptr(panics))
		time.Sleep(4 * time.Second) // a renewal panics
		store.step.Store(ptr(works))
		time.Sleep(time.Minute)
		assert.NoError(t, p.Context().Err(), "it was tried again")
		store.step.Store(ptr(panics))
		time.Sleep(time.Minute)
		assert.ErrorIs(t, context.Cause(p.Context()), ratelimit.ErrPermitLost)
		<-heard
	})
}

// An Observe that panics when it hears of a permit keeps that from nobody, whether it is one of
// the store or of the process.
func TestAPanicOfObserveKeepsNoPermit(t *testing.T) {
	for name, broken := range map[string]bool{"the store": false, "the process": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &brittle{MemoryStore: ratelimit.NewMemoryStore()}
				store.broken.Store(broken)
				mistake := true
				c := newConcurrency(t, store, 1, &ratelimit.ConcurrencyOptions{
					Local: 1, Logger: slog.New(slog.DiscardHandler),
					Observe: func(_ context.Context, e ratelimit.Event) {
						if mistake && (e.Kind == ratelimit.Admitted || e.Kind == ratelimit.FailedOpen) {
							panic("a mistake")
						}
					},
				})
				assert.Panics(t, func() { _, _ = c.Acquire(t.Context(), "a") })
				mistake = false
				p, err := c.Acquire(t.Context(), "a")
				require.NoError(t, err)
				p.Release(t.Context())
			})
		})
	}
}
