package ratelimit_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/middleware/ratelimit"
)

func newConcurrency(t *testing.T, store ratelimit.PermitStore, limit int, o *ratelimit.ConcurrencyOptions) *ratelimit.Concurrency {
	t.Helper()
	c, err := ratelimit.NewConcurrency(store, "exports", limit, byHeader, o)
	require.NoError(t, err)
	return c
}

func TestNewConcurrencyReportsAllFaultsAtOnce(t *testing.T) {
	_, err := ratelimit.NewConcurrency(nil, "a:b", 0, nil, &ratelimit.ConcurrencyOptions{Lease: time.Millisecond, Timeout: -1, Local: -1})
	for _, want := range []string{"no store", "a name holds only", "must be positive", "no key", "Lease is 1ms", "Timeout is -1ns", "Local is -1"} {
		assert.ErrorContains(t, err, want)
	}
	_, err = ratelimit.NewConcurrency(ratelimit.NewMemoryStore(), "exports", 1, byHeader, &ratelimit.ConcurrencyOptions{FailClosed: true, Local: 1})
	assert.ErrorContains(t, err, "FailClosed and Local exclude each other")
	_, err = ratelimit.NewConcurrency((*ratelimit.MemoryStore)(nil), "exports", 1, byHeader, &ratelimit.ConcurrencyOptions{Denied: (*http.ServeMux)(nil)})
	assert.ErrorContains(t, err, "no store")
	assert.ErrorContains(t, err, "ConcurrencyOptions.Denied is a nil *http.ServeMux")
	c := newConcurrency(t, ratelimit.NewMemoryStore(), 1, nil)
	assert.PanicsWithValue(t, "ratelimit: Concurrency.Handler needs a handler to wrap, and got nil", func() { c.Handler(nil) })
}

func TestConcurrencyHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := ratelimit.NewMemoryStore()
		c := newConcurrency(t, store, 2, nil)
		inside, finish := make(chan struct{}), make(chan struct{})
		h := c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Wait") != "" {
				inside <- struct{}{}
				<-finish
			}
			w.WriteHeader(http.StatusNoContent)
		}))
		done := make(chan *httptest.ResponseRecorder)
		for range 2 {
			go func() {
				r := httptest.NewRequest("GET", "/", nil)
				r.Header.Set("X-Key", "a")
				r.Header.Set("X-Wait", "yes")
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				done <- w
			}()
			<-inside
		}
		w := get(h, "a")
		assert.Equal(t, http.StatusTooManyRequests, w.Code)
		assert.Equal(t, "1", w.Header().Get("Retry-After"))
		assert.Equal(t, `"exports";q=2;qu="concurrent-requests"`, w.Header().Get("RateLimit-Policy"))
		assert.Equal(t, `"exports";r=0`, w.Header().Get("RateLimit"))
		assert.Contains(t, w.Body.String(), `"violated-policies":["exports"]`)
		assert.Equal(t, http.StatusNoContent, get(h, "b").Code, "another key")
		assert.Equal(t, http.StatusBadRequest, get(h, "").Code)

		var left []string
		for range 2 {
			finish <- struct{}{}
			left = append(left, (<-done).Header().Get("RateLimit"))
		}
		assert.ElementsMatch(t, []string{`"exports";r=1`, `"exports";r=0`}, left)
		assert.Equal(t, http.StatusNoContent, get(h, "a").Code)
		stats := c.Stats()
		assert.EqualValues(t, 4, stats.Admitted)
		assert.EqualValues(t, 1, stats.Denied)
		assert.EqualValues(t, 1, stats.NoKey)

		panics := c.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("a handler") }))
		for range 5 {
			assert.Panics(t, func() { get(panics, "a") })
		}
		assert.Equal(t, http.StatusNoContent, get(h, "a").Code, "a handler that panics keeps no permit")
	})
}

func TestPermitsAreExtended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConcurrency(t, ratelimit.NewMemoryStore(), 1, nil)
		p, err := c.Acquire(t.Context(), "a")
		require.NoError(t, err)
		assert.True(t, p.Held())
		for range 10 {
			time.Sleep(7 * time.Second)
			_, err = c.Acquire(t.Context(), "a")
			assert.ErrorIs(t, err, ratelimit.ErrNoPermit)
			assert.NoError(t, p.Context().Err())
		}
		p.Release(t.Context())
		p.Release(t.Context())
		assert.ErrorIs(t, p.Context().Err(), context.Canceled)
		p, err = c.Acquire(t.Context(), "a")
		require.NoError(t, err)
		p.Release(t.Context())
		_, err = c.Acquire(t.Context(), "")
		assert.Error(t, err)
	})
}

