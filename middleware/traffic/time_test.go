package traffic_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/middleware/traffic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// until sleeps until the clock of the bubble shows a time of the day.
func until(clock string) {
	at, err := time.Parse("15:04:05", clock)
	if err != nil {
		panic(err)
	}
	now := time.Now().UTC()
	next := time.Date(now.Year(), now.Month(), now.Day(), at.Hour(), at.Minute(), at.Second(), 0, time.UTC)
	if !next.After(now) {
		next = next.Add(24 * time.Hour)
	}
	time.Sleep(next.Sub(now))
}

// atNoon runs a test in a bubble, at noon: when a day, or an hour, ends in the middle of
// a test, what it has counted is in another one than it asks for.
func atNoon(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		until("12:00:30")
		test(t)
	})
}

func TestBoardsOfMinutesHoursAndDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(t, traffic.NewMemoryStore(), nil)
		board, err := r.Board("players", nil)
		require.NoError(t, err)
		score := func(w traffic.Window) int64 {
			e, _, err := board.Rank(t.Context(), w, "ada")
			require.NoError(t, err)
			return e.Score
		}
		add := func(clock string, n int64) {
			until(clock)
			board.Add("ada", n)
			require.NoError(t, r.Flush(t.Context()))
		}
		add("10:58:10", 1)
		add("10:59:10", 2)
		assert.Equal(t, []int64{2, 1, 3, 3, 3}, []int64{score(traffic.Minute), score(traffic.Minute.Ago(1)), score(traffic.Hour), score(traffic.Day), score(traffic.AllTime)})
		add("11:00:10", 4)
		assert.Equal(t, []int64{4, 2, 4, 3, 7, 7}, []int64{score(traffic.Minute), score(traffic.Minute.Ago(1)), score(traffic.Hour), score(traffic.Hour.Ago(1)), score(traffic.Day), score(traffic.AllTime)})
		add("00:00:10", 8)
		assert.Equal(t, []int64{8, 8, 8, 7, 15}, []int64{score(traffic.Minute), score(traffic.Hour), score(traffic.Day), score(traffic.Day.Ago(1)), score(traffic.AllTime)})
		assert.Zero(t, score(traffic.Hour.Ago(20)))
	})
}

func TestAVisitorHasAnotherNameEachDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := traffic.NewMemoryStore()
		var nodes []*traffic.Recorder
		for range 2 {
			nodes = append(nodes, newRecorder(t, store, &traffic.Options{Interval: time.Minute}))
		}
		visit := func(clock string) {
			until(clock)
			for _, r := range nodes {
				r.Record(traffic.Hit{Status: 200, Visitor: "ada"})
			}
			time.Sleep(2 * time.Minute)
			synctest.Wait()
		}
		visitors := func(from time.Duration) uint64 {
			report, err := nodes[0].Report(t.Context(), time.Now().Add(-from), time.Now(), traffic.UnitHour)
			require.NoError(t, err)
			return report.Visitors
		}
		visit("22:00:00")
		visit("23:57:57") // the next salt is there already
		assert.Equal(t, uint64(1), visitors(3*time.Hour), "both nodes have the same salt")
		visit("00:00:00")
		visit("12:00:00")
		assert.Equal(t, uint64(1), visitors(11*time.Hour))
		assert.Equal(t, uint64(2), visitors(20*time.Hour))
		for _, r := range nodes {
			assert.Zero(t, r.Stats().UncountedVisitors)
		}
	})
}

func TestMinutesWhileTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &failing{Store: traffic.NewMemoryStore()}
		r := newRecorder(t, store, &traffic.Options{Interval: time.Second})
		until("10:00:30")
		time.Sleep(time.Second / 2) // between two flushes
		store.set(true, false)
		for range 20 {
			for range 10 {
				r.Record(traffic.Hit{Route: "r", Path: "/p", Status: 200})
			}
			time.Sleep(time.Minute)
		}
		store.set(false, false)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		report, err := r.Report(t.Context(), time.Now().Add(-30*time.Minute), time.Now(), traffic.UnitMinute)
		require.NoError(t, err)
		var got []uint64
		for _, p := range report.Points {
			if p.Requests() > 0 {
				got = append(got, p.Requests())
			}
		}
		want := []uint64{10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10}
		want = append(want, 50) // those that had no minute of their own any more
		assert.Equal(t, want, got, "the first is in a batch that was under way")
		board, err := r.Board(traffic.PathsBoard, nil)
		require.NoError(t, err)
		e, _, err := board.Rank(t.Context(), traffic.Hour, "/p")
		require.NoError(t, err)
		assert.Equal(t, int64(200), e.Score)
	})
}

// TestMinutesWhileTheStoreHangs: a request counts in the minute in which it ends, also if
// the flush of that minute is stuck for longer than it should be.
func TestMinutesWhileTheStoreHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hanging{traffic.NewMemoryStore(), make(chan struct{}, 99), make(chan struct{})}
		r := newRecorder(t, store, &traffic.Options{Interval: time.Second})
		until("10:00:30")
		r.Record(traffic.Hit{Status: 200})
		<-store.entered
		for i := range 20 {
			for range i + 1 {
				r.Record(traffic.Hit{Status: 200})
			}
			time.Sleep(time.Minute)
		}
		close(store.leave)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		report, err := r.Report(t.Context(), time.Now().Add(-30*time.Minute), time.Now(), traffic.UnitMinute)
		require.NoError(t, err)
		var got []uint64
		for _, p := range report.Points {
			if p.Requests() > 0 {
				got = append(got, p.Requests())
			}
		}
		assert.Equal(t, []uint64{2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 + 16 + 17 + 18 + 19 + 20}, got, "those of a quarter of an hour, and the rest")
	})
}

// TestTheLastSecondOfADay: what ends before midnight counts before midnight, whenever it
// is sent. Else a visitor would be two on the next day.
func TestTheLastSecondOfADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(t, traffic.NewMemoryStore(), &traffic.Options{Interval: time.Second})
		until("23:00:00")
		time.Sleep(time.Second / 2)
		until("23:59:59")
		time.Sleep(3 * time.Second / 4)
		r.Record(traffic.Hit{Status: 200, Visitor: "ada"})
		until("00:00:03")
		r.Record(traffic.Hit{Status: 200, Visitor: "ada"})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		report, err := r.Report(t.Context(), time.Now().Add(-time.Hour), time.Now(), traffic.UnitDay)
		require.NoError(t, err)
		require.Len(t, report.Points, 2)
		for _, p := range report.Points {
			assert.Equal(t, uint64(1), p.Requests())
			assert.Equal(t, uint64(1), p.Visitors)
		}
	})
}

// TestAReportOnAnyTime: whatever the time, a report has what lies in it and nothing
// else, and says how far it had to extend it.
func TestAReportOnAnyTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(3, 3))
		time.Sleep(40*24*time.Hour + 13*time.Hour + 37*time.Minute + 11*time.Second)
		store := traffic.NewMemoryStore()
		r := newRecorder(t, store, nil)
		now := time.Now()
		type minute struct {
			start time.Time
			n     uint64
		}
		var all []minute
		for i := range 3000 {
			ago := time.Duration(random.Int64N(int64(30 * 24 * time.Hour)))
			if i%2 == 0 {
				ago /= 1000 // most are recent
			}
			b := traffic.BucketOf(traffic.UnitMinute, now.Add(-ago))
			m := minute{b.Start(), uint64(random.IntN(100) + 1)}
			all = append(all, m)
			_, err := store.Apply(t.Context(), &traffic.Batch{Node: "n", Seq: uint64(i + 1), Slices: []traffic.Slice{{
				Minute: b.N, Rows: []traffic.Row{{Kind: traffic.KindRoute, Name: "r", Counters: traffic.Counters{Status: [5]uint64{1: m.n}}}},
			}}})
			require.NoError(t, err)
		}
		for range 500 {
			scale := time.Duration(random.Int64N(int64(29*24*time.Hour))) >> random.IntN(12)
			from := now.Add(-scale - time.Second)
			to := from.Add(time.Duration(random.Int64N(int64(scale + 2*time.Second))))
			if !from.Before(to) {
				continue
			}
			report, err := r.Report(t.Context(), from, to, traffic.UnitDay)
			require.NoError(t, err)
			want := uint64(0)
			for _, m := range all {
				if !m.start.Before(report.From) && m.start.Before(report.To) {
					want += m.n
				}
			}
			require.Equal(t, want, report.Total.Requests(), "from %v to %v", from, to)
			slack := time.Minute
			switch {
			case now.Sub(from) > 8*24*time.Hour-time.Hour: // the hour that it is in may have begun before
				slack = 24 * time.Hour
			case now.Sub(from) > 2*time.Hour-time.Minute:
				slack = time.Hour
			}
			require.False(t, report.From.After(from))
			require.Less(t, from.Sub(report.From), slack)
			if to.Before(now) {
				require.False(t, report.To.Before(to))
				require.Less(t, report.To.Sub(to), slack)
			}
		}
	})
}

