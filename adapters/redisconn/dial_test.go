package redisconn_test

import (
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
