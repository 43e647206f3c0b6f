package rediscache_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// A caller waits for as long as it wants, in the process that loads and in others.
func TestAWaiterKeepsItsDeadlineOnRedis(t *testing.T) {
	t.Parallel()
	server, source := redistest.Standalone(t), newSource(t)
	setup := Setup{URL: server.URL(), Prefix: redistest.Prefix(t), Source: string(source), StoreTimeout: patient, LeaseTTL: longLease}
	loading, other := startNode(t, setup), startNode(t, setup)
	source.set(t, "key", "value")
	loaded := make(chan error, 1)
	go func() {
		_, err := loading.values.Get(context.Background(), "key", loading.loader(LoadOrder{Held: true}))
		loaded <- err
	}()
	source.begun(t, "key", 1)
	const deadline, off = 100 * time.Millisecond, 20 * time.Millisecond
	tries(t, func(m *measurement) {
		for name, n := range map[string]*node{"the loading process": loading, "another process": other} {
			var took figures
			for range 11 {
				ctx, cancel := context.WithTimeout(t.Context(), deadline)
				began := time.Now()
				_, err := n.values.Get(ctx, "key", n.loader(LoadOrder{}))
				took = append(took, time.Since(began))
				require.ErrorIs(t, err, context.DeadlineExceeded, name)
				cancel()
			}
			t.Logf("in %s waiters returned after %v", name, took)
			assert.GreaterOrEqual(t, took.percentile(0), deadline-time.Millisecond, name)
			m.within(deadline+off, took.percentile(50), name)
		}
	})
	source.letGo(t, "key")
	require.NoError(t, <-loaded)
	require.Len(t, source.loads(t, "key"), 1)
}

// When nobody waits for a load any more it ends, and another one can begin at once.
func TestAllCallersGoAwayOnRedis(t *testing.T) {
	server, source := redistest.Standalone(t), newSource(t)
	setup := Setup{URL: server.URL(), Prefix: redistest.Prefix(t), Source: string(source), StoreTimeout: patient, LeaseTTL: longLease}
	n, other := startNode(t, setup), startNode(t, setup)
	for _, key := range []string{"warm", "key"} {
		source.set(t, key, "value")
	}
	for _, n := range []*node{n, other} { // connections, and the feed
		_, err := n.values.Get(t.Context(), "warm", n.loader(LoadOrder{}))
		require.NoError(t, err)
		warm(t, n.store)
	}
	running := goleak.IgnoreCurrent()
	ctx, cancel := context.WithCancelCause(t.Context())
	errs := make(chan error, 20)
	var wg sync.WaitGroup
	for range cap(errs) {
		wg.Go(func() {
			_, err := n.values.Get(ctx, "key", n.loader(LoadOrder{Held: true}))
			errs <- err
		})
	}
	source.begun(t, "key", 1)
	rdb := server.Client(t)
	locks := redislock.New(rdb, &redislock.Options{Prefix: n.prefix + "lock:"})
	free := func() bool {
		req := lock.Request{Name: n.store.LeaseName("values:key"), Owner: "free?", TTL: time.Minute}
		grant, err := locks.TryAcquire(t.Context(), req)
		if err != nil || !grant.Acquired {
			return false
		}
		_, err = locks.Release(t.Context(), req)
		return err == nil
	}
	require.False(t, free(), "the lease")
	away := errors.New("away")
	cancel(away)
	wg.Wait()
	close(errs)
	for err := range errs {
		require.ErrorIs(t, err, away)
	}
	eventually(t, patience, "the load has ended", func() bool { return !source.loads(t, "key")[0].ended.IsZero() })
	eventually(t, patience, "the lease is free", free)
	noneLeft(t, running,
		// A feed may have to subscribe anew at any time.
		goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9.(*channel).initAllChan.func1"),
		goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9.(*channel).initHealthCheck.func1"),
	)
	value, err := other.values.Get(t.Context(), "key", other.loader(LoadOrder{}))
	require.NoError(t, err)
	assert.Equal(t, "value", value)
	assert.Len(t, source.loads(t, "key"), 2)
}
