package responsecache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/responsecache"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>16) ^ byte(i*7)
	}
	return b
}

// A body that is written in one piece, and is longer than what is held for those who
// read along, is stored whole.
func TestALongBodyInOneWrite(t *testing.T) {
	body := pattern(20 << 20)
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute, MaxBody: 32 << 20}, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(body)
	})
	for range 2 {
		r := s.get(t, "/page")
		assert.True(t, bytes.Equal(body, []byte(r.body)), "%d bytes, %s", len(r.body), r.cacheStatus())
	}
}

// noBodies is a store that keeps entries only.
type noBodies struct{ cache.Store }

// What is in memory only is never stored without its beginning.
func TestALongBodyInAStoreWithoutBodies(t *testing.T) {
	body := pattern(12 << 20)
	st := memoryStores(t)
	st.cache = noBodies{st.cache}
	s := serve(t, st, responsecache.Policy{TTL: time.Minute, MaxBody: 32 << 20}, func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(body); i += 64 << 10 {
			_, _ = w.Write(body[i : i+64<<10])
		}
	})
	for range 2 {
		r := s.get(t, "/page")
		assert.True(t, bytes.Equal(body, []byte(r.body)), "%d bytes, %s", len(r.body), r.cacheStatus())
	}
}

// A body turns out too long to be stored, and the client that began it goes away:
// those who read along get all of it, and never a part that looks like all.
func TestTheFirstClientLeavesALongBodyToItsFollowers(t *testing.T) {
	step := make(chan string)
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute, MaxBody: 10}, func(w http.ResponseWriter, r *http.Request) {
		for {
			select {
			case p, ok := <-step:
				if !ok {
					return
				}
				fmt.Fprint(w, p)
				_ = http.NewResponseController(w).Flush()
			case <-r.Context().Done():
				return
			}
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "GET", s.URL+"/page", nil)
	req.Host = "example.com"
	go func() { step <- "half " }()
	first, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(t, err)
	_, _ = io.ReadFull(first.Body, make([]byte, 5))
	follower := s.open(t, "/page")
	assert.Equal(t, "half ", follower.read(t, 5))
	step <- "more than ten bytes "
	follower.read(t, 20)
	cancel()
	first.Body.Close()
	go func() {
		time.Sleep(300 * time.Millisecond)
		select {
		case step <- "end":
			close(step)
		case <-time.After(time.Second):
		}
	}()
	rest, err := io.ReadAll(follower.body)
	if err == nil {
		assert.Equal(t, "end", string(rest))
	}
}

// What a handler writes and flushes later reaches those who read along, too: they
// may have taken it in between.
func TestAFlushReachesThoseWhoReadAlong(t *testing.T) {
	proceed, end := make(chan struct{}), make(chan struct{})
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "first ")
		_ = http.NewResponseController(w).Flush()
		<-proceed
		fmt.Fprint(w, "second ")
		time.Sleep(100 * time.Millisecond) // the followers take it
		_ = http.NewResponseController(w).Flush()
		<-end
	})
	leader := s.open(t, "/page")
	require.Equal(t, "first ", leader.read(t, 6))
	follower := s.open(t, "/page")
	require.Equal(t, "first ", follower.read(t, 6))
	close(proceed)
	got := make(chan string, 1)
	go func() { got <- follower.read(t, 7) }()
	select {
	case text := <-got:
		assert.Equal(t, "second ", text)
	case <-time.After(10 * time.Second):
		t.Error("the follower has not been sent what the handler has flushed")
	}
	close(end)
}

// Who reads along is told that the rest went elsewhere.
func TestAHijackHalfWayIsNoEnd(t *testing.T) {
	proceed := make(chan struct{})
	var n atomic.Int32
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) > 1 {
			fmt.Fprint(w, "half whole")
			return
		}
		fmt.Fprint(w, "half ")
		_ = http.NewResponseController(w).Flush()
		<-proceed
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			fmt.Fprint(conn, "5\r\nwhole\r\n0\r\n\r\n")
			conn.Close()
		}
	})
	first := s.open(t, "/page")
	first.read(t, 5)
	second := s.open(t, "/page")
	second.read(t, 5)
	close(proceed)
	rest, err := io.ReadAll(second.body)
	assert.True(t, err != nil || string(rest) == "whole", "%q %v", rest, err)
}

