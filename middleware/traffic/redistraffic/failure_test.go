package redistraffic_test

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/middleware/traffic"
	"github.com/herdless/herdless/middleware/traffic/redistraffic"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func throughProxy(t *testing.T, proxy *redistest.Proxy) *redis.Client {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: proxy.Addr(), ContextTimeoutEnabled: true, ReadTimeout: 200 * time.Millisecond, MaxRetries: 2})
	t.Cleanup(func() { rdb.Close() })
	return rdb
}

// eventuallyFlushed flushes until it succeeds.
func eventuallyFlushed(t *testing.T, r *traffic.Recorder) {
	t.Helper()
	require.Eventually(t, func() bool { return r.Flush(t.Context()) == nil }, 30*time.Second, 10*time.Millisecond)
}

func total(t *testing.T, r *traffic.Recorder) *traffic.Report {
	t.Helper()
	report, err := r.Report(t.Context(), time.Now().Add(-time.Hour), time.Now().Add(time.Minute), traffic.UnitMinute)
	require.NoError(t, err)
	return report
}

// TestConnectionsThatBreakCountOnce: answers are lost, batches come twice, and three
// nodes count what they have counted, on counters and on boards.
func TestConnectionsThatBreakCountOnce(t *testing.T) {
	server, o := redistest.Standalone(t), redistraffic.Options{Prefix: redistest.Prefix(t)}
	proxy := redistest.NewProxy(t, server.Addr())
	proxy.SetLatency(5 * time.Millisecond) // so that most cuts come between a batch and its answer
	ctx, stop := context.WithCancel(t.Context())
	var cutting sync.WaitGroup
	defer cutting.Wait()
	defer stop()
	cutting.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			time.Sleep(time.Duration(3+i%7) * time.Millisecond)
			proxy.Cut()
		}
	})
	var nodes []*traffic.Recorder
	for i := range 3 {
		nodes = append(nodes, newRecorder(t, throughProxy(t, proxy), o, fmt.Sprint("web", i)))
	}
	const flushes, each = 20, 50
	var running sync.WaitGroup
	for _, node := range nodes {
		running.Go(func() {
			board, err := node.Board("products", nil)
			assert.NoError(t, err)
			for range flushes {
				for i := range each {
					node.Record(traffic.Hit{Route: "r", Path: "/p", Status: 200, Bytes: 3})
					board.Add(fmt.Sprint("product ", i%5), 1)
				}
				_ = node.Flush(ctx)
			}
		})
	}
	running.Wait()
	faults := uint64(0)
	for _, node := range nodes {
		faults += node.Stats().Faults
	}
	assert.Positive(t, faults, "nothing was broken")
	t.Logf("%d flushes failed", faults)
	stop()
	cutting.Wait()
	for _, node := range nodes {
		eventuallyFlushed(t, node)
	}
	report := total(t, nodes[0])
	assert.Equal(t, uint64(3*flushes*each), report.Total.Requests())
	assert.Equal(t, uint64(3*3*flushes*each), report.Total.Bytes)
	board, err := nodes[0].Board("products", nil)
	require.NoError(t, err)
	top, err := board.Top(t.Context(), traffic.AllTime, 10)
	require.NoError(t, err)
	require.Len(t, top, 5)
	for _, e := range top {
		assert.Equal(t, int64(3*flushes*each/5), e.Score, e.Member)
	}
}

