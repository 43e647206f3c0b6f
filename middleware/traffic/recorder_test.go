package traffic_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/middleware/traffic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// newRecorder returns a Recorder that flushes when the test says so.
func newRecorder(t *testing.T, store traffic.Store, o *traffic.Options) *traffic.Recorder {
	t.Helper()
	var opts traffic.Options
	if o != nil {
		opts = *o
	}
	if opts.Interval == 0 {
		opts.Interval = 1000 * time.Hour
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	r, err := traffic.New(store, &opts)
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Close(context.Background()) })
	return r
}

// get sends a request and returns the response.
func get(h http.Handler, target string, change ...func(*http.Request)) *httptest.ResponseRecorder {
	req := httptest.NewRequest(http.MethodGet, target, nil)
	for _, f := range change {
		f(req)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

// lastHour returns the report of the hour before now.
func lastHour(t *testing.T, r *traffic.Recorder) *traffic.Report {
	t.Helper()
	report, err := r.Report(t.Context(), time.Now().Add(-time.Hour), time.Now().Add(time.Minute), traffic.UnitMinute)
	require.NoError(t, err)
	return report
}

func shop() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /product/{id}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Status", `herdless; hit; ttl=3; key="a, b"`)
		io.WriteString(w, "product "+r.PathValue("id"))
	})
	mux.HandleFunc("POST /cart", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusSeeOther) })
	mux.HandleFunc("GET /broken", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	return mux
}

func TestRequestsAreCountedByRouteStatusAndNode(t *testing.T) {
	atNoon(t, func(t *testing.T) {
		store := traffic.NewMemoryStore()
		var recorders []*traffic.Recorder
		var running sync.WaitGroup
		for node := range 3 {
			r := newRecorder(t, store, &traffic.Options{Node: fmt.Sprint("web", node)})
			recorders = append(recorders, r)
			h := r.Handler(shop())
			for g := range 4 {
				running.Go(func() {
					for i := range 250 {
						switch i % 5 {
						case 0, 1:
							w := get(h, fmt.Sprintf("/product/%d", i), func(r *http.Request) { r.RemoteAddr = fmt.Sprintf("192.0.2.%d:1", g) })
							assert.Equal(t, fmt.Sprint("product ", i), w.Body.String())
						case 2:
							assert.Equal(t, http.StatusSeeOther, get(h, "/cart", func(r *http.Request) { r.Method = http.MethodPost }).Code)
						case 3:
							assert.Equal(t, http.StatusNotFound, get(h, "/nothing").Code)
						case 4:
							assert.Panics(t, func() { get(h, "/broken") })
						}
						if i%50 == 0 {
							assert.NoError(t, r.Flush(t.Context()))
						}
					}
				})
			}
		}
		running.Wait()
		for _, r := range recorders {
			require.NoError(t, r.Flush(t.Context()))
		}
		report := lastHour(t, recorders[0])
		routes := map[string][5]uint64{}
		for _, row := range report.Routes {
			routes[row.Name] = row.Status
		}
		assert.Equal(t, map[string][5]uint64{
			"GET /product/{id}": {1: 1200}, "POST /cart": {2: 600}, "": {3: 600}, "GET /broken": {4: 600},
		}, routes)
		require.Len(t, report.Nodes, 3)
		for i, row := range report.Nodes {
			assert.Equal(t, fmt.Sprint("web", i), row.Name)
			assert.Equal(t, uint64(1000), row.Requests())
			assert.Equal(t, [5]uint64{1: 400, 2: 200, 3: 200, 4: 200}, row.Status)
		}
		assert.Equal(t, uint64(3000), report.Total.Requests())
		assert.Equal(t, uint64(1200), report.Total.CacheLookups)
		assert.InDelta(t, 1, report.Total.HitRatio(), 1e-9)
		bytes := uint64(600 * len("404 page not found\n"))
		for i := range 250 {
			if i%5 < 2 {
				bytes += 12 * uint64(len(fmt.Sprint("product ", i)))
			}
		}
		assert.Equal(t, bytes, report.Total.Bytes)
		assert.Equal(t, uint64(4), report.Visitors, "one of them has the address of httptest")
		var points uint64
		for _, p := range report.Points {
			points += p.Requests()
		}
		assert.Equal(t, uint64(3000), points)

		board, err := recorders[1].Board(traffic.PathsBoard, nil)
		require.NoError(t, err)
		top, err := board.Top(t.Context(), traffic.AllTime, 3)
		require.NoError(t, err)
		require.Len(t, top, 3)
		for _, e := range top {
			assert.Equal(t, int64(600), e.Score)
		}
	})
}

func TestOptionsAreValidated(t *testing.T) {
	_, err := traffic.New(nil, &traffic.Options{Interval: time.Millisecond, Timeout: -1})
	require.Error(t, err)
	assert.Len(t, strings.Split(err.Error(), "\n"), 3, "all faults at once: %v", err)
	_, err = traffic.New((*traffic.MemoryStore)(nil), nil)
	assert.ErrorContains(t, err, "the store is nil")
	r, err := traffic.New(traffic.NewMemoryStore(), nil)
	require.NoError(t, err)
	defer r.Close(t.Context())
	assert.PanicsWithValue(t, "traffic: Recorder.Handler needs a handler to wrap, and got nil", func() { r.Handler(nil) })
}

