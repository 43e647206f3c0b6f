package redislock_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/locktest"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// newServers starts servers that know nothing of each other.
func newServers(t *testing.T, n int) []*redistest.Server {
	t.Helper()
	servers := make([]*redistest.Server, n)
	for i := range servers {
		servers[i] = redistest.NewStandalone(t)
	}
	return servers
}

// newQuorum returns a store on all servers, with clients of its own.
func newQuorum(t *testing.T, servers []*redistest.Server, o redislock.QuorumOptions) *redislock.Quorum {
	t.Helper()
	clients := make([]redislock.Client, len(servers))
	for i, server := range servers {
		rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
		t.Cleanup(func() { _ = rdb.Close() })
		clients[i] = rdb
	}
	return redislock.NewQuorum(clients, &o)
}

// quorumTimeout is more than the default, as a busy machine may need it.
const quorumTimeout = 500 * time.Millisecond

func onQuorum(t *testing.T, servers []*redistest.Server) *lock.Locker {
	t.Helper()
	locker, err := lock.New(newQuorum(t, servers, redislock.QuorumOptions{Timeout: quorumTimeout}), nil)
	require.NoError(t, err)
	return locker
}

func TestStoreQuorum(t *testing.T) {
	for _, n := range []int{3, 5} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			servers := newServers(t, n)
			locktest.RunExclusive(t, func(t *testing.T) lock.Store {
				return newQuorum(t, servers, redislock.QuorumOptions{Prefix: redistest.Prefix(t), Timeout: 5 * time.Second})
			})
		})
	}
}

func TestNeverTwoInsideOnAQuorum(t *testing.T) {
	servers := newServers(t, 5)
	const goroutines, times = 24, 5
	ctx := within(t)
	ended := make(chan struct{})
	var hiccups sync.WaitGroup
	hiccups.Go(func() { // one of them is late now and then
		for {
			select {
			case <-ended:
				return
			case <-time.After(30 * time.Millisecond):
				servers[4].Stop(t)
				time.Sleep(10 * time.Millisecond)
				servers[4].Continue(t)
			}
		}
	})
	defer hiccups.Wait()
	defer close(ended)
	inside, turns, last := 0, 0, uint64(0) // guarded by the lease alone: the race detector looks on
	var wg sync.WaitGroup
	for range goroutines / 4 {
		locker := onQuorum(t, servers)
		for range 4 {
			wg.Go(func() {
				for range times {
					err := locker.Do(ctx, "n", 5*time.Second, func(_ context.Context, token uint64) error {
						inside++
						assert.Equal(t, 1, inside)
						assert.Greater(t, token, last)
						last = token
						inside--
						turns++
						return nil
					})
					assert.NoError(t, err)
				}
			})
		}
	}
	wg.Wait()
	assert.Equal(t, goroutines*times, turns)
}

