package redislimit_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/adapters/redisconn"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/middleware/ratelimit"
	"github.com/herdless/herdless/middleware/ratelimit/redislimit"
)

// load is a limit that is asked for more than it has, by several processes' worth of
// Limiters, until it is ended.
type load struct {
	limit    ratelimit.Limit
	limiters []*ratelimit.Limiter
	busy     *machine
	stop     chan struct{}
	wg       sync.WaitGroup

	mu   sync.Mutex
	made []decision
}

// decision is one that a Limiter has made.
type decision struct {
	limiter    int
	sent, seen time.Time
	took       time.Duration // without that for which the machine held it up
	result     ratelimit.Result
	err        error
}

// byStore reports whether the store made it.
func (d decision) byStore() bool { return d.err == nil && !d.result.Local }

// loadOn asks for units of a key, with a Limiter on each of the clients.
func loadOn(t *testing.T, busy *machine, prefix, key string, o ratelimit.Options, clients ...redis.Scripter) *load {
	t.Helper()
	l := &load{limit: ratelimit.Limit{Rate: 100, Period: time.Second, Burst: 50}, busy: busy, stop: make(chan struct{})}
	o.Logger = slog.New(slog.DiscardHandler)
	for i, client := range clients {
		limiter, err := ratelimit.New(redislimit.New(client, &redislimit.Options{Prefix: prefix}), l.limit, clientIP, &o)
		require.NoError(t, err)
		l.limiters = append(l.limiters, limiter)
		for range 4 {
			l.wg.Go(func() { l.ask(i, limiter, key) })
		}
	}
	t.Cleanup(l.end)
	return l
}

func (l *load) ask(i int, limiter *ratelimit.Limiter, key string) {
	pause := time.NewTicker(2 * time.Millisecond)
	defer pause.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-pause.C:
		}
		d, lost := decision{limiter: i, sent: time.Now()}, l.busy.lostSoFar()
		d.result, d.err = limiter.Allow(context.Background(), key)
		d.seen = time.Now()
		d.took = d.seen.Sub(d.sent) - (l.busy.lostSoFar() - lost)
		l.mu.Lock()
		l.made = append(l.made, d)
		l.mu.Unlock()
	}
}

// end ends the load.
func (l *load) end() {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.wg.Wait()
}

// decisions returns those that were made so far and that match.
func (l *load) decisions(match func(decision) bool) (list []decision) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range l.made {
		if match(d) {
			list = append(list, d)
		}
	}
	return list
}

// holds waits until the store has answered each Limiter, asked after then, and returns when
// the last of them had its answer.
func (l *load) holds(t *testing.T, then time.Time) (since time.Time) {
	t.Helper()
	for i := range l.limiters {
		var first decision
		require.Eventually(t, func() bool {
			of := l.decisions(func(d decision) bool { return d.limiter == i && d.byStore() && d.sent.After(then) })
			if len(of) > 0 {
				first = slices.MinFunc(of, func(a, b decision) int { return a.seen.Compare(b.seen) })
			}
			return len(of) > 0
		}, time.Minute, 10*time.Millisecond, "the limit holds again")
		if first.seen.After(since) {
			since = first.seen
		}
	}
	return since
}

// admittedWithin checks that those of the decisions that the store made admit no more than the
// burst and what comes back meanwhile.
func (l *load) admittedWithin(t *testing.T, what string, list []decision) {
	t.Helper()
	list = slices.DeleteFunc(slices.Clone(list), func(d decision) bool { return d.err != nil || !d.result.Allowed })
	if !assert.NotEmpty(t, list, what) {
		return
	}
	first := slices.MinFunc(list, func(a, b decision) int { return a.sent.Compare(b.sent) }).sent
	last := slices.MaxFunc(list, func(a, b decision) int { return a.seen.Compare(b.seen) }).seen
	most := float64(l.limit.Burst) + float64(l.limit.Rate)*last.Sub(first).Seconds()
	t.Logf("%s: %d units were admitted in %v, of at most %.1f", what, len(list), last.Sub(first), most)
	assert.LessOrEqual(t, float64(len(list)), most, what)
}

// open returns a client as programs should have one. One of a Cluster hears of a new master
// within a second; by default go-redis asks once a minute.
func open(t *testing.T, url string) redis.UniversalClient {
	t.Helper()
	rdb, err := redisconn.Open(url)
	require.NoError(t, err)
	t.Cleanup(func() { rdb.Close() })
	return rdb
}

// recovery is how long after its store is back a limit holds again. A client of go-redis that
// has failed to dial as often as its pool is large tries once a second, and a Limiter twice.
const recovery = 2 * time.Second