// TestRedisIsAway: requests go on, among them more paths than there is room for, and
// nothing of what has a place is lost. Memory grows up to a bound, and no further.
func TestRedisIsAway(t *testing.T) {
	away, perSecond := 2*time.Second, 100_000
	if soak() {
		away = 30 * time.Second
	}
	for _, how := range []string{"refused", "silent"} {
		t.Run(how, func(t *testing.T) {
			// A server that is stopped does later what it was sent meanwhile: the
			// same batch, hundreds of times.
			server := redistest.NewStandalone(t)
			proxy := redistest.NewProxy(t, server.Addr())
			rdb := throughProxy(t, proxy)
			if how == "silent" { // what the proxy holds back would be in this process
				rdb = redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true, ReadTimeout: 200 * time.Millisecond, MaxRetries: 2})
				t.Cleanup(func() { rdb.Close() })
			}
			node := newRecorder(t, rdb, redistraffic.Options{}, "web")
			n, regular := 0, 0
			request := func() {
				path := fmt.Sprintf("/attack/%d", n)
				if n%5 == 0 {
					path = fmt.Sprintf("/product/%d", regular%50)
					regular++
				}
				node.Record(traffic.Hit{
					Route: "GET /" + strings.SplitN(path, "/", 3)[1], Path: path, Status: 200, Addr: netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}),
				})
				n++
			}
			for range 1000 {
				request()
			}
			eventuallyFlushed(t, node)
			if how == "silent" {
				server.Stop(t)
			}
			proxy.Refuse(how == "refused")
			fill := func(d time.Duration) {
				for end := time.Now().Add(d); time.Now().Before(end); {
					for range perSecond / 20 {
						request()
					}
					ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
					assert.Error(t, node.Flush(ctx))
					cancel()
				}
			}
			fill(away / 2)
			before := heap()
			fill(away / 2)
			growth := heap() - before
			proxy.Refuse(false)
			server.Continue(t)
			eventuallyFlushed(t, node)

			report := total(t, node)
			stats := node.Stats()
			t.Logf("%d requests, %d of them for regular paths; the heap grew by %d KiB in the second half; %+v", n, regular, growth>>10, stats)
			assert.Less(t, growth, int64(2<<20))
			assert.Equal(t, uint64(n), report.Total.Requests())
			board, err := node.Board(traffic.PathsBoard, nil)
			require.NoError(t, err)
			top, err := board.Top(t.Context(), traffic.AllTime, 50)
			require.NoError(t, err)
			sum := int64(0)
			for _, e := range top {
				sum += e.Score
				assert.True(t, strings.HasPrefix(e.Member, "/product/"), e.Member)
			}
			assert.Equal(t, int64(regular), sum)
			assert.Positive(t, stats.UncountedAdditions)
		})
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestRedisIsEmptied: what was counted before is gone, and counting goes on.
func TestRedisIsEmptied(t *testing.T) {
	server := redistest.NewStandalone(t)
	setSalts(t, server.Client(t), "herdless:traffic:{site}:")
	node := newRecorder(t, server.Client(t), redistraffic.Options{}, "web")
	count := func() {
		node.Record(traffic.Hit{Route: "r", Path: "/p", Status: 200, Addr: netip.MustParseAddr("192.0.2.1")})
		eventuallyFlushed(t, node)
	}
	count()
	count()
	server.Restart(t) // scripts and data are gone
	setSalts(t, server.Client(t), "herdless:traffic:{site}:")
	count()
	count()
	report := total(t, node)
	assert.Equal(t, uint64(2), report.Total.Requests())
	assert.Equal(t, uint64(1), report.Visitors)
	board, err := node.Board(traffic.PathsBoard, nil)
	require.NoError(t, err)
	e, ok, err := board.Rank(t.Context(), traffic.AllTime, "/p")
	require.NoError(t, err)
	require.True(t, ok)
	assert.Equal(t, int64(4), e.Score, "the node still knows what it has had of it")
}

// TestAnEvictedKey: figures may be lost with a key that Redis evicts, but none is given to
// another route or server.
func TestAnEvictedKey(t *testing.T) {
	for _, what := range []string{"rows:d", "counters:m", "counters:h", "counters:d"} {
		t.Run(what, func(t *testing.T) {
			rdb := redistest.Standalone(t).Client(t)
			o := redistraffic.Options{Prefix: redistest.Prefix(t), Site: "t"}
			node := newRecorder(t, rdb, o, "web")
			count := func(routes ...string) {
				for _, route := range routes {
					for range map[string]int{"a": 1, "b": 2, "c": 4, "d": 8}[route] {
						node.Record(traffic.Hit{Route: route, Status: 200})
					}
				}
				require.NoError(t, node.Flush(t.Context()))
			}
			count("a", "b", "c")
			count("b")
			// Whichever day it is.
			keys, err := rdb.Keys(t.Context(), o.Prefix+"*"+what+"*").Result()
			require.NoError(t, err)
			require.NotEmpty(t, keys)
			require.NoError(t, rdb.Del(t.Context(), keys...).Err())
			for _, step := range []traffic.Unit{traffic.UnitMinute, traffic.UnitHour, traffic.UnitDay} { // while it is away
				_, err := node.Report(t.Context(), time.Now().Add(-time.Minute), time.Now(), step)
				require.NoError(t, err)
			}
			count("d", "c")
			count("c")
			for back, step := range map[time.Duration]traffic.Unit{time.Minute: traffic.UnitMinute, 3 * time.Hour: traffic.UnitHour, 9 * 24 * time.Hour: traffic.UnitDay} {
				report, err := node.Report(t.Context(), time.Now().Add(-back), time.Now(), step)
				require.NoError(t, err)
				got := map[string]uint64{}
				for _, row := range report.Routes {
					got[row.Name] = row.Requests()
				}
				all := map[string]uint64{"a": 1, "b": 4, "c": 12, "d": 8}
				late := map[string]uint64{"c": 8, "d": 8}
				assert.Contains(t, []map[string]uint64{all, late}, got, "by %v", step)
				require.Len(t, report.Nodes, 1)
				assert.Equal(t, "web", report.Nodes[0].Name)
				assert.Equal(t, report.Total.Requests(), report.Nodes[0].Requests())
			}
		})
	}
}