// lockAndUnlock does so n times, and returns how long each time took.
func lockAndUnlock(t *testing.T, locker *lock.Locker, n int) []time.Duration {
	t.Helper()
	var took []time.Duration
	for range n {
		began := time.Now()
		lease, err := locker.Acquire(within(t), "n", 5*time.Second)
		require.NoError(t, err)
		require.NoError(t, lease.Release(within(t)))
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took
}

func TestAQuorumGoesOnWithoutAMinority(t *testing.T) {
	const p99, withoutAMajority = 50 * time.Millisecond, time.Second
	for name, fail := range map[string]func(*redistest.Server, *testing.T){
		"hung": func(s *redistest.Server, t *testing.T) { s.Stop(t); t.Cleanup(func() { s.Continue(t) }) },
		"dead": func(s *redistest.Server, t *testing.T) { s.Kill(t) },
	} {
		t.Run(name, func(t *testing.T) {
			servers := newServers(t, 5)
			locker, err := lock.New(newQuorum(t, servers, redislock.QuorumOptions{}), nil)
			require.NoError(t, err)
			worst := stalls(t)
			const ttl = 3 * time.Second
			lease, err := locker.Acquire(t.Context(), "kept", ttl)
			require.NoError(t, err)
			acquired := time.Now()
			lockAndUnlock(t, locker, 20)
			for i := range 2 {
				fail(servers[i], t)
				took := lockAndUnlock(t, locker, 200)
				t.Logf("%d of 5 servers %s: lock and unlock take %v, p99 %v, at most %v; target: p99 %v; this machine stalls for up to %v",
					i+1, name, percentile(took, 50), percentile(took, 99), took[199], p99, worst())
				assert.LessOrEqual(t, percentile(took, 99), p99+worst(), "the others are enough")
			}
			time.Sleep(time.Until(acquired.Add(ttl)))
			require.NoError(t, lease.Context().Err(), "it was renewed")
			require.NoError(t, lease.Release(within(t)))

			fail(servers[2], t)
			began := time.Now()
			_, err = locker.Acquire(within(t), "n", 5*time.Second)
			took := time.Since(began)
			t.Logf("3 of 5 servers %s: after %v: %v", name, took, err)
			require.ErrorContains(t, err, "2 of 5 servers answered, 3 are needed")
			require.NotErrorIs(t, err, lock.ErrNotAcquired)
			assert.LessOrEqual(t, took, withoutAMajority+worst())
		})
	}
}

func TestALeaseOnAQuorumIsLostWithItsMajority(t *testing.T) {
	servers := newServers(t, 3)
	locker := onQuorum(t, servers)
	const ttl = 3 * time.Second
	lease, err := locker.Acquire(t.Context(), "n", ttl)
	require.NoError(t, err)
	servers[0].Kill(t)
	time.Sleep(ttl + ttl/3)
	require.NoError(t, lease.Context().Err())
	servers[1].Kill(t)
	killed := time.Now()
	<-lease.Context().Done()
	require.ErrorIs(t, context.Cause(lease.Context()), lock.ErrLost)
	assert.Less(t, time.Since(killed), reliable(ttl)+slack)
	require.ErrorIs(t, lease.Release(within(t)), lock.ErrLost)
}

// Each server counts for itself. What a majority gave out must not be given out
// again by another one whose servers are behind.
func TestTokensOfAQuorumGrowWhicheverMajorityGivesThemOut(t *testing.T) {
	servers := newServers(t, 5)
	clients := make([]*redis.Client, len(servers))
	for i, server := range servers {
		clients[i] = server.Client(t)
	}
	locker := onQuorum(t, servers)
	last := uint64(0)
	take := func(up ...int) {
		t.Helper()
		for i, server := range servers {
			if !slices.Contains(up, i) {
				server.Stop(t)
				defer server.Continue(t)
			}
		}
		lease, err := locker.Acquire(within(t), "n", 5*time.Second) // what a hung server does not hear of ends by itself
		require.NoError(t, err)
		assert.Greater(t, lease.Token(), last, "given out by the servers %v", up)
		last = lease.Token()
		require.NoError(t, lease.Release(within(t)))
	}
	take(0, 1, 2, 3, 4)
	// The clock of one of them is ahead by an hour, as far as its last token can tell.
	setToken(t, clients[0], "herdless:lock:{n}", time.Now().Add(time.Hour).UnixMicro())
	take(0, 1, 2) // the hour ahead is passed on to 1 and 2
	take(2, 3, 4) // and from 2 to 3 and 4
	take(1, 3, 4)
	take(0, 1, 2, 3, 4)
	assert.Greater(t, last, uint64(time.Now().Add(59*time.Minute).UnixMicro()))
}

// Several ask at the same time, and each gets some servers and none a majority.
func TestASplitIsTriedAgainSoon(t *testing.T) {
	servers := newServers(t, 5)
	prefix := redistest.Prefix(t)
	for i, owner := range []string{"a", "a", "b", "b"} {
		grant, err := storeOn(servers[i].Client(t), prefix).TryAcquire(t.Context(), lock.Request{Name: "n", Owner: owner, TTL: time.Hour})
		require.NoError(t, err)
		require.True(t, grant.Acquired)
	}
	q := newQuorum(t, servers, redislock.QuorumOptions{Prefix: prefix})
	grant, err := q.TryAcquire(t.Context(), lock.Request{Name: "n", Owner: "c", TTL: time.Minute})
	require.NoError(t, err)
	assert.False(t, grant.Acquired)
	assert.LessOrEqual(t, grant.HeldFor, 30*time.Millisecond, "nobody holds it")
	assert.Eventually(t, func() bool {
		return !isHeld(t, servers[4].Client(t), prefix+"{n}")
	}, 5*time.Second, 5*time.Millisecond, "what c was granted is given back")

	// With a real holder it says for how long that has it.
	grant, err = q.TryAcquire(t.Context(), lock.Request{Name: "m", Owner: "a", TTL: time.Hour})
	require.NoError(t, err)
	require.True(t, grant.Acquired)
	grant, err = q.TryAcquire(t.Context(), lock.Request{Name: "m", Owner: "c", TTL: time.Minute})
	require.NoError(t, err)
	assert.InDelta(t, time.Hour, grant.HeldFor, float64(time.Minute))
}

// One that hangs must not collect a goroutine for every command.
func TestAHungServerOfAQuorumIsNotAskedWithoutEnd(t *testing.T) {
	servers := newServers(t, 3)
	// Nothing that hangs ends by a timeout before it is counted, however slow the
	// machine.
	const long = 5 * time.Minute
	clients := make([]redislock.Client, len(servers))
	for i, server := range servers {
		rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), ReadTimeout: long})
		t.Cleanup(func() { _ = rdb.Close() })
		clients[i] = rdb
	}
	q := redislock.NewQuorum(clients, &redislock.QuorumOptions{Timeout: long})
	locker, err := lock.New(q, nil)
	require.NoError(t, err)
	lockAndUnlock(t, locker, 5)
	servers[0].Stop(t)
	defer servers[0].Continue(t)
	lockAndUnlock(t, locker, 500)
	assert.Equal(t, redislock.MaxUnanswered, redislock.Unanswered(q, 0))
	assert.Eventually(t, func() bool { return redislock.Unanswered(q, 1) == 0 }, patience, time.Millisecond)
}

