package ratelimit_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

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
