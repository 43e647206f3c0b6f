package redistraffic_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/middleware/traffic"
	"github.com/herdless/herdless/middleware/traffic/redistraffic"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// calls returns how many commands the server has run, those of scripts included.
func calls(t *testing.T, rdb *redis.Client) (sum int) {
	t.Helper()
	info, err := rdb.InfoMap(t.Context(), "commandstats").Result()
	require.NoError(t, err)
	for _, stats := range info["Commandstats"] {
		var n int
		_, err := fmt.Sscanf(stats, "calls=%d", &n)
		require.NoError(t, err)
		sum += n
	}
	return sum
}

// TestWhatAFlushCosts: one round trip, and far fewer commands than requests.
func TestWhatAFlushCosts(t *testing.T) {
	server := redistest.NewStandalone(t)
	rdb := server.Client(t)
	proxy := redistest.NewProxy(t, server.Addr())
	through := redis.NewClient(&redis.Options{Addr: proxy.Addr(), MaxRetries: -1})
	t.Cleanup(func() { through.Close() })
	node := newRecorder(t, through, redistraffic.Options{}, "web")
	zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 1)), 1.05, 1, paths-1)
	count := func(n int) {
		for i := range n {
			node.Record(traffic.Hit{
				Route: fmt.Sprint("route ", i%20), Path: fmt.Sprint("/product/", zipf.Uint64()), Status: 200,
				Latency: time.Duration(i%3000) * time.Microsecond, Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}),
			})
		}
		require.NoError(t, node.Flush(t.Context()))
	}
	count(1)
	count(1)
	requests, batch := 0, 5000
	before := calls(t, rdb)
	for range 4 {
		proxy.Reset()
		count(batch)
		requests += batch
		assert.LessOrEqual(t, proxy.Stats().RoundTrips, int64(2), "one pipeline, whose first answers may cross its end")
	}
	perRequest := float64(calls(t, rdb)-before) / float64(requests)
	t.Logf("%.4f commands per request", perRequest)
	assert.Less(t, perRequest, 1/1.5)
}

// TestWhatAReportCosts: one command, one for each 64 buckets and one for each point,
// however long the time.
func TestWhatAReportCosts(t *testing.T) {
	server := redistest.NewStandalone(t)
	rdb := server.Client(t)
	node := newRecorder(t, rdb, redistraffic.Options{}, "web")
	node.Record(traffic.Hit{Route: "r", Status: 200})
	require.NoError(t, node.Flush(t.Context()))
	for _, tt := range []struct {
		back   time.Duration
		step   traffic.Unit
		points int
	}{
		{time.Minute, traffic.UnitMinute, 2},
		{time.Hour, traffic.UnitMinute, 61},
		{24 * time.Hour, traffic.UnitHour, 25},
		{399 * 24 * time.Hour, traffic.UnitDay, 400},
	} {
		before := calls(t, rdb)
		report, err := node.Report(t.Context(), time.Now().Add(-tt.back), time.Now().Add(time.Minute), tt.step)
		require.NoError(t, err)
		assert.Equal(t, uint64(1), report.Total.Requests())
		assert.InDelta(t, tt.points, len(report.Points), 1)
		assert.LessOrEqual(t, calls(t, rdb)-before, 2+tt.points/64+1+tt.points+1, "INFO is one of them")
	}
}

// TestWhatTheDashboardCosts: as much with many boards as with one.
func TestWhatTheDashboardCosts(t *testing.T) {
	server := redistest.NewStandalone(t)
	proxy := redistest.NewProxy(t, server.Addr())
	through := redis.NewClient(&redis.Options{Addr: proxy.Addr(), MaxRetries: -1})
	t.Cleanup(func() { through.Close() })
	node := newRecorder(t, through, redistraffic.Options{}, "web")
	for i := range 40 {
		board, err := node.Board(fmt.Sprint("board ", i), nil)
		require.NoError(t, err)
		board.Add("ada", int64(i+1))
	}
	require.NoError(t, node.Flush(t.Context()))
	proxy.Reset()
	w := httptest.NewRecorder()
	node.Dashboard(func(*http.Request) bool { return true }).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/?format=json&window=month", nil))
	require.Equal(t, http.StatusOK, w.Code)
	assert.LessOrEqual(t, proxy.Stats().RoundTrips, int64(4), "counters, visitors and boards; the first answers of a pipeline may cross its end")
	var f struct{ Boards map[string][]traffic.Entry }
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &f))
	require.Len(t, f.Boards, 41)
	for i := range 40 {
		require.Equal(t, []traffic.Entry{{Rank: 1, Member: "ada", Score: int64(i + 1)}}, f.Boards[fmt.Sprint("board ", i)])
	}
}

// TestWhatASiteTakes: what docs/redis.md says that a minute, an hour or a day takes.
func TestWhatASiteTakes(t *testing.T) {
	rdb := redistest.NewStandalone(t).Client(t)
	for server := range 3 {
		node := newRecorder(t, rdb, redistraffic.Options{}, fmt.Sprint("web", server))
		require.NoError(t, node.Flush(t.Context()))
		for i := range 20_000 {
			node.Record(traffic.Hit{
				Route: fmt.Sprint("GET /route/", i%20), Path: fmt.Sprint("/product/", i%5000), Status: 200,
				Latency: time.Duration(i) * time.Microsecond, Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}),
			})
		}
		require.NoError(t, node.Flush(t.Context()))
	}
	// The counters' string grows row by row, and Redis keeps twice its 12 KiB then, or
	// once, as the batches come; the key is 88 bytes on top.
	for what, atMost := range map[string]int64{"counters": 24<<10 + 88, "visitors": 15 << 10, "board": 43 << 10} {
		keys, err := rdb.Keys(t.Context(), "herdless:traffic:{site}:"+what+":d*").Result()
		require.NoError(t, err)
		require.NotEmpty(t, keys)
		for _, key := range keys { // two at midnight
			n, err := rdb.MemoryUsage(t.Context(), key, 0).Result()
			require.NoError(t, err)
			t.Logf("%s: %d bytes", key, n)
			assert.LessOrEqual(t, n, atMost, what)
			assert.Positive(t, n)
		}
	}
}