// A refresh in the background whose response is not to be stored has no client who
// could end it.
func TestARefreshForNobodyIsEnded(t *testing.T) {
	var n atomic.Int32
	ended := make(chan struct{})
	stop := make(chan struct{})
	defer close(stop)
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute, StaleWhileRevalidate: time.Hour}, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			fmt.Fprint(w, "page")
			return
		}
		defer close(ended)
		w.Header().Set("Cache-Control", "no-store")
		for {
			if _, err := fmt.Fprint(w, "tick"); err != nil {
				return
			}
			select {
			case <-r.Context().Done():
				return
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	require.Equal(t, "page", s.get(t, "/page").body)
	require.NoError(t, s.cache.SoftPurge(t.Context(), "http://example.com/page"))
	require.Equal(t, "page", s.get(t, "/page").body)
	select {
	case <-ended:
	case <-time.After(2 * time.Second):
		t.Error("it goes on for nobody")
	}
}

// Also on a route that would store it.
func TestAnEventStreamEndsWithItsClient(t *testing.T) {
	ended, stop := make(chan struct{}), make(chan struct{})
	defer close(stop)
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		w.Header().Set("Content-Type", "text/event-stream")
		for {
			if _, err := fmt.Fprint(w, "data: x\n\n"); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "GET", s.URL+"/page", nil)
	resp, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(t, err)
	_, _ = io.ReadFull(resp.Body, make([]byte, 9))
	cancel()
	resp.Body.Close()
	select {
	case <-ended:
	case <-time.After(2 * time.Second):
		t.Error("it goes on for nobody")
	}
}

// chunkReads records which chunks of bodies are read from Redis, by their numbers.
type chunkReads struct {
	redis.Hook
	mu      sync.Mutex
	numbers []string
}

var chunkKey = regexp.MustCompile(`}:[0-9a-f]{32}:([0-9]+)$`)

func (c *chunkReads) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (c *chunkReads) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (c *chunkReads) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.mu.Lock()
		for _, cmd := range cmds {
			if cmd.Name() != "get" {
				continue
			}
			if m := chunkKey.FindStringSubmatch(fmt.Sprint(cmd.Args()[1])); m != nil {
				c.numbers = append(c.numbers, m[1])
			}
		}
		c.mu.Unlock()
		return next(ctx, cmds)
	}
}

// take returns those since the last call.
func (c *chunkReads) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	numbers := c.numbers
	c.numbers = nil
	return numbers
}

// A range of a long body costs what the range is long, wherever it is.
func TestARangeReadsNothingThatLiesBeforeIt(t *testing.T) {
	body := pattern(20<<20 + 100) // 81 chunks of 256 KiB
	rdb := redistest.Standalone(t).Client(t)
	reads := &chunkReads{}
	rdb.AddHook(reads)
	s := serve(t, redisStores(t, rdb), responsecache.Policy{TTL: time.Minute, MaxBody: 32 << 20}, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(body)
	})
	require.Len(t, s.get(t, "/page").body, len(body))
	for _, test := range []struct {
		ranges string
		want   [][2]int // beginnings and ends
		chunks []string
	}{
		{"bytes=-50", [][2]int{{20<<20 + 50, 20<<20 + 100}}, []string{"80"}},
		{"bytes=-1000", [][2]int{{20<<20 - 900, 20<<20 + 100}}, []string{"79", "80"}},
		{"bytes=10485770-10485779", [][2]int{{10485770, 10485780}}, []string{"40"}},
		{"bytes=5242890-5242899,5242990-5242999,-10", [][2]int{{5242890, 5242900}, {5242990, 5243000}, {20<<20 + 90, 20<<20 + 100}}, []string{"20", "80"}},
	} {
		reads.take()
		r := s.get(t, "/page", "Range", test.ranges)
		require.Equal(t, http.StatusPartialContent, r.status, test.ranges)
		require.NoError(t, r.err)
		got := []string{r.body}
		if len(test.want) > 1 {
			got = parts(t, r)
		}
		require.Len(t, got, len(test.want), test.ranges)
		for i, w := range test.want {
			assert.True(t, got[i] == string(body[w[0]:w[1]]), "%s, part %d", test.ranges, i)
		}
		assert.Equal(t, test.chunks, reads.take(), test.ranges)
	}
}

// unseekable is a store whose bodies are read from the beginning.
type unseekable struct{ *cache.MemoryStore }

func (s unseekable) OpenBody(ctx context.Context, key string, b cache.Body) (io.ReadCloser, error) {
	r, err := s.MemoryStore.OpenBody(ctx, key, b)
	return struct{ io.ReadCloser }{r}, err
}

func TestRangesOfALongBodyInAnyOrder(t *testing.T) {
	body := pattern(1 << 20)
	stores := map[string]cache.Store{"seeks": cache.NewMemoryStore(nil), "does not": unseekable{cache.NewMemoryStore(nil)}}
	for name, store := range stores {
		t.Run(name, func(t *testing.T) {
			st := memoryStores(t)
			st.cache = store
			s := serve(t, st, responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) })
			s.get(t, "/page")
			r := s.get(t, "/page", "Range", "bytes=1000000-1000009,500000-500009,600000-600009,-10")
			require.Equal(t, http.StatusPartialContent, r.status)
			var want []string
			for _, from := range []int{1_000_000, 500_000, 600_000, len(body) - 10} {
				want = append(want, string(body[from:from+10]))
			}
			assert.Equal(t, want, parts(t, r))
			r = s.get(t, "/page", "Range", "bytes=700000-700009")
			assert.Equal(t, string(body[700_000:700_010]), r.body)
		})
	}
}