func TestReportsThatAreNotPossible(t *testing.T) {
	r := newRecorder(t, traffic.NewMemoryStore(), nil)
	now := time.Now()
	for _, err := range []error{
		second(r.Report(t.Context(), now, now.Add(-time.Hour), traffic.UnitMinute)),
		second(r.Report(t.Context(), now.Add(time.Hour), now.Add(2*time.Hour), traffic.UnitMinute)),
		second(r.Report(t.Context(), now.Add(-time.Hour), now, traffic.UnitAll)),
		second(r.Report(t.Context(), now.Add(-100*time.Hour), now, traffic.UnitMinute)),
	} {
		assert.ErrorContains(t, err, "traffic: ")
	}
}

func second[V any](_ V, err error) error { return err }

func TestPercentiles(t *testing.T) {
	for _, scale := range []time.Duration{50 * time.Microsecond, time.Millisecond, 300 * time.Millisecond, 50 * time.Second} {
		r := newRecorder(t, traffic.NewMemoryStore(), nil)
		for i := range 1000 {
			r.Record(traffic.Hit{Status: 200, Latency: scale * time.Duration(i) / 1000})
		}
		require.NoError(t, r.Flush(t.Context()))
		total := lastHour(t, r).Total
		for _, p := range []float64{0.25, 0.5, 0.9, 0.99} {
			want := float64(scale) * p
			assert.InDelta(t, want, float64(total.Percentile(p)), max(want/8, float64(16*time.Microsecond)), "%v of %v", p, scale)
		}
		assert.InDelta(t, float64(scale)/2, float64(total.Mean()), max(float64(scale)/100, float64(2*time.Microsecond)))
	}
	assert.Zero(t, new(traffic.Counters).Percentile(0.5))
	assert.Zero(t, new(traffic.Counters).Mean())
}

// TestManyRoutes: a program that takes paths for routes.
func TestManyRoutes(t *testing.T) {
	atNoon(t, func(t *testing.T) {
		r := newRecorder(t, traffic.NewMemoryStore(), nil)
		for i := range 10_000 {
			r.Record(traffic.Hit{Route: fmt.Sprint("route ", i, strings.Repeat("x", 300)), Status: 200})
		}
		require.NoError(t, r.Flush(t.Context()))
		report := lastHour(t, r)
		assert.Equal(t, uint64(10_000), report.Total.Requests())
		assert.LessOrEqual(t, len(report.Routes), traffic.MaxRoutes+1)
		assert.Equal(t, traffic.Other, report.Routes[0].Name)
		for _, row := range report.Routes {
			assert.LessOrEqual(t, len(row.Name), 200)
		}
	})
}