// brittle is a PermitStore that fails when it is told to.
type brittle struct {
	*ratelimit.MemoryStore
	broken atomic.Bool
}

func (b *brittle) Acquire(ctx context.Context, p ratelimit.PermitRequest) (ratelimit.PermitState, error) {
	if b.broken.Load() {
		return ratelimit.PermitState{}, errors.New("broken")
	}
	return b.MemoryStore.Acquire(ctx, p)
}

func (b *brittle) Extend(ctx context.Context, p ratelimit.PermitRequest) (bool, error) {
	if b.broken.Load() {
		return false, errors.New("broken")
	}
	return b.MemoryStore.Extend(ctx, p)
}

// A permit that cannot be extended is lost before somebody else can have it.
func TestAPermitIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &brittle{MemoryStore: ratelimit.NewMemoryStore()}
		var lost atomic.Int64
		c := newConcurrency(t, store, 1, &ratelimit.ConcurrencyOptions{
			Logger: slog.New(slog.DiscardHandler),
			Observe: func(_ context.Context, e ratelimit.Event) {
				if e.Kind == ratelimit.PermitLost {
					lost.Add(1)
				}
			},
		})
		other := newConcurrency(t, store.MemoryStore, 1, nil)
		p, err := c.Acquire(t.Context(), "a")
		require.NoError(t, err)
		time.Sleep(5 * time.Second) // extended once, at 10/3 s
		store.broken.Store(true)
		<-p.Context().Done()
		assert.ErrorIs(t, context.Cause(p.Context()), ratelimit.ErrPermitLost)
		_, err = other.Acquire(t.Context(), "a")
		require.ErrorIs(t, err, ratelimit.ErrNoPermit, "the context ended first")
		time.Sleep(150 * time.Millisecond)
		next, err := other.Acquire(t.Context(), "a")
		require.NoError(t, err)
		store.broken.Store(false)
		p.Release(t.Context())
		_, err = other.Acquire(t.Context(), "a")
		require.ErrorIs(t, err, ratelimit.ErrNoPermit, "what was lost frees nobody else's")
		next.Release(t.Context())
		assert.EqualValues(t, 1, lost.Load())
		assert.EqualValues(t, 1, c.Stats().PermitsLost)
	})
}

func TestAPermitThatWasTakenAwayIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConcurrency(t, forgetful{}, 1, nil)
		began := time.Now()
		p, err := c.Acquire(t.Context(), "a")
		require.NoError(t, err)
		<-p.Context().Done()
		assert.ErrorIs(t, context.Cause(p.Context()), ratelimit.ErrPermitLost)
		assert.Less(t, time.Since(began), 4*time.Second, "at the first renewal")
		p.Release(t.Context())
	})
}

// forgetful loses every permit.
type forgetful struct{}

func (forgetful) Acquire(context.Context, ratelimit.PermitRequest) (ratelimit.PermitState, error) {
	return ratelimit.PermitState{Acquired: true, Held: 1}, nil
}

func (forgetful) Extend(context.Context, ratelimit.PermitRequest) (bool, error) { return false, nil }
func (forgetful) Release(context.Context, ratelimit.PermitRequest) error        { return nil }

func TestConcurrencyWhenTheStoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, closed := range []bool{false, true} {
			store := &brittle{MemoryStore: ratelimit.NewMemoryStore()}
			store.broken.Store(true)
			c := newConcurrency(t, store, 1, &ratelimit.ConcurrencyOptions{FailClosed: closed, Logger: slog.New(slog.DiscardHandler)})
			h := c.Handler(ok)
			for range 10 {
				w := get(h, "a")
				if closed {
					assert.Equal(t, http.StatusServiceUnavailable, w.Code)
				} else {
					assert.Equal(t, http.StatusNoContent, w.Code)
				}
				assert.Empty(t, w.Header().Get("RateLimit"))
			}
			p, err := c.Acquire(t.Context(), "a")
			if closed {
				assert.Error(t, err)
			} else {
				require.NoError(t, err)
				assert.False(t, p.Held())
				p.Release(t.Context())
			}
			stats := c.Stats()
			assert.EqualValues(t, 11, stats.FailedClosed+stats.FailedOpen)
			assert.True(t, stats.BreakerOpen)
			assert.EqualValues(t, 3, stats.StoreErrors)
		}
	})
}