// TestATableOfSomebodyElse: whatever stands in the place of the rows' names, counting goes on.
func TestATableOfSomebodyElse(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	o := redistraffic.Options{Prefix: redistest.Prefix(t), Site: "t"}
	node := newRecorder(t, rdb, o, "web")
	require.NoError(t, node.Flush(t.Context()))
	today := traffic.BucketOf(traffic.UnitDay, time.Now()).N
	for i, table := range []string{
		"", "\n", "x", "#", "#12", "#12\n", "#1234567890123456\n", "#1234567890123456\nq\n\n", "r(other)\nn(other)\nra\n",
		"#1234567890123456\nr(other)\nn(other)\nzfoo\n\n",
	} {
		for day := range int64(2) { // it may be midnight
			require.NoError(t, rdb.Set(t.Context(), fmt.Sprintf("%s{t}:rows:d%d", o.Prefix, today+day), table, 0).Err())
		}
		route := fmt.Sprint("route ", i)
		node.Record(traffic.Hit{Route: route, Status: 200})
		require.NoError(t, node.Flush(t.Context()), "%q", table)
		report := total(t, node)
		require.NotEmpty(t, report.Routes, "%q", table)
		assert.Contains(t, report.Routes, traffic.Row{Kind: traffic.KindRoute, Name: route, Counters: report.Routes[0].Counters}, "%q", table)
	}
}

// TestAKeyOfAnotherType: somebody else's key in the way is an error, and nothing is
// counted twice when it is gone.
func TestAKeyOfAnotherType(t *testing.T) {
	server := redistest.NewStandalone(t)
	rdb := server.Client(t)
	node := newRecorder(t, rdb, redistraffic.Options{}, "web")
	require.NoError(t, rdb.LPush(t.Context(), "herdless:traffic:{site}:board:all:paths", "x").Err())
	for range 5 {
		node.Record(traffic.Hit{Route: "r", Path: "/p", Status: 200})
		err := node.Flush(t.Context())
		require.Error(t, err)
		assert.Contains(t, err.Error(), "WRONGTYPE")
	}
	require.NoError(t, rdb.Del(t.Context(), "herdless:traffic:{site}:board:all:paths").Err())
	require.NoError(t, node.Flush(t.Context()))
	assert.Equal(t, uint64(5), total(t, node).Total.Requests())
	board, err := node.Board(traffic.PathsBoard, nil)
	require.NoError(t, err)
	for _, windows := range [][]traffic.Window{{traffic.Day, traffic.Day.Ago(1)}, {traffic.AllTime}} { // it may be midnight
		score := int64(0)
		for _, w := range windows {
			e, _, err := board.Rank(t.Context(), w, "/p")
			require.NoError(t, err)
			score += e.Score
		}
		assert.Equal(t, int64(5), score)
	}
}