// TestRoutesTakeNoNamesFromServers: servers whose programs take paths for routes have
// their names in a report all the same; and servers with another name each time that
// they start leave room for routes.
func TestRoutesTakeNoNamesFromServers(t *testing.T) {
	atNoon(t, func(t *testing.T) {
		for _, tt := range []struct{ nodes, routes int }{{5, 300}, {600, 10}} {
			store := traffic.NewMemoryStore()
			var last *traffic.Recorder
			for n := range tt.nodes {
				r := newRecorder(t, store, &traffic.Options{Node: fmt.Sprint("web", n)})
				for i := range tt.routes {
					r.Record(traffic.Hit{Route: fmt.Sprint("route ", n*tt.routes+i), Status: 200})
				}
				require.NoError(t, r.Close(t.Context()))
				last = r
			}
			report := lastHour(t, last)
			assert.Equal(t, uint64(tt.nodes*tt.routes), report.Total.Requests())
			has := map[traffic.Kind]int{}
			requests := map[traffic.Kind]uint64{}
			for _, rows := range [][]traffic.Row{report.Nodes, report.Routes} {
				for _, row := range rows {
					requests[row.Kind] += row.Requests()
					if row.Name != traffic.Other {
						has[row.Kind]++
					}
				}
			}
			assert.Equal(t, min(tt.nodes, traffic.MaxNodes), has[traffic.KindNode], "servers")
			assert.Equal(t, traffic.MaxRoutes, has[traffic.KindRoute], "routes")
			assert.Equal(t, requests[traffic.KindNode], requests[traffic.KindRoute], "all of them")
		}
	})
}

func TestBoardsAreRefused(t *testing.T) {
	r := newRecorder(t, traffic.NewMemoryStore(), nil)
	for _, err := range []error{
		second(r.Board("", nil)),
		second(r.Board("a\nb", nil)),
		second(r.Board("c", &traffic.BoardOptions{Capacity: -1})),
		second(r.Board("c", &traffic.BoardOptions{Capacity: 10_001})),
	} {
		assert.ErrorContains(t, err, "traffic: ")
	}
	a, err := r.Board("a", nil)
	require.NoError(t, err)
	again, err := r.Board("a", &traffic.BoardOptions{Capacity: 7})
	require.NoError(t, err)
	assert.Same(t, a, again)
	for i := range 62 { // and paths, and a
		_, err := r.Board(fmt.Sprint("board ", i), nil)
		require.NoError(t, err)
	}
	_, err = r.Board("one more", nil)
	assert.Error(t, err)
}

// TestABoardOfTies: where nobody is better than the others,
// the board is full all the same, and stays with those whom it has.
func TestABoardOfTies(t *testing.T) {
	r := newRecorder(t, traffic.NewMemoryStore(), nil)
	board, err := r.Board("ties", &traffic.BoardOptions{Capacity: 10})
	require.NoError(t, err)
	list := func() []traffic.Entry {
		require.NoError(t, r.Flush(t.Context()))
		top, err := board.Top(t.Context(), traffic.AllTime, 100)
		require.NoError(t, err)
		return top
	}
	for i := range 1000 {
		board.Add(fmt.Sprint(i), 1)
	}
	first := list()
	assert.Len(t, first, 10)
	for i := range 1000 {
		board.Add(fmt.Sprint("late ", i), 1)
	}
	assert.Equal(t, first, list())
	board.Add("winner", 2)
	assert.Equal(t, "winner", list()[0].Member)
}

func TestAround(t *testing.T) {
	atNoon(t, func(t *testing.T) {
		r := newRecorder(t, traffic.NewMemoryStore(), nil)
		board, err := r.Board("players", nil)
		require.NoError(t, err)
		for i := range 20 {
			board.Add(fmt.Sprint("player ", i), int64(100-i))
		}
		board.Add("player 3", -50)
		require.NoError(t, r.Flush(t.Context()))
		list, err := board.Around(t.Context(), traffic.Day, "player 10", 1)
		require.NoError(t, err)
		assert.Equal(t, []traffic.Entry{{Rank: 9, Member: "player 9", Score: 91}, {Rank: 10, Member: "player 10", Score: 90}, {Rank: 11, Member: "player 11", Score: 89}}, list)
		e, ok, err := board.Rank(t.Context(), traffic.Day, "player 3")
		require.NoError(t, err)
		require.True(t, ok)
		assert.Equal(t, traffic.Entry{Rank: 20, Member: "player 3", Score: 47}, e)
		_, ok, err = board.Rank(t.Context(), traffic.Day, "nobody")
		require.NoError(t, err)
		assert.False(t, ok)
	})
}