func TestConcurrencyInShadow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConcurrency(t, ratelimit.NewMemoryStore(), 1, &ratelimit.ConcurrencyOptions{Shadow: true})
		first, err := c.Acquire(t.Context(), "a")
		require.NoError(t, err)
		w := get(c.Handler(ok), "a")
		assert.Equal(t, http.StatusNoContent, w.Code)
		assert.Empty(t, w.Header())
		first.Release(t.Context())
		assert.EqualValues(t, 1, c.Stats().ShadowDenied)
		assert.EqualValues(t, 2, c.Stats().Admitted)
	})
}

func TestAnAcquireThatIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConcurrency(t, ratelimit.NewMemoryStore(), 1, nil)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range 5 {
			p, err := c.Acquire(ctx, "a")
			assert.Nil(t, p)
			assert.ErrorIs(t, err, context.Canceled)
		}
		assert.False(t, c.Stats().BreakerOpen)
	})
}

// While the store fails each process limits by itself, if the options say so.
func TestALocalConcurrencyWhileTheStoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &brittle{MemoryStore: ratelimit.NewMemoryStore()}
		var last ratelimit.Event
		c := newConcurrency(t, store, 10, &ratelimit.ConcurrencyOptions{
			Local: 2, Logger: slog.New(slog.DiscardHandler),
			Observe: func(_ context.Context, e ratelimit.Event) {
				if e.Kind != ratelimit.BreakerChanged { // which is told beside
					last = e
				}
			},
		})
		fromStore, err := c.Acquire(t.Context(), "a")
		require.NoError(t, err)
		store.broken.Store(true)
		var held []*ratelimit.Permit
		for range 2 {
			p, err := c.Acquire(t.Context(), "a")
			require.NoError(t, err)
			assert.False(t, p.Held(), "in the store")
			assert.NoError(t, p.Context().Err())
			assert.Equal(t, ratelimit.FailedOpen, last.Kind)
			assert.True(t, last.Local)
			held = append(held, p)
		}
		for range 5 {
			_, err = c.Acquire(t.Context(), "a")
			assert.ErrorIs(t, err, ratelimit.ErrNoPermit)
			assert.ErrorContains(t, err, "the store fails")
			assert.Equal(t, ratelimit.Denied, last.Kind)
			assert.True(t, last.Local)
		}
		h := c.Handler(ok)
		assert.Equal(t, http.StatusTooManyRequests, get(h, "a").Code)
		for range 5 {
			assert.Equal(t, http.StatusNoContent, get(h, "b").Code, "another key, and what was released")
		}
		for range 3 {
			held[0].Release(t.Context())
		}
		assert.ErrorIs(t, held[0].Context().Err(), context.Canceled)
		again, err := c.Acquire(t.Context(), "a")
		require.NoError(t, err)
		_, err = c.Acquire(t.Context(), "a")
		assert.ErrorIs(t, err, ratelimit.ErrNoPermit, "it was released once")
		again.Release(t.Context())
		held[1].Release(t.Context())
		stats := c.Stats()
		assert.EqualValues(t, 8, stats.LocalAdmitted)
		assert.EqualValues(t, 7, stats.LocalDenied)
		assert.Zero(t, stats.FailedOpen+stats.FailedClosed)
		assert.Zero(t, ratelimit.LocalPermits(c), "nothing is left of them")

		store.broken.Store(false)
		time.Sleep(time.Second)
		get(h, "a") // which tries the store, beside
		synctest.Wait()
		p, err := c.Acquire(t.Context(), "a")
		require.NoError(t, err)
		assert.True(t, p.Held())
		p.Release(t.Context())
		fromStore.Release(t.Context())

		store.broken.Store(true)
		shadow := newConcurrency(t, store, 10, &ratelimit.ConcurrencyOptions{
			Local: 1, Shadow: true, Logger: slog.New(slog.DiscardHandler),
		})
		for range 3 {
			p, err := shadow.Acquire(t.Context(), "a")
			require.NoError(t, err, "it denies nothing, whatever fails")
			defer p.Release(t.Context())
		}
	})
}
