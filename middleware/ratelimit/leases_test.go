package ratelimit_test

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/middleware/ratelimit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// In any stretch of time no more is admitted than the limit allows, however the units
// of a batch are used; and a key that is hot costs few round trips.
func TestBatch(t *testing.T) {
	for name, limit := range map[string]ratelimit.Limit{
		"spread": {Rate: 1000, Period: time.Second, Burst: 500}, "window": ratelimit.Window(500, time.Second),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &counting{MemoryStore: ratelimit.NewMemoryStore()}
				var limiters []*ratelimit.Limiter
				for range 2 {
					limiters = append(limiters, newPolicy(t, store, ratelimit.Policy{Limits: []ratelimit.Limit{limit}, Batch: 50}, nil))
				}
				var admitted []time.Duration
				begin := time.Now()
				for step := 0; time.Since(begin) < 5*time.Second; step++ {
					// In bursts, with pauses in which units lie idle.
					for range 1 + 200*(step%7/6) {
						result, err := limiters[step%2].Allow(t.Context(), "a")
						require.NoError(t, err)
						if result.Allowed {
							admitted = append(admitted, time.Since(begin))
						}
					}
					time.Sleep(time.Duration(1+step%5*7) * time.Millisecond)
				}
				burst := 500
				for i, from := range admitted {
					for k := i; k < len(admitted); k += 53 {
						elapsed := admitted[k] - from
						most := float64(burst) + float64(limit.Rate)*elapsed.Seconds()/limit.Period.Seconds()
						require.LessOrEqual(t, float64(k-i+1), most+1e-6, "between %v and %v", from, admitted[k])
					}
				}
				assert.Greater(t, len(admitted), 1000)
				assert.Less(t, store.calls, len(admitted)/4)
				t.Logf("%d were admitted, with %d steps of the store", len(admitted), store.calls)
			})
		})
	}
}

// A store that works is asked, however many ask for one key and however far it is away:
// nobody waits for one refill after the other until the time is up, and passes uncounted.
func TestABatchIsNotWaitedForInVain(t *testing.T) {
	for name, tt := range map[string]struct {
		limit    ratelimit.Limit
		batch    int
		far      time.Duration
		each     int // requests a millisecond
		lasts    time.Duration
		admitted int
	}{
		"many at once":            {ratelimit.Limit{Rate: 1000, Period: time.Hour, Burst: 1000}, 100, 8 * time.Millisecond, 700, time.Millisecond, 700},
		"more than batches bring": {ratelimit.Limit{Rate: 10_000, Period: time.Second, Burst: 2000}, 10, 2 * time.Millisecond, 20, 500 * time.Millisecond, 6000},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &distant{MemoryStore: ratelimit.NewMemoryStore(), took: tt.far / 2}
				l := newPolicy(t, store, ratelimit.Policy{Limits: []ratelimit.Limit{tt.limit}, Batch: tt.batch}, nil)
				var wg sync.WaitGroup
				began := time.Now()
				for ; time.Since(began) < tt.lasts; time.Sleep(time.Millisecond) {
					for range tt.each {
						wg.Go(func() {
							from := time.Now()
							_, err := l.Allow(t.Context(), "a")
							assert.NoError(t, err)
							assert.LessOrEqual(t, time.Since(from), 50*time.Millisecond)
						})
					}
				}
				wg.Wait()
				s := l.Stats()
				assert.Zero(t, s.FailedOpen)
				assert.LessOrEqual(t, s.Admitted, uint64(tt.admitted)+1000) // what comes back while the last ones wait
				assert.GreaterOrEqual(t, s.Admitted, uint64(tt.admitted)*9/10)
				t.Logf("%+v", s)
			})
		})
	}
}

func TestBatchShowsWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPolicy(t, ratelimit.NewMemoryStore(), ratelimit.Policy{Limits: []ratelimit.Limit{ratelimit.PerHour(100)}, Batch: 20}, nil)
		h := l.Handler(ok)
		for i := range 99 {
			w := get(h, "a")
			assert.Equal(t, http.StatusNoContent, w.Code)
			assert.Contains(t, w.Header().Get("RateLimit"), `"api";r=`+strconv.Itoa(98-i)+";", i)
		}
		w := get(h, "a")
		assert.Equal(t, http.StatusTooManyRequests, w.Code, "of 100, one comes back within the time that units may lie idle")
		assert.Equal(t, `"api";q=99;w=3564`, w.Header().Get("RateLimit-Policy"))
		assert.Less(t, l.Stats().Asked, uint64(20))
		require.NoError(t, l.Reset(t.Context(), "a"))
		assert.Equal(t, http.StatusNoContent, get(h, "a").Code)
	})
}

// What was taken in advance before a Reset, and arrives after it, is not used: it was
// forgotten with the rest.
func TestAResetWhileABatchIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 99 // of 100, one comes back within the time that units may lie idle
		store := &distant{MemoryStore: ratelimit.NewMemoryStore()}
		l := newPolicy(t, store, ratelimit.Policy{Limits: []ratelimit.Limit{ratelimit.PerHour(100)}, Batch: 20},
			&ratelimit.Options{Timeout: time.Minute})
		allow := func() bool {
			result, err := l.Allow(t.Context(), "a")
			assert.NoError(t, err)
			return result.Allowed
		}
		var asked int
		for range 31 { // 1, 2, 4, 8 and 16 at a time
			require.True(t, allow())
		}
		asked = int(l.Stats().Asked)
		require.Equal(t, 5, asked)

		store.took = 10 * time.Millisecond
		var admitted atomic.Int64
		var wg sync.WaitGroup
		for range 30 {
			wg.Go(func() {
				if allow() {
					admitted.Add(1)
				}
			})
		}
		time.Sleep(15 * time.Millisecond) // 20 have been taken, and the answer is under way
		require.NoError(t, l.Reset(t.Context(), "a"))
		wg.Wait()
		for range 200 {
			if allow() {
				admitted.Add(1)
			}
		}
		assert.EqualValues(t, most+1, admitted.Load(), "and the one that was asked for before the Reset")
		assert.Less(t, l.Stats().Asked, uint64(asked+20), "those that waited share batches again")
	})
}

// distant is a store that takes some time before and after it decides.
type distant struct {
	*ratelimit.MemoryStore
	took time.Duration
}

func (s *distant) Take(ctx context.Context, req ratelimit.Request) (ratelimit.Decision, error) {
	time.Sleep(s.took)
	d, err := s.MemoryStore.Take(ctx, req)
	time.Sleep(s.took)
	return d, err
}
