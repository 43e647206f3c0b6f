package redisconn_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/internal/redistest"
)

// Whatever is asked meanwhile, a server that is away is dialled about once a
// second, and is in use soon after it is back, however long that was.
func TestAServerThatIsAwayIsDialledOnceASecond(t *testing.T) {
	proxy := redistest.NewProxy(t, redistest.Standalone(t).Addr())
	rdb := open(t, "redis://"+proxy.Addr()+"?pool_size=2")
	require.NoError(t, rdb.Ping(t.Context()).Err())
	proxy.Refuse(true)
	for range 5 {
		require.Error(t, rdb.Ping(t.Context()).Err())
	}
	proxy.Reset()
	began, asked := time.Now(), 0
	for ; time.Since(began) < 2*time.Second; asked++ {
		require.Error(t, rdb.Ping(t.Context()).Err())
		time.Sleep(time.Millisecond)
	}
	assert.Greater(t, asked, 10)
	assert.LessOrEqual(t, float64(proxy.Refused()), time.Since(began).Seconds()/0.9+1)
	proxy.Refuse(false)
	require.Eventually(t, func() bool { return rdb.Ping(t.Context()).Err() == nil }, 10*time.Second, time.Millisecond)
}

// A connection that has ended while it was idle costs nobody an error: go-redis
// looks at it before it is used.
func TestAConnectionThatEndedWhileIdleIsNotUsed(t *testing.T) {
	proxy := redistest.NewProxy(t, redistest.Standalone(t).Addr())
	rdb := open(t, "redis://"+proxy.Addr()+"?max_retries=0")
	for range 5 {
		require.NoError(t, rdb.Ping(t.Context()).Err())
		proxy.Cut()
		time.Sleep(50 * time.Millisecond) // for the end to arrive
	}
}

// One dial that fails, or two, keep nobody from the next one.
func TestAMomentIsNoAbsence(t *testing.T) {
	proxy := redistest.NewProxy(t, redistest.Standalone(t).Addr())
	rdb := open(t, "redis://"+proxy.Addr()+"?max_retries=0")
	for range 3 {
		proxy.Refuse(true)
		require.Error(t, rdb.Ping(t.Context()).Err())
		proxy.Refuse(false)
		require.NoError(t, rdb.Ping(t.Context()).Err())
	}
}

// Who gives a connection up before the answer can have come says little about the server.
func TestCallersInAHurryKeepNobodyFromTheServer(t *testing.T) {
	proxy := redistest.NewProxy(t, redistest.Standalone(t).Addr())
	proxy.SetLatency(200 * time.Millisecond)
	rdb := open(t, "redis://"+proxy.Addr()+"?max_retries=0&read_timeout=10s")
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		require.Error(t, rdb.Ping(ctx).Err())
		cancel()
	}
	require.NoError(t, rdb.Ping(t.Context()).Err())
}

// One that takes connections and says nothing for as long as go-redis waits is away, and who
// is in a hurry does not bring it back.
func TestAServerThatIsSilentOnItsConnectionsIsAway(t *testing.T) {
	proxy := redistest.NewProxy(t, redistest.Standalone(t).Addr())
	proxy.Blackhole(true)
	rdb := open(t, "redis://"+proxy.Addr()+"?max_retries=0&read_timeout=200ms")
	require.Eventually(t, func() bool {
		return strings.Contains(rdb.Ping(t.Context()).Err().Error(), "could not be reached")
	}, 10*time.Second, time.Millisecond)
	began, before := time.Now(), len(proxy.Conns())
	for time.Since(began) < 2*time.Second {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		require.Error(t, rdb.Ping(ctx).Err())
		cancel()
		time.Sleep(time.Millisecond)
	}
	assert.LessOrEqual(t, float64(len(proxy.Conns())-before), time.Since(began).Seconds()/0.9+1)
	proxy.Blackhole(false)
	require.Eventually(t, func() bool { return rdb.Ping(t.Context()).Err() == nil }, 10*time.Second, time.Millisecond)
}