func TestCountersOfTheLastIntervalAreFlushedAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := traffic.NewMemoryStore()
		r, err := traffic.New(store, nil)
		require.NoError(t, err)
		h := r.Handler(shop())
		get(h, "/product/1")
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		get(h, "/product/1")
		assert.Equal(t, uint64(1), lastHour(t, r).Total.Requests(), "flushed every second")
		require.NoError(t, r.Close(t.Context()))
		assert.Equal(t, uint64(2), lastHour(t, r).Total.Requests())
	})
}

// failing is a Store whose Apply fails, before or after it has done its work.
type failing struct {
	traffic.Store
	mu            sync.Mutex
	before, after bool
}

var errAway = errors.New("the store is away")

func (f *failing) set(before, after bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before, f.after = before, after
}

func (f *failing) Apply(ctx context.Context, b *traffic.Batch) (traffic.Receipt, error) {
	f.mu.Lock()
	before, after := f.before, f.after
	f.mu.Unlock()
	if before {
		return traffic.Receipt{}, errAway
	}
	receipt, err := f.Store.Apply(ctx, b)
	if after {
		return traffic.Receipt{}, errAway
	}
	return receipt, err
}

func TestARetriedFlushCountsOnce(t *testing.T) {
	atNoon(t, func(t *testing.T) {
		for _, after := range []bool{false, true} {
			store := &failing{Store: traffic.NewMemoryStore()}
			r := newRecorder(t, store, nil)
			board, err := r.Board("products", nil)
			require.NoError(t, err)
			h := r.Handler(shop())
			for i := range 10 {
				get(h, "/product/1")
				board.Add("teapot", 2)
				store.set(!after && i%3 != 0, after && i%3 != 0)
				_ = r.Flush(t.Context())
				board.Add("teapot", 1)
				if i%3 != 0 {
					require.ErrorIs(t, r.Flush(t.Context()), errAway)
				}
			}
			store.set(false, false)
			require.NoError(t, r.Flush(t.Context()))
			assert.Equal(t, uint64(10), lastHour(t, r).Total.Requests())
			for _, w := range []traffic.Window{traffic.Day, traffic.AllTime} {
				e, ok, err := board.Rank(t.Context(), w, "teapot")
				require.NoError(t, err)
				require.True(t, ok)
				assert.Equal(t, traffic.Entry{Rank: 1, Member: "teapot", Score: 30}, e)
			}
			assert.Positive(t, r.Stats().Faults)
		}
	})
}

// unreadable is a Store that takes everything and gives nothing.
type unreadable struct{ traffic.Store }

func (unreadable) Counters(context.Context, []traffic.Bucket) ([][]traffic.Row, error) {
	return nil, errAway
}

// hanging is a Store whose Apply hangs, whatever the context says.
type hanging struct {
	traffic.Store
	entered, leave chan struct{}
}

func (h *hanging) Apply(ctx context.Context, b *traffic.Batch) (traffic.Receipt, error) {
	h.entered <- struct{}{}
	<-h.leave
	return h.Store.Apply(ctx, b)
}

// TestNobodyWaitsForAStoreThatHangs: neither requests, nor who closes or flushes, for
// longer than they say.
func TestNobodyWaitsForAStoreThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hanging{traffic.NewMemoryStore(), make(chan struct{}, 9), make(chan struct{})}
		r, err := traffic.New(store, &traffic.Options{Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		h := r.Handler(shop())
		get(h, "/product/1")
		<-store.entered
		time.AfterFunc(time.Hour, func() { close(store.leave) }) // else a failure would never end
		began := time.Now()
		get(h, "/product/1")
		r.Stats()
		for _, f := range []func(context.Context) error{r.Flush, r.Close, r.Close} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			assert.ErrorIs(t, f(ctx), context.DeadlineExceeded)
			cancel()
		}
		assert.Equal(t, 3*time.Second, time.Since(began))
		time.Sleep(2 * time.Hour)
		require.NoError(t, r.Close(t.Context()))
		assert.Equal(t, uint64(2), requestsOf(t, r, 3*time.Hour), "once")
	})
}

func requestsOf(t *testing.T, r *traffic.Recorder, back time.Duration) uint64 {
	t.Helper()
	report, err := r.Report(t.Context(), time.Now().Add(-back), time.Now(), traffic.UnitHour)
	require.NoError(t, err)
	return report.Total.Requests()
}

// slowHandler is a slog.Handler that takes its time.
type slowHandler struct {
	slog.Handler
	takes time.Duration
}

func (h slowHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h slowHandler) Handle(context.Context, slog.Record) error {
	time.Sleep(h.takes)
	return nil
}