// TestAScriptThatEndsHalfwayCountsOnce: Redis does not take back what a script has
// done before its error.
func TestAScriptThatEndsHalfwayCountsOnce(t *testing.T) {
	for _, what := range []string{"counters:h", "counters:d", "visitors:m", "visitors:h", "visitors:d", "trims:all"} {
		for _, corrupt := range []bool{false, true} {
			t.Run(fmt.Sprint(what, " ", corrupt), func(t *testing.T) {
				server := redistest.Standalone(t)
				o := redistraffic.Options{Prefix: redistest.Prefix(t), Site: "t"}
				rdb := server.Client(t)
				node := newRecorder(t, rdb, o, "web")
				require.NoError(t, node.Flush(t.Context()))
				board, err := node.Board("players", &traffic.BoardOptions{Capacity: 1})
				require.NoError(t, err)
				block := func(f func(key string)) { // also if the minute, hour or day ends meanwhile
					key := o.Prefix + "{t}:" + what
					if what == "trims:all" {
						f(key + ":players")
						return
					}
					units := map[byte]traffic.Unit{'m': traffic.UnitMinute, 'h': traffic.UnitHour, 'd': traffic.UnitDay}
					for n := range int64(2) {
						f(fmt.Sprint(key, traffic.BucketOf(units[what[len(what)-1]], time.Now()).N+n))
					}
				}
				block(func(key string) {
					if corrupt {
						require.NoError(t, rdb.Set(t.Context(), key, "x", 0).Err())
					} else {
						require.NoError(t, rdb.LPush(t.Context(), key, "x").Err())
					}
				})
				// Two servers admit more than the board has room for.
				other := newRecorder(t, rdb, o, "other")
				theirs, err := other.Board("players", nil)
				require.NoError(t, err)
				for i := range 300 {
					theirs.Add(fmt.Sprint(i), 1)
				}
				_ = other.Flush(t.Context())
				for range 3 {
					node.Record(traffic.Hit{Route: "r", Status: 200, Visitor: "ada", Bytes: 1})
					board.Add("ada", 10)
					_ = node.Flush(t.Context())
				}
				block(func(key string) { require.NoError(t, rdb.Del(t.Context(), key).Err()) })
				require.NoError(t, node.Flush(t.Context()))
				require.NoError(t, node.Flush(t.Context()))
				report, err := node.Report(t.Context(), time.Now().Add(-5*time.Minute), time.Now().Add(time.Minute), traffic.UnitMinute)
				require.NoError(t, err)
				requests := uint64(0)
				for _, p := range report.Points { // those of minutes
					requests += p.Requests()
				}
				assert.Equal(t, uint64(3), requests, "by minute")
				e, _, err := board.Rank(t.Context(), traffic.AllTime, "ada")
				require.NoError(t, err)
				assert.Equal(t, int64(30), e.Score)
			})
		}
	}
}

// TestClosingWhileRedisHangs: whatever the client does about deadlines.
func TestClosingWhileRedisHangs(t *testing.T) {
	server := redistest.NewStandalone(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()}) // takes no deadline from contexts
	t.Cleanup(func() { rdb.Close() })
	node, err := traffic.New(redistraffic.New(rdb, nil), &traffic.Options{Node: "web", Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return node.Stats().Flushes > 0 }, 30*time.Second, 10*time.Millisecond)
	server.Stop(t)
	node.Record(traffic.Hit{Status: 200})
	time.Sleep(1500 * time.Millisecond) // a flush is under way
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	closed := make(chan error, 1)
	go func() { closed <- node.Close(ctx) }()
	select {
	case err := <-closed:
		require.ErrorIs(t, err, context.DeadlineExceeded)
	case <-time.After(2500 * time.Millisecond): // the client's own timeouts are 3 seconds, four times
		assert.Fail(t, "Close waits for Redis")
		server.Continue(t)
		<-closed
	}
}

// TestNumbersThatAreTooLarge: what does not fit is counted as the most that does, and
// stands in nobody's way.
func TestNumbersThatAreTooLarge(t *testing.T) {
	server, o := redistest.Standalone(t), redistraffic.Options{Prefix: redistest.Prefix(t)}
	node := newRecorder(t, server.Client(t), o, "web")
	require.NoError(t, node.Flush(t.Context()))
	for range 2 {
		node.Record(traffic.Hit{Route: "r", Status: 200, Bytes: math.MaxInt64})
	}
	require.NoError(t, node.Flush(t.Context()))
	assert.Equal(t, uint64(2), total(t, node).Total.Requests())
}
