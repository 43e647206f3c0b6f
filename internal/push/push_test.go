package push_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/push"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { os.Exit(redistest.Run(m)) }

const patience = 10 * time.Second

// awaitWake fails the test unless woken has a value in time.
func awaitWake(t *testing.T, woken <-chan struct{}) {
	t.Helper()
	select {
	case <-woken:
	case <-time.After(patience):
		t.Fatalf("not woken within %v", patience)
	}
}

func watch(t *testing.T, h *push.Hub, channel string) (<-chan struct{}, func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	woken, stop, err := h.Watch(ctx, channel, "")
	require.NoError(t, err)
	t.Cleanup(stop)
	return woken, stop
}

func TestEveryWatcherOfAChannelIsWokenAndNoOther(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		prefix := redistest.Prefix(t)
		h := push.New(rdb)
		a1, _ := watch(t, h, prefix+"a")
		a2, _ := watch(t, h, prefix+"a")
		b, _ := watch(t, h, prefix+"b")

		require.NoError(t, rdb.Publish(t.Context(), prefix+"a", "").Err())
		awaitWake(t, a1)
		awaitWake(t, a2)
		assert.Empty(t, b, "a message on one channel must not wake watchers of another")
	})
}

func TestAMessageWakesThoseOfItsNameAndAnEmptyOneAll(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		channel := redistest.Prefix(t) + "c"
		h := push.New(rdb)
		named := func(name string) <-chan struct{} {
			woken, stop, err := h.Watch(t.Context(), channel, name)
			require.NoError(t, err)
			t.Cleanup(stop)
			return woken
		}
		a1, a2, b, none := named("a"), named("a"), named("b\x00 \xff"), named("")
		publish := func(message string) {
			t.Helper()
			require.NoError(t, rdb.Publish(t.Context(), channel, message).Err())
		}
		publish("a")
		awaitWake(t, a1)
		awaitWake(t, a2)
		publish("b\x00 \xff")
		awaitWake(t, b)
		for _, w := range []<-chan struct{}{a1, a2, none} {
			assert.Empty(t, w, "a message for others")
		}
		publish("")
		for _, w := range []<-chan struct{}{a1, a2, b, none} {
			awaitWake(t, w)
		}
	})
}

// A watcher that was told "you are subscribed" must get every message published
// after that, also when the channel was watched and left just before.
func TestNoMessageAfterWatchIsMissed(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	channel := redistest.Prefix(t) + "c"
	h := push.NewLingering(rdb, 2*time.Millisecond) // subscriptions come and go all the time
	for range 300 {
		woken, stop := watch(t, h, channel)
		require.NoError(t, rdb.Publish(t.Context(), channel, "").Err())
		awaitWake(t, woken)
		stop()
	}
}

func TestManyWatchersShareOneConnection(t *testing.T) {
	server := redistest.Standalone(t)
	proxy := redistest.NewProxy(t, server.Addr())
	rdb := redis.NewClient(&redis.Options{Addr: proxy.Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	prefix := redistest.Prefix(t)
	h := push.New(rdb)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() { watch(t, h, fmt.Sprint(prefix, i%10)) })
	}
	wg.Wait()
	assert.Len(t, proxy.Conns(), 1)
}

func TestACutConnectionWakesEveryWatcher(t *testing.T) {
	server := redistest.Standalone(t)
	proxy := redistest.NewProxy(t, server.Addr())
	rdb := redis.NewClient(&redis.Options{Addr: proxy.Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	prefix := redistest.Prefix(t)
	h := push.New(rdb)
	a, _ := watch(t, h, prefix+"a")
	b, _ := watch(t, h, prefix+"b")

	proxy.Cut()
	awaitWake(t, a)
	awaitWake(t, b)

	require.NoError(t, server.Client(t).Publish(t.Context(), prefix+"a", "").Err())
	awaitWake(t, a)
}

// The kernel takes what is sent to a host that is gone for a quarter of an hour.
func TestASubscriptionLeavesAServerThatIsSilent(t *testing.T) {
	server := redistest.Standalone(t)
	proxy := redistest.NewProxy(t, server.Addr())
	before := goleak.IgnoreCurrent()
	var to atomic.Value
	to.Store(proxy.Addr())
	rdb := redis.NewClient(&redis.Options{Dialer: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, to.Load().(string))
	}})
	prefix := redistest.Prefix(t)
	h := push.NewLingering(rdb, 100*time.Millisecond)
	a, stopA := watch(t, h, prefix+"a")
	to.Store(server.Addr())
	proxy.Blackhole(true)
	awaitWake(t, a) // what was published meanwhile is lost
	b, stopB := watch(t, h, prefix+"b")
	for channel, woken := range map[string]<-chan struct{}{"a": a, "b": b} {
		require.NoError(t, server.Client(t).Publish(t.Context(), prefix+channel, "").Err())
		awaitWake(t, woken)
	}
	stopA()
	stopB()
	require.NoError(t, rdb.Close())
	proxy.Blackhole(false)
	proxy.Cut()
	goleak.VerifyNone(t, before)
}