// checkOutage checks what happened to a key whose server died at killed, and has a successor
// that takes writes since writable.
func (l *load) checkOutage(t *testing.T, killed, writable time.Time) {
	t.Helper()
	since := l.holds(t, writable)
	<-time.After(time.Second / 2) // of the limit under its new server
	l.end()
	t.Logf("it took writes after %v; the limit held again %v later; target: %v; this machine stalls for up to %v",
		writable.Sub(killed), since.Sub(writable), recovery, l.busy.worst())
	assert.LessOrEqual(t, since.Sub(writable), recovery+l.busy.worst())

	all := l.decisions(func(decision) bool { return true })
	l.admittedWithin(t, "by the server that died", l.decisions(func(d decision) bool { return d.sent.Before(killed) }))
	l.admittedWithin(t, "by its successor", l.decisions(func(d decision) bool { return !d.sent.Before(killed) }))

	failed := l.decisions(func(d decision) bool { return d.err != nil })
	require.NotEmpty(t, failed, "nobody noticed")
	for _, d := range failed {
		require.True(t, d.result.Allowed, "it fails open: %v", d.err)
	}
	slowest := slices.MaxFunc(all, func(a, b decision) int { return int(a.took - b.took) })
	t.Logf("%d of %d decisions passed uncounted; the slowest took %v, without being held up by this machine; target: 60ms", len(failed), len(all), slowest.took)
	assert.LessOrEqual(t, slowest.took, 60*time.Millisecond)
}

// The primary dies, and a replica takes over, while two processes ask for more than there is.
// What the replicas had heard of is still charged.
func TestAFailoverOfSentinel(t *testing.T) {
	deployment, prefix := redistest.NewSentinels(t), redistest.Prefix(t)
	client := func() redis.UniversalClient { return open(t, deployment.URL()) }
	busy := watch(t)
	rdb := client()
	store := redislimit.New(rdb, &redislimit.Options{Prefix: prefix})
	d, err := store.Take(t.Context(), requestN(100, "spent"))
	require.NoError(t, err)
	require.True(t, d.Allowed)
	c, err := ratelimit.NewConcurrency(store, "exports", 1, clientIP, &ratelimit.ConcurrencyOptions{
		Lease: time.Minute, Timeout: 10 * time.Second, Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	permit, err := c.Acquire(t.Context(), "k")
	require.NoError(t, err)
	require.True(t, permit.Held())
	conn := deployment.Client(t).Conn() // whose WAIT is for its own writes
	defer conn.Close()
	require.NoError(t, conn.Set(t.Context(), prefix+"last", 1, time.Minute).Err())
	require.EqualValues(t, 2, conn.Wait(t.Context(), 2, 30*time.Second).Val(), "replicas that are up to date")

	l := loadOn(t, busy, prefix, "hot", ratelimit.Options{}, client(), client())
	l.holds(t, time.Now())
	<-time.After(time.Second / 2)
	old := deployment.Primary(t)
	killed := time.Now()
	old.Kill(t)
	require.Eventually(t, func() bool { return deployment.Primary(t) != old }, time.Minute, 10*time.Millisecond)
	watcher := deployment.Client(t)
	require.Eventually(t, func() bool { return watcher.Set(t.Context(), prefix+"last", 2, time.Minute).Err() == nil }, time.Minute, 10*time.Millisecond)
	l.checkOutage(t, killed, time.Now())

	require.Eventually(t, func() bool {
		d, err = store.Take(t.Context(), request("spent"))
		return err == nil
	}, time.Minute, 10*time.Millisecond)
	assert.False(t, d.Allowed, "the replicas knew that it was spent")
	require.Eventually(t, func() bool {
		p, err := c.Acquire(t.Context(), "k")
		if err == nil {
			assert.False(t, p.Held(), "the replicas knew that there is no permit left")
			p.Release(t.Context())
		}
		return errors.Is(err, ratelimit.ErrNoPermit)
	}, time.Minute, 10*time.Millisecond)
	assert.NoError(t, permit.Context().Err())
	permit.Release(t.Context())
}

// A master of a Cluster dies, and its replica takes over. Meanwhile the limits of keys on other
// masters hold, if Redis lets them (cluster-require-full-coverage no).
func TestTheDeathOfAMasterOfACluster(t *testing.T) {
	cluster, prefix := redistest.NewCluster(t), redistest.Prefix(t)
	for _, addr := range cluster.Addrs() {
		node := redis.NewClient(&redis.Options{Addr: addr})
		require.NoError(t, node.ConfigSet(t.Context(), "cluster-require-full-coverage", "no").Err())
		require.NoError(t, node.Close())
	}
	client := func() redis.UniversalClient { return open(t, cluster.URL()) }
	master := func(key string) *redistest.Server { return cluster.MasterOf(t, prefix+"{"+key+"}") }
	dies, lives := "k0", ""
	for i := 1; lives == ""; i++ {
		if key := fmt.Sprint("k", i); master(key) != master(dies) {
			lives = key
		}
	}
	busy := watch(t)
	hit := loadOn(t, busy, prefix, dies, ratelimit.Options{}, client(), client())
	spared := loadOn(t, busy, prefix, lives, ratelimit.Options{Timeout: 10 * time.Second}, client())
	hit.holds(t, time.Now())
	spared.holds(t, time.Now())
	<-time.After(time.Second / 2)

	old := master(dies)
	killed := time.Now()
	old.Kill(t)
	require.Eventually(t, func() bool { return !slices.Contains(cluster.Masters(t), old) }, time.Minute, 10*time.Millisecond)
	watcher := client()
	require.Eventually(t, func() bool {
		return watcher.Set(t.Context(), prefix+"{"+dies+"}last", 1, time.Minute).Err() == nil
	}, time.Minute, 10*time.Millisecond)
	hit.checkOutage(t, killed, time.Now())
	spared.end()
	spared.admittedWithin(t, "on a master that lives", spared.decisions(func(decision) bool { return true }))
	assert.Zero(t, spared.limiters[0].Stats().FailedOpen, "of keys on a master that lives")
}