// redsync goes on when a majority has answered, maybe before the others were asked.
// A lease that only the majority has is lost with the first of them.
func TestALeaseOfAQuorumIsOnAllServers(t *testing.T) {
	servers := newServers(t, 3)
	locker := onQuorum(t, servers)
	const leases = 300
	for i := range leases {
		_, err := locker.Acquire(within(t), fmt.Sprint(i), time.Hour)
		require.NoError(t, err)
	}
	for i, server := range servers {
		rdb := server.Client(t)
		eventually(t, patience, fmt.Sprintf("server %d has all leases", i), func() bool {
			return heldOf(t, rdb, leases) == leases
		})
	}
}

// slowConn is a connection on which a command takes its time on the way there, and
// its answer on the way back.
type slowConn struct {
	net.Conn
	slow *slowWay
	held bool // a connection is used for one command at a time
}

// slowWay holds up the next command to a server.
type slowWay struct {
	next         atomic.Bool
	there, andBy chan struct{} // closed when the command may go, and when its answer may come
}

func (c *slowConn) Write(p []byte) (int, error) {
	if c.slow.next.CompareAndSwap(true, false) {
		c.held = true
		<-c.slow.there
	}
	return c.Conn.Write(p)
}

func (c *slowConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.held {
		<-c.slow.andBy
	}
	return n, err
}

// Acquires can get to the last servers after the lease was released. What comes of
// several of them must not add up to a majority that refuses the next one.
func TestLateAcquiresDoNotRefuseAFreeLease(t *testing.T) {
	servers := newServers(t, 3)
	ways, clients := make([]*slowWay, len(servers)), make([]redislock.Client, len(servers))
	andBy := make(chan struct{})
	for i, server := range servers {
		way := &slowWay{there: make(chan struct{}), andBy: andBy}
		rdb := redis.NewClient(&redis.Options{Dialer: func(context.Context, string, string) (net.Conn, error) {
			c, err := net.Dial("tcp", server.Addr())
			return &slowConn{Conn: c, slow: way}, err
		}})
		t.Cleanup(func() { _ = rdb.Close() })
		ways[i], clients[i] = way, rdb
	}
	defer close(andBy)
	q := redislock.NewQuorum(clients, &redislock.QuorumOptions{Timeout: patience})
	locker, err := lock.New(q, nil)
	require.NoError(t, err)
	lockAndUnlock(t, locker, 20) // connections, scripts
	late := func() int { return redislock.Unanswered(q, 0) + redislock.Unanswered(q, 1) }
	eventually(t, patience, "all have answered", func() bool { return late() == 0 })
	for _, way := range ways[:2] {
		way.next.Store(true)
		lease, err := locker.TryAcquire(within(t), "n", time.Minute)
		require.NoError(t, err)
		require.NoError(t, lease.Release(within(t)))
	}
	eventually(t, patience, "all but two acquires are answered", func() bool { return late() == 2 })
	before := commands(t, servers[:2])
	for _, way := range ways[:2] {
		close(way.there)
	}
	eventually(t, patience, "those have arrived", func() bool { return commands(t, servers[:2]) == before+2 })
	lease, err := locker.TryAcquire(within(t), "n", time.Minute)
	require.NoError(t, err, "nobody holds it")
	require.NoError(t, lease.Release(within(t)))
}

