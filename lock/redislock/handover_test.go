package redislock_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/rpc"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Whoever waits is woken: nothing in between is slower than a round trip or two.
func TestHandOversBetweenProcesses(t *testing.T) {
	server := redistest.Standalone(t)
	rdb, prefix := server.Client(t), redistest.Prefix(t)
	processes := []process{startProcess(t, server.Addr(), prefix), startProcess(t, server.Addr(), prefix)}
	const handOvers, p50, p99 = 200, time.Millisecond, 10 * time.Millisecond
	worst := stalls(t, processes...)
	o := Order{Name: "n", TTL: time.Minute}
	processes[0].acquire(t, o)
	var took []time.Duration
	for i, began := 0, time.Now(); i < handOvers && time.Since(began) < 2*patience; i++ {
		holder, next := processes[i%2], processes[1-i%2]
		waiting := next.acquireSoon(o)
		eventually(t, patience, "the other process waits", func() bool { return rdb.ZCard(t.Context(), prefix+"{n}:queue").Val() == 1 })
		time.Sleep(rand.N(4 * time.Millisecond)) // also before it watches
		released := holder.release(t, "n")
		took = append(took, held(t, waiting).At.Sub(released))
	}
	require.Len(t, took, handOvers, "the rest took too long")
	processes[handOvers%2].release(t, "n")
	slices.Sort(took)
	t.Logf("%d hand-overs between two processes: p50 %v, p99 %v, max %v; targets: p50 %v, p99 %v; this machine stalls for up to %v",
		handOvers, percentile(took, 50), percentile(took, 99), took[handOvers-1], p50, p99, worst())
	assert.LessOrEqual(t, percentile(took, 50), p50+worst())
	assert.LessOrEqual(t, percentile(took, 99), p99+worst())
}

// Those who are not concerned do not even wake up.
func TestAReleaseWakesOneProcess(t *testing.T) {
	server := redistest.NewStandalone(t)
	rdb := server.Client(t)
	holder := newLocker(t, server.Addr(), "p:")
	const waiters = 5
	lease, err := holder.Acquire(within(t), "n", time.Minute)
	require.NoError(t, err)
	var waiting []<-chan acquired
	for range waiters {
		waiting = append(waiting, acquireSoon(t, newLocker(t, server.Addr(), "p:")))
	}
	subscribed := func() []string { return rdb.PubSubChannels(t.Context(), "p:{n}:turn:*").Val() }
	eventually(t, patience, "each has a channel", func() bool { return len(subscribed()) == waiters })
	for channel, n := range rdb.PubSubNumSub(t.Context(), subscribed()...).Val() {
		assert.EqualValues(t, 1, n, channel)
	}
	for i := range waiters {
		released := time.Now()
		require.NoError(t, lease.Release(t.Context()))
		lease = leaseOfAny(t, waiting)
		assert.Less(t, time.Since(released), 900*time.Millisecond, "%d has not been woken", i)
	}
	require.NoError(t, lease.Release(t.Context()))
}

// Ten processes that wait for a lease that is held for long cost Redis next to
// nothing.
func TestWaitersCostNextToNothing(t *testing.T) {
	server := redistest.Standalone(t)
	proxy := redistest.NewProxy(t, server.Addr())
	rdb, prefix := server.Client(t), redistest.Prefix(t)
	holder := newLocker(t, server.Addr(), prefix)
	const waiters, looked = 10, 5 * time.Second
	lease, err := holder.Acquire(within(t), "n", time.Minute)
	require.NoError(t, err)
	var waiting []<-chan acquired
	for range waiters {
		waiting = append(waiting, acquireSoon(t, newLocker(t, proxy.Addr(), prefix)))
	}
	eventually(t, patience, "all wait", func() bool { return rdb.ZCard(t.Context(), prefix+"{n}:queue").Val() == waiters })
	time.Sleep(slack) // they have connected, and watch
	proxy.Reset()
	began := time.Now()
	time.Sleep(looked)
	commands := float64(proxy.Stats().RoundTrips) / waiters / time.Since(began).Seconds()
	t.Logf("%.2f commands a second and waiter, among them the client's own; target: at most 2", commands)
	assert.LessOrEqual(t, commands, 2.0)
	assert.GreaterOrEqual(t, commands, 0.5, "they keep their places")

	require.NoError(t, lease.Release(t.Context()))
	for range waiters {
		require.NoError(t, leaseOfAny(t, waiting).Release(t.Context()))
	}
}