// TestCloseWaitsForTheGoroutineThatFlushes: whoever has closed a Recorder may take its
// store and its logger away.
func TestCloseWaitsForTheGoroutineThatFlushes(t *testing.T) {
	for _, tt := range []struct {
		name         string
		takes, waits time.Duration
		err          error
	}{
		{"as long as it takes", time.Second, time.Second, nil},
		{"but not longer than its context says", time.Hour, 2 * time.Second, context.DeadlineExceeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &failing{Store: traffic.NewMemoryStore()}
				store.set(true, false)
				r, err := traffic.New(store, &traffic.Options{Logger: slog.New(slowHandler{slog.DiscardHandler, tt.takes})})
				require.NoError(t, err)
				synctest.Wait() // for the first flush
				r.Record(traffic.Hit{Status: 200})
				time.Sleep(time.Second)
				synctest.Wait() // it has failed, and says so
				store.set(false, false)
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				began := time.Now()
				require.ErrorIs(t, r.Close(ctx), tt.err)
				assert.Equal(t, tt.waits, time.Since(began))
				if tt.err == nil {
					select {
					case <-r.Stopped():
					default:
						assert.Fail(t, "it still runs")
					}
				}
				<-r.Stopped()
				require.NoError(t, r.Close(t.Context()))
				assert.Equal(t, uint64(1), lastHour(t, r).Total.Requests())
			})
		})
	}
}

// panicking is a Store whose Apply, or Salt, panics after it has done its work, or ends
// its goroutine.
type panicking struct {
	traffic.Store
	salt, apply func()
}

func (p *panicking) Salt(ctx context.Context, day int64) ([]byte, time.Time, error) {
	salt, now, err := p.Store.Salt(ctx, day)
	p.salt()
	return salt, now, err
}

func (p *panicking) Apply(ctx context.Context, b *traffic.Batch) (traffic.Receipt, error) {
	receipt, err := p.Store.Apply(ctx, b)
	p.apply()
	return receipt, err
}

// panickingHandler is a slog.Handler that notes what it is told, and panics.
type panickingHandler struct {
	slog.Handler
	seen *[]string
}

func (h panickingHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h panickingHandler) Handle(_ context.Context, rec slog.Record) error {
	rec.Attrs(func(a slog.Attr) bool {
		*h.seen = append(*h.seen, a.String())
		return true
	})
	panic("the logger")
}

// TestAStoreThatPanics: the flushing runs in a goroutine of its own, where a panic would
// end the process. Nothing is lost for it, and nothing counted twice.
func TestAStoreThatPanics(t *testing.T) {
	nothing, boom := func() {}, func() { panic("boom") }
	for _, tt := range []struct {
		name        string
		salt, apply func()
		want        string
	}{
		{"in Apply", nothing, boom, "boom"},
		{"in Salt", boom, nothing, "boom"},
		{"or ends the goroutine", nothing, runtime.Goexit, "ended its goroutine"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &panicking{Store: traffic.NewMemoryStore(), salt: tt.salt, apply: tt.apply}
				var seen []string
				r, err := traffic.New(store, &traffic.Options{Logger: slog.New(panickingHandler{slog.DiscardHandler, &seen})})
				require.NoError(t, err)
				board, err := r.Board("products", nil)
				require.NoError(t, err)
				for range 5 {
					r.Record(traffic.Hit{Status: 200})
					board.Add("teapot", 1)
					time.Sleep(time.Second)
				}
				synctest.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				require.ErrorContains(t, r.Flush(ctx), tt.want)
				assert.GreaterOrEqual(t, r.Stats().Faults, uint64(6))
				require.Len(t, seen, 1, "once a minute")
				assert.Contains(t, seen[0], tt.want)
				store.salt, store.apply = nothing, nothing
				require.NoError(t, r.Close(t.Context()))
				assert.Equal(t, uint64(5), lastHour(t, r).Total.Requests())
				e, _, err := board.Rank(t.Context(), traffic.AllTime, "teapot")
				require.NoError(t, err)
				assert.Equal(t, int64(5), e.Score)
			})
		})
	}
}

// shortAnswers is a Store that leaves something out.
type shortAnswers struct {
	traffic.Store
	short atomic.Bool
}

func (s *shortAnswers) Apply(ctx context.Context, b *traffic.Batch) (traffic.Receipt, error) {
	receipt, err := s.Store.Apply(ctx, b)
	for i := range receipt.Boards {
		if s.short.Load() {
			receipt.Boards[i].Admissions = nil
		}
	}
	return receipt, err
}

// TestAStoreThatAnswersTooLittle: half an answer is as good as none.
func TestAStoreThatAnswersTooLittle(t *testing.T) {
	store := &shortAnswers{Store: traffic.NewMemoryStore()}
	store.short.Store(true)
	r := newRecorder(t, store, nil)
	board, err := r.Board("products", nil)
	require.NoError(t, err)
	board.Add("teapot", 1)
	require.ErrorContains(t, r.Flush(t.Context()), "members")
	store.short.Store(false)
	require.NoError(t, r.Flush(t.Context()))
	e, _, err := board.Rank(t.Context(), traffic.AllTime, "teapot")
	require.NoError(t, err)
	assert.Equal(t, int64(1), e.Score)
}