// TestServersWithoutTrafficBecomeSilent: more members on several servers than a board
// has room for. What one admits drives out what another one has; when nothing more
// comes they must not go on with that.
func TestServersWithoutTrafficBecomeSilent(t *testing.T) {
	store := &counting{Store: traffic.NewMemoryStore()}
	var nodes []*traffic.Recorder
	for n := range 4 {
		r := newRecorder(t, store, nil)
		board, err := r.Board("players", &traffic.BoardOptions{Capacity: 10})
		require.NoError(t, err)
		for i := range 50 {
			board.Add(fmt.Sprint(n, "-", i), int64(i+1))
		}
		nodes = append(nodes, r)
	}
	round := func() {
		for _, r := range nodes {
			require.NoError(t, r.Flush(t.Context()))
		}
	}
	for range 20 {
		round()
	}
	before := store.applied.Load()
	round()
	assert.Equal(t, before, store.applied.Load(), "nothing is sent")
	board, err := nodes[0].Board("players", nil)
	require.NoError(t, err)
	top, err := board.Top(t.Context(), traffic.AllTime, 4)
	require.NoError(t, err)
	for _, e := range top {
		assert.Equal(t, int64(50), e.Score)
	}
}

// counting is a Store that counts batches.
type counting struct {
	traffic.Store
	applied atomic.Int64
}

func (c *counting) Apply(ctx context.Context, b *traffic.Batch) (traffic.Receipt, error) {
	c.applied.Add(1)
	return c.Store.Apply(ctx, b)
}

// TestScoresThatAreTooLarge: a sum that does not fit must not come out on the other side.
func TestScoresThatAreTooLarge(t *testing.T) {
	atNoon(t, func(t *testing.T) {
		r := newRecorder(t, traffic.NewMemoryStore(), nil)
		board, err := r.Board("players", nil)
		require.NoError(t, err)
		for range 3 {
			board.Add("rich", math.MaxInt64)
			board.Add("poor", math.MinInt64)
		}
		require.NoError(t, r.Flush(t.Context()))
		top, err := board.Top(t.Context(), traffic.AllTime, 2)
		require.NoError(t, err)
		assert.Equal(t, []traffic.Entry{{Rank: 1, Member: "rich", Score: 1 << 40}, {Rank: 2, Member: "poor", Score: -(1 << 40)}}, top)
	})
}