// Connections to a server that hangs stay open, also when it is the primary no more.
func TestASubscriptionFollowsAFailoverFromAServerThatHangs(t *testing.T) {
	deployment := redistest.NewSentinels(t)
	h := push.NewLingering(deployment.Client(t), time.Second)
	woken, _ := watch(t, h, "c")
	old := deployment.Primary(t)
	old.Stop(t)
	require.Eventually(t, func() bool { return deployment.Primary(t) != old }, 3*patience, 10*time.Millisecond)
	rdb := deployment.Primary(t).Client(t)
	require.Eventually(t, func() bool {
		_ = rdb.Publish(t.Context(), "c", "").Err()
		return len(woken) > 0
	}, 3*patience, 10*time.Millisecond)
}

func TestASubscriptionStaysWithAServerThatIsSlow(t *testing.T) {
	proxy := redistest.NewProxy(t, redistest.Standalone(t).Addr())
	rdb := redis.NewClient(&redis.Options{Addr: proxy.Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	h := push.NewLingering(rdb, 2*time.Second) // nor one whose machine is busy
	watch(t, h, redistest.Prefix(t)+"c")
	proxy.SetLatency(100 * time.Millisecond)
	asked := proxy.Stats().RoundTrips
	require.Eventually(t, func() bool { return proxy.Stats().RoundTrips >= asked+2 }, 3*patience, 10*time.Millisecond)
	assert.Len(t, proxy.Conns(), 1)
}

func TestWatchEndsWithItsContext(t *testing.T) {
	server := redistest.NewStandalone(t)
	rdb := server.Client(t)
	server.Stop(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, _, err := push.New(rdb).Watch(ctx, "c", "")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Less(t, time.Since(began), patience)
	server.Continue(t)
}

func TestNothingIsLeftAfterTheLastWatcher(t *testing.T) {
	server := redistest.Standalone(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	before := goleak.IgnoreCurrent()
	h := push.NewLingering(rdb, 10*time.Millisecond)
	_, stop := watch(t, h, redistest.Prefix(t)+"c")
	stop()
	stop() // may be called twice
	goleak.VerifyNone(t, before)
	require.NoError(t, rdb.Close())
}

// An ACL may forbid channels: the server never confirms them.
func TestChannelsThatAreForbiddenAreForgotten(t *testing.T) {
	server := redistest.NewStandalone(t)
	require.NoError(t, server.Client(t).Do(t.Context(),
		"ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "resetchannels", "&mine").Err())
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), Username: "app", Password: "pw"})
	t.Cleanup(func() { _ = rdb.Close() })
	h := push.NewLingering(rdb, 50*time.Millisecond)
	watch(t, h, "mine")
	for i := range 10 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		_, _, err := h.Watch(ctx, fmt.Sprint("forbidden", i), "")
		cancel()
		require.Error(t, err)
	}
	assert.Eventually(t, func() bool { return h.Topics() == 1 }, patience, 10*time.Millisecond)
}

func TestClosingTheClientEndsTheHub(t *testing.T) {
	server := redistest.Standalone(t)
	before := goleak.IgnoreCurrent()
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	h := push.New(rdb)
	woken, _ := watch(t, h, redistest.Prefix(t)+"c")
	require.NoError(t, rdb.Close())
	awaitWake(t, woken)
	goleak.VerifyNone(t, before)

	_, _, err := h.Watch(t.Context(), "c", "")
	require.ErrorContains(t, err, "closed")
	goleak.VerifyNone(t, before)
}