// leaseOfAny returns the lease of whoever of those who wait has it first.
func leaseOfAny(t *testing.T, waiting []<-chan acquired) (lease *lock.Lease) {
	t.Helper()
	eventually(t, patience, "somebody has the lease", func() bool {
		for _, w := range waiting {
			select {
			case got := <-w:
				require.NoError(t, got.err)
				lease = got.lease
				return true
			default:
			}
		}
		return false
	})
	return lease
}

// Waiting with a deadline ends with it, and nobody waits for whoever gave up.
func TestAWaiterThatGivesUpLeavesNothing(t *testing.T) {
	tests := []struct {
		name            string
		holders, waiter func(*lock.Locker) *lock.Locker
		held            int
	}{
		{"default", exclusive, exclusive, 1},
		{"fair", exclusive, (*lock.Locker).Fair, 1},
		{"a reader behind a writer", exclusive, (*lock.Locker).Shared, 1},
		{"a writer behind readers", (*lock.Locker).Shared, exclusive, 3},
		{"semaphore", semaphore, semaphore, 2},
	}
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				const limit, target, each = 200 * time.Millisecond, 20 * time.Millisecond, 3
				prefix := redistest.Prefix(t)
				lockers := []*lock.Locker{lockerOn(t, rdb, prefix), lockerOn(t, another(t, rdb), prefix)}
				var leases []*lock.Lease
				for range tt.held {
					lease, err := tt.holders(lockers[0]).TryAcquire(t.Context(), "n", time.Minute)
					require.NoError(t, err)
					leases = append(leases, lease)
				}
				left := func() int64 { return rdb.Exists(t.Context(), prefix+"{n}:queue", prefix+"{n}:places").Val() }
				worst := stalls(t)
				waited := false
				for try := 0; try < 5 && !waited; try++ { // a busy machine may not look in time
					var mu sync.Mutex
					var longest time.Duration
					var wg sync.WaitGroup
					for i := range len(lockers) * each {
						wg.Go(func() {
							ctx, cancel := context.WithTimeout(t.Context(), limit)
							defer cancel()
							began := time.Now()
							_, err := tt.waiter(lockers[i%2]).Acquire(ctx, "n", time.Minute)
							took := time.Since(began)
							assert.ErrorIs(t, err, context.DeadlineExceeded)
							assert.ErrorIs(t, err, lock.ErrNotAcquired)
							mu.Lock()
							defer mu.Unlock()
							longest = max(longest, took)
						})
					}
					for began := time.Now(); time.Since(began) < limit && !waited; time.Sleep(time.Millisecond) {
						waited = left() == 2
					}
					wg.Wait()
					gone := time.Now()
					eventually(t, time.Second, "nothing is left in the queue", func() bool { return left() == 0 })
					t.Logf("gave up after %v at the latest, target: %v; nothing was left %v later; this machine stalls for up to %v",
						longest, limit+target, time.Since(gone), worst())
					assert.LessOrEqual(t, longest, limit+target+worst())
				}
				assert.True(t, waited, "nobody stood in the queue")
				for _, lease := range leases {
					require.NoError(t, lease.Release(t.Context()))
				}
			})
		}
	})
}

func exclusive(l *lock.Locker) *lock.Locker { return l }
func semaphore(l *lock.Locker) *lock.Locker { return l.Semaphore(2) }

// Fair keeps the order in which Redis heard of those who wait, across processes.
func TestFairAcrossProcesses(t *testing.T) {
	server := redistest.Standalone(t)
	rdb, prefix := server.Client(t), redistest.Prefix(t)
	var processes []process
	for range 3 {
		processes = append(processes, startProcess(t, server.Addr(), prefix))
	}
	const waiters = 50
	first, err := newLocker(t, server.Addr(), prefix).Fair().Acquire(within(t), "n", time.Minute)
	require.NoError(t, err)
	var calls []*rpc.Call
	for i := range waiters {
		calls = append(calls, processes[rand.IntN(len(processes))].Go("Process.Turn", Order{Kind: "fair", Name: "n", TTL: time.Minute}, new(Held), nil))
		eventually(t, patience, fmt.Sprint(i+1, " wait"), func() bool { return rdb.ZCard(t.Context(), prefix+"{n}:queue").Val() == int64(i+1) })
	}
	released := time.Now()
	require.NoError(t, first.Release(t.Context()))
	last, inversions := first.Token(), 0
	for _, call := range calls {
		<-call.Done
		require.NoError(t, call.Error)
		token := call.Reply.(*Held).Token
		if token <= last {
			inversions++
		}
		last = token
	}
	t.Logf("%d waiters of 3 processes, %d inversions; they were done in %v", waiters, inversions, time.Since(released))
	assert.Zero(t, inversions)
}
