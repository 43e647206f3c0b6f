package ratelimit_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/middleware/ratelimit"
)

// slowStore takes its time for the requests of one key.
type slowStore struct {
	*ratelimit.MemoryStore
	key  string
	time time.Duration
}

func (s slowStore) Take(ctx context.Context, req ratelimit.Request) (ratelimit.Decision, error) {
	if req.Checks[0].Key == s.key {
		time.Sleep(s.time)
	}
	return s.MemoryStore.Take(ctx, req)
}

// A key was denied long ago, and now many of its requests come at once. One asks and the others
// wait for it; that the process forgets the old denial meanwhile, because other keys are denied,
// must not let them wait in vain and then pass uncounted.
func TestADenialIsForgottenWhileOthersWaitForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := ratelimit.New(slowStore{ratelimit.NewMemoryStore(), "a", 20 * time.Millisecond},
			ratelimit.PerMinute(1), ratelimit.Everybody, nil)
		require.NoError(t, err)
		for _, want := range []bool{true, false} {
			r, err := l.Allow(t.Context(), "a")
			require.NoError(t, err)
			require.Equal(t, want, r.Allowed)
		}
		time.Sleep(time.Hour)

		admitted := make(chan bool, 5)
		for range cap(admitted) {
			go func() {
				r, err := l.Allow(t.Context(), "a")
				assert.NoError(t, err)
				admitted <- r.Allowed
			}()
		}
		synctest.Wait() // one asks, the others wait
		for i := range 1000 {
			for range 2 {
				_, err := l.Allow(t.Context(), fmt.Sprint("other ", i))
				require.NoError(t, err)
			}
		}
		n := 0
		for range cap(admitted) {
			if <-admitted {
				n++
			}
		}
		assert.Equal(t, 1, n)
		assert.Zero(t, l.Stats().FailedOpen)
	})
}

// full is a store that has no room for anybody, but the next unit comes back sooner than a
// goroutine that has waited runs.
type full struct {
	took   time.Duration
	during func() // or nil
}

func (s *full) Take(context.Context, ratelimit.Request) (ratelimit.Decision, error) {
	time.Sleep(s.took)
	if s.during != nil {
		s.during()
	}
	state := ratelimit.CheckState{Over: true, RetryAfter: time.Microsecond, NextAfter: time.Microsecond, ResetAfter: time.Second}
	return ratelimit.Decision{States: []ratelimit.CheckState{state}}, nil
}

func (*full) Reset(context.Context, string, ...string) error { return nil }

// Who waits for another one's answer does not find it over again and again until the time is
// up, and pass uncounted: the store works.
func TestADenialThatIsOverBeforeItIsSeen(t *testing.T) {
	const callers = 200
	for name, tt := range map[string]struct {
		batch  int
		took   time.Duration
		resets bool // of other keys: nothing is kept that was asked for before
		asked  uint64
	}{
		"spread":             {0, time.Millisecond, false, 5},
		"slow store":         {0, 30 * time.Millisecond, false, 5},
		"batch":              {1000, time.Millisecond, false, 5},
		"batch, slow store":  {1000, 30 * time.Millisecond, false, 5},
		"never known":        {0, time.Millisecond, true, callers + 50},
		"batch, never known": {1000, time.Millisecond, true, callers + 50},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &full{took: tt.took}
				limit := ratelimit.Limit{Rate: 1_000_000, Period: time.Second, Burst: 200_000}
				l := newPolicy(t, store, ratelimit.Policy{Limits: []ratelimit.Limit{limit}, Batch: tt.batch}, nil)
				ratelimit.Late(l, time.Microsecond)
				_, err := l.Allow(t.Context(), "a")
				require.NoError(t, err)
				if tt.resets {
					store.during = func() { assert.NoError(t, l.Reset(t.Context(), "b")) }
				}
				time.Sleep(time.Millisecond)
				before := l.Stats().Asked
				var wg sync.WaitGroup
				for range callers {
					wg.Go(func() {
						r, err := l.Allow(t.Context(), "a")
						assert.NoError(t, err)
						assert.False(t, r.Allowed)
						assert.Positive(t, r.RetryAfter)
					})
				}
				wg.Wait()
				assert.LessOrEqual(t, l.Stats().Asked-before, tt.asked)
			})
		})
	}
}