// TestATimeThatIsNotKept: what is forgotten must not look like a time without traffic.
func TestATimeThatIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(t, traffic.NewMemoryStore(), nil)
		board, err := r.Board("players", nil)
		require.NoError(t, err)
		until("10:00:00")
		r.Record(traffic.Hit{Status: 200})
		board.Add("ada", 1)
		require.NoError(t, r.Flush(t.Context()))
		began := time.Now()
		for _, tt := range []struct {
			step traffic.Unit
			kept time.Duration
			want string
		}{
			{traffic.UnitMinute, 2 * time.Hour, "minutes are kept for 2h0m0s"},
			{traffic.UnitHour, 8 * 24 * time.Hour, "hours are kept for 192h0m0s"},
			{traffic.UnitDay, 400 * 24 * time.Hour, "days are kept for 9600h0m0s"},
		} {
			time.Sleep(time.Until(began.Add(tt.kept + tt.step.Duration()/2)))
			report, err := r.Report(t.Context(), time.Now().Add(-tt.kept), time.Now(), tt.step)
			require.NoError(t, err)
			require.Equal(t, uint64(1), report.Points[0].Requests(), "the unit in which it begins is whole")
			require.Equal(t, uint64(1), report.Total.Requests())
			_, err = r.Report(t.Context(), time.Now().Add(-tt.kept-tt.step.Duration()), time.Now(), tt.step)
			require.ErrorContains(t, err, tt.want)
			_, err = r.Report(t.Context(), time.Now().Add(-tt.kept-tt.step.Duration()), time.Now().Add(-tt.kept), tt.step)
			require.ErrorContains(t, err, tt.want)
		}

		time.Sleep(time.Second)
		board.Add("ada", 1)
		require.NoError(t, r.Flush(t.Context()))
		for _, tt := range []struct {
			window traffic.Window
			last   int // the last one that is certainly there
			want   string
		}{
			{traffic.Minute, 9, "kept for 10m0s"},
			{traffic.Hour, 24, "kept for 25h0m0s"},
			{traffic.Day, 7, "kept for 192h0m0s"},
		} {
			_, err := board.Top(t.Context(), tt.window.Ago(tt.last), 10)
			require.NoError(t, err)
			for _, err := range []error{
				second(board.Top(t.Context(), tt.window.Ago(tt.last+1), 10)),
				second(board.Around(t.Context(), tt.window.Ago(tt.last+1), "ada", 1)),
			} {
				require.ErrorContains(t, err, tt.want)
			}
			_, _, err = board.Rank(t.Context(), tt.window.Ago(tt.last+1), "ada")
			require.ErrorContains(t, err, tt.want)
		}
		_, err = board.Top(t.Context(), traffic.AllTime.Ago(3), 10)
		require.NoError(t, err, "it has none before it")
	})
}

const allRows = traffic.MaxRoutes + traffic.MaxNodes + 2

// full is a Store in which every bucket has all rows that there can be.
type full struct {
	traffic.Store
	asked, most int
	heap        uint64 // the largest
}

func (f *full) Counters(_ context.Context, buckets []traffic.Bucket) ([][]traffic.Row, error) {
	f.asked += len(buckets)
	f.most = max(f.most, len(buckets))
	out := make([][]traffic.Row, len(buckets))
	for i, b := range buckets {
		for n := range allRows {
			kind := traffic.KindRoute
			if n%2 == 1 {
				kind = traffic.KindNode
			}
			out[i] = append(out[i], traffic.Row{Kind: kind, Name: fmt.Sprint(n / 2), Counters: traffic.Counters{Status: [5]uint64{1: uint64(b.N)}}})
		}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	f.heap = max(f.heap, m.HeapAlloc)
	return out, nil
}

func (f *full) Visitors(_ context.Context, groups [][]traffic.Bucket) ([]uint64, error) {
	return make([]uint64, len(groups)), nil
}

// TestAReportInPieces: however long the time is, and whatever has become a route, a
// report holds the counters of some buckets at a time only. Four hundred days of all
// rows are 98 MB in Redis.
func TestAReportInPieces(t *testing.T) {
	atNoon(t, func(t *testing.T) {
		store := &full{Store: traffic.NewMemoryStore()}
		r := newRecorder(t, store, nil)
		require.NoError(t, r.Flush(t.Context()))
		before := heap()
		report, err := r.Report(t.Context(), time.Now().Add(-399*24*time.Hour), time.Now(), traffic.UnitDay)
		require.NoError(t, err)
		t.Logf("%d buckets, %d of them at a time at most; the heap grew by %d MiB", store.asked, store.most, int64(store.heap-before)>>20)
		assert.LessOrEqual(t, store.most, 64)
		assert.InDelta(t, 400, store.asked, 1, "each once")
		last := traffic.BucketOf(traffic.UnitDay, report.To.Add(-1)).N
		want := uint64(0)
		for i, p := range report.Points {
			n := uint64(last) - uint64(len(report.Points)-1-i)
			require.Equal(t, n*allRows/2, p.Requests())
			want += n
		}
		assert.Equal(t, want*allRows/2, report.Total.Requests())
		require.Len(t, report.Routes, allRows/2)
		require.Len(t, report.Nodes, allRows/2)
		for _, row := range report.Routes {
			require.Equal(t, want, row.Requests())
		}
	})
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
