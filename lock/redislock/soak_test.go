package redislock_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// soakTime is how long the tests of this file look: 5 s, or a minute if
// HERDLESS_SOAK is set.
func soakTime() time.Duration {
	if os.Getenv("HERDLESS_SOAK") != "" {
		return time.Minute
	}
	return 5 * time.Second
}

// A thousand leases are kept by a process that does not have a processor to
// spare.
func TestAThousandLeasesOnABusyMachine(t *testing.T) {
	server := redistest.NewStandalone(t)
	rdb := server.Client(t)
	locker := lockerOn(t, rdb, redistest.Prefix(t))
	const leases, ttl = 1000, 3 * time.Second
	ctx := within(t)
	held := make([]*lock.Lease, leases)
	for i := range held {
		var err error
		held[i], err = locker.TryAcquire(ctx, fmt.Sprint(i), ttl)
		require.NoError(t, err)
	}
	var stop atomic.Bool
	var busy sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		busy.Go(func() {
			for !stop.Load() {
			}
		})
	}
	time.Sleep(soakTime())
	lost := 0
	for _, lease := range held {
		if lease.Context().Err() != nil {
			lost++
		}
	}
	stop.Store(true)
	busy.Wait()
	t.Logf("%d of %d leases lost in %v", lost, leases, soakTime())
	assert.Zero(t, lost)
	for _, lease := range held {
		require.NoError(t, lease.Release(within(t)))
	}
}

// Nobody is stuck: neither those who have a lease of their own each, nor those
// who contend for a few, even if every connection that carries the pushes is cut
// five times a second.
func TestNobodyIsStuck(t *testing.T) {
	tests := []struct {
		name  string
		names int // of leases
		kill  bool
		limit time.Duration // for one turn
	}{
		{"own leases", 128, false, 5 * time.Second},
		{"few leases, and pushes that are cut", 8, true, 10 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := redistest.NewStandalone(t)
			prefix := redistest.Prefix(t)
			// As four processes, which take turns in two ways.
			var lockers []*lock.Locker
			for i := range 4 {
				locker := newLocker(t, server.Addr(), prefix)
				if i%2 == 1 {
					locker = locker.Fair()
				}
				lockers = append(lockers, locker)
			}
			const goroutines = 128
			over := time.Now().Add(soakTime())
			var turns atomic.Int64
			var longest [goroutines]time.Duration
			var wg sync.WaitGroup
			for i := range goroutines {
				wg.Go(func() {
					name := fmt.Sprint(i % tt.names)
					for began := time.Now(); began.Before(over); began = time.Now() {
						ctx, cancel := context.WithTimeout(t.Context(), patience)
						err := lockers[i/8%len(lockers)].Do(ctx, name, time.Minute, func(context.Context, uint64) error { return nil })
						cancel()
						if !assert.NoError(t, err) {
							return
						}
						turns.Add(1)
						longest[i] = max(longest[i], time.Since(began))
					}
				})
			}
			done := make(chan struct{})
			go func() { wg.Wait(); close(done) }()
			rdb := server.Client(t)
			cut := time.NewTicker(200 * time.Millisecond)
			defer cut.Stop()
			killed := int64(0)
			for running := true; running; {
				select {
				case <-cut.C:
					if tt.kill {
						n, err := rdb.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Result()
						require.NoError(t, err)
						killed += n
					}
				case <-done:
					running = false
				}
			}
			worst := time.Duration(0)
			for _, l := range longest {
				worst = max(worst, l)
			}
			t.Logf("%d turns of %d goroutines on %d leases in %v, %d connections cut; the longest turn took %v", turns.Load(), goroutines, tt.names, soakTime(), killed, worst)
			assert.LessOrEqual(t, worst, tt.limit)
			assert.Equal(t, tt.kill, killed > 0)
		})
	}
}

// A renewal can be under way when its lease is released, overtake the release, or
// be overtaken. None of that may leave anything behind.
func TestReleaseRacingRenewal(t *testing.T) {
	server := redistest.Standalone(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	prefix := redistest.Prefix(t)
	before := goleak.IgnoreCurrent()
	const (
		ttl           = 3 * time.Second // a busy machine must not lose leases here
		leases, times = 1000, 10
	)
	store := &racing{Store: storeOn(rdb, prefix), races: make(map[string]*race)}
	for i := range leases {
		store.races[fmt.Sprint(i)] = &race{renewing: make(chan struct{}, 1)}
	}
	locker := lockerWith(t, store)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for name, race := range store.races {
		wg.Go(func() {
			time.Sleep(rand.N(ttl / 3)) // not all at once
			for range times {
				lease, err := locker.TryAcquire(ctx, name, ttl)
				if !assert.NoError(t, err, "what was released must be free") {
					return
				}
				select {
				case <-race.renewing:
				case <-lease.Context().Done():
				}
				time.Sleep(rand.N(time.Millisecond)) // about as long as the renewal takes
				assert.NoError(t, lease.Release(ctx))
			}
		})
	}
	wg.Wait()
	t.Logf("%d releases: %d renewals were answered before, %d overtook their release, %d were overtaken, %d were given up",
		leases*times, store.before.Load(), store.overtook.Load(), store.overtaken.Load(), store.ended.Load())
	for _, n := range []*atomic.Int64{&store.before, &store.overtook, &store.overtaken, &store.ended} {
		assert.NotZero(t, n.Load(), "every order must have happened")
	}
	for i := range leases {
		assert.False(t, isHeld(t, rdb, fmt.Sprintf("%s{%d}", prefix, i)), "a lease is left")
	}
	require.NoError(t, rdb.Close())
	goleak.VerifyNone(t, before)
}

// racing is a store to which some steps are on their way for longer, so that they
// arrive in every order. It counts what came of the renewals.
type racing struct {
	lock.Store
	races                              map[string]*race // by name
	before, overtook, overtaken, ended atomic.Int64
}

type race struct {
	renewing  chan struct{}
	releasing atomic.Bool
}

func (r *racing) Extend(ctx context.Context, req lock.Request) (bool, error) {
	race := r.races[req.Name]
	race.renewing <- struct{}{}
	if rand.N(3) > 0 { // sent, and nothing calls it back
		ctx = context.WithoutCancel(ctx)
		time.Sleep(rand.N(3 * time.Millisecond))
	}
	ok, err := r.Store.Extend(ctx, req)
	switch {
	case err != nil:
		r.ended.Add(1)
	case !ok:
		r.overtaken.Add(1)
	case race.releasing.Load():
		r.overtook.Add(1)
	default:
		r.before.Add(1)
	}
	return ok, err
}

func (r *racing) Release(ctx context.Context, req lock.Request) (bool, error) {
	race := r.races[req.Name]
	race.releasing.Store(true)
	defer race.releasing.Store(false)
	if rand.N(2) == 0 {
		time.Sleep(rand.N(3 * time.Millisecond))
	}
	return r.Store.Release(ctx, req)
}