// commands returns how many scripts servers have run.
func commands(t *testing.T, servers []*redistest.Server) (n int) {
	t.Helper()
	for _, server := range servers {
		var calls int
		info := server.Client(t).Info(t.Context(), "commandstats").Val()
		_, after, _ := strings.Cut(info, "cmdstat_evalsha:")
		_, err := fmt.Sscanf(after, "calls=%d", &calls)
		require.NoError(t, err)
		n += calls
	}
	return n
}

// A server that hangs hears of no release. When it is back, before the lease would
// have ended by itself, it must not keep others out for the rest of that.
func TestAServerOfAQuorumThatWasHungHearsOfReleases(t *testing.T) {
	servers := newServers(t, 3)
	clients := make([]redislock.Client, len(servers))
	for i, server := range servers {
		rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true, MaxRetries: -1})
		t.Cleanup(func() { _ = rdb.Close() })
		clients[i] = rdb
	}
	rdb := servers[0].Client(t)
	q := redislock.NewQuorum(clients, &redislock.QuorumOptions{Timeout: quorumTimeout})
	locker, err := lock.New(q, nil)
	require.NoError(t, err)
	const names = 50
	left := func() int { return heldOf(t, rdb, names) }
	leases := make([]*lock.Lease, names)
	for i := range leases {
		leases[i], err = locker.TryAcquire(within(t), fmt.Sprint(i), time.Hour)
		require.NoError(t, err)
	}
	eventually(t, patience, "the server has all leases", func() bool { return left() == names })
	before := goleak.IgnoreCurrent()

	servers[0].Stop(t)
	lockAndUnlock(t, locker, 3)
	time.Sleep(quorumTimeout) // it is known to hang
	for _, lease := range leases {
		require.NoError(t, lease.Release(within(t)))
	}
	assert.Positive(t, redislock.Owed(q, 0))
	servers[0].Continue(t)
	eventually(t, patience, "the server has no lease", func() bool { return left() == 0 })
	eventually(t, patience, "nothing is left to do", func() bool { return goleak.Find(before) == nil })
}

func TestWhatAServerIsOwedIsBounded(t *testing.T) {
	servers := newServers(t, 3)
	servers[0].Kill(t)
	q := newQuorum(t, servers, redislock.QuorumOptions{Timeout: quorumTimeout})
	for i := range redislock.MaxOwed + 10 {
		req := lock.Request{Name: fmt.Sprint(i), Owner: fmt.Sprint(i), TTL: 2 * time.Second}
		_, err := q.Release(within(t), req)
		require.NoError(t, err)
	}
	assert.LessOrEqual(t, redislock.Owed(q, 0), redislock.MaxOwed)
	assert.Positive(t, redislock.Owed(q, 0))
	assert.Zero(t, redislock.Owed(q, 1), "it has heard of all")
	eventually(t, patience, "the leases have ended by themselves", func() bool { return redislock.Owed(q, 0) == 0 })
}

func TestWhatNewQuorumCannotUse(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	for name, clients := range map[string][]redislock.Client{
		"none": nil, "one": {rdb}, "two": {rdb, rdb}, "four": {rdb, rdb, rdb, rdb}, "nil": {rdb, nil, rdb},
	} {
		assert.Panics(t, func() { redislock.NewQuorum(clients, nil) }, name)
	}
	ring := redis.NewRing(&redis.RingOptions{})
	defer ring.Close()
	assert.Panics(t, func() { redislock.NewQuorum([]redislock.Client{ring, ring, ring}, nil) })
	assert.Panics(t, func() {
		redislock.NewQuorum([]redislock.Client{rdb, rdb, rdb}, &redislock.QuorumOptions{Timeout: -1})
	})
	assert.Panics(t, func() {
		redislock.NewQuorum([]redislock.Client{rdb, rdb, rdb}, &redislock.QuorumOptions{Prefix: "{"})
	})
}

func TestAQuorumRefusesWhatItHasNot(t *testing.T) {
	locker := onQuorum(t, newServers(t, 3))
	for name, l := range map[string]*lock.Locker{"shared": locker.Shared(), "semaphore": locker.Semaphore(3), "fair": locker.Fair()} {
		_, err := l.Acquire(within(t), "n", time.Minute)
		assert.ErrorIs(t, err, errors.ErrUnsupported, name)
	}
}