// A part has the type of the whole, whoever has found that out.
func TestTheTypeOfAPartIsThatOfTheWhole(t *testing.T) {
	const html = "<!DOCTYPE html><p>%PDF-1.7 is how others begin"
	for name, handler := range map[string]http.HandlerFunc{
		"none":        func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, html) },
		"none in 200": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200); _, _ = io.WriteString(w, html) },
		"not wanted": func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = nil
			_, _ = io.WriteString(w, html)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, handler)
			whole := s.get(t, "/")
			require.Equal(t, html, whole.body)
			await(t, "stored", func() bool { return strings.Contains(s.get(t, "/").cacheStatus(), "hit") })
			assert.Equal(t, whole.header["Content-Type"], s.get(t, "/").header["Content-Type"])
			part := s.get(t, "/", "Range", "bytes=18-")
			require.Equal(t, 206, part.status)
			assert.Equal(t, whole.header["Content-Type"], part.header["Content-Type"])
			parts := s.get(t, "/", "Range", "bytes=0-1,18-20").body
			assert.Equal(t, 2*len(whole.header["Content-Type"]), strings.Count(parts, "Content-Type: text/html"))
		})
	}
}

// parts returns the parts of a multipart response.
func parts(t *testing.T, r response) (list []string) {
	t.Helper()
	_, params, err := mime.ParseMediaType(r.header.Get("Content-Type"))
	require.NoError(t, err)
	for reader := multipart.NewReader(strings.NewReader(r.body), params["boundary"]); ; {
		p, err := reader.NextPart()
		if errors.Is(err, io.EOF) {
			return list
		}
		require.NoError(t, err)
		data, err := io.ReadAll(p)
		require.NoError(t, err)
		list = append(list, string(data))
	}
}

func TestALongHeaderIsNotStored(t *testing.T) {
	for size, want := range map[int]string{32 << 10: "stored", 128 << 10: "detail=too-long"} {
		s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, _ *http.Request) {
			for i := range 16 {
				w.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("x", size/16))
			}
			fmt.Fprint(w, "page")
		})
		r := s.get(t, "/")
		assert.Equal(t, "page", r.body)
		assert.Contains(t, r.cacheStatus(), want)
	}
}

// unopened is a store whose bodies cannot be opened for a while.
type unopened struct {
	cache.BodyStore
	err atomic.Pointer[error] // nil: they can
}

func (u *unopened) OpenBody(ctx context.Context, key string, b cache.Body) (io.ReadCloser, error) {
	if err := u.err.Load(); err != nil {
		return nil, *err
	}
	return u.BodyStore.OpenBody(ctx, key, b)
}

// That a client leaves, or that the store is slow, does not take a long page from others,
// nor the stale one that hides a failure. That its body is gone makes it anew.
func TestALongPageThatIsNotOpenedStays(t *testing.T) {
	for name, tt := range map[string]struct {
		err   error
		fails bool
		run   string // that others get
	}{
		"the client leaves":                {context.Canceled, false, "1"},
		"the store is slow":                {context.DeadlineExceeded, false, "1"},
		"gone":                             {cache.ErrNoBody, false, "2"},
		"the store is slow, for a failure": {context.DeadlineExceeded, true, "1"},
	} {
		t.Run(name, func(t *testing.T) {
			st := memoryStores(t)
			bodies := &unopened{BodyStore: st.cache.(cache.BodyStore)}
			st.cache = bodies
			var runs atomic.Int32
			var fails atomic.Bool
			c := newCache(t, st, responsecache.Options{})
			h := c.With(responsecache.Policy{TTL: time.Minute, StaleIfError: time.Hour}).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if fails.Load() {
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				w.Header().Set("X-Run", strconv.Itoa(int(runs.Add(1))))
				writePattern(w, 400<<10)
			}))
			ask(t, h)
			if tt.fails {
				require.NoError(t, c.SoftPurge(t.Context(), "http://example.com/page"))
				fails.Store(true)
			}
			bodies.err.Store(&tt.err)
			ask(t, h)
			bodies.err.Store(nil)
			w := ask(t, h)
			assert.Equal(t, 400<<10, w.Body.Len())
			assert.Contains(t, w.Header().Get("Cache-Status"), "hit")
			assert.Equal(t, tt.run, w.Header().Get("X-Run"))
		})
	}
}
