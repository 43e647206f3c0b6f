package responsecache_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/responsecache"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// writePattern writes n bytes whose values depend on where they are.
func writePattern(w io.Writer, n int) {
	block := make([]byte, 64<<10)
	for at := 0; at < n; at += len(block) {
		for i := range block {
			block[i] = byte((at + i) / 251)
		}
		if _, err := w.Write(block[:min(len(block), n-at)]); err != nil {
			return
		}
	}
}

func patternSum(n int) [sha256.Size]byte {
	h := sha256.New()
	writePattern(h, n)
	return [sha256.Size]byte(h.Sum(nil))
}

// sumOf asks for path and digests the body, without holding it.
func (s *server) sumOf(t testing.TB, path string, headers ...string) (int64, [sha256.Size]byte, *http.Response) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+path, nil)
	require.NoError(t, err)
	req.Host = "example.com"
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	transport := &http.Transport{DisableCompression: true, DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if !assert.NoError(t, err) {
		return 0, [sha256.Size]byte{}, nil
	}
	defer resp.Body.Close()
	h := sha256.New()
	n, err := io.Copy(h, resp.Body)
	assert.NoError(t, err)
	return n, [sha256.Size]byte(h.Sum(nil)), resp
}

// A long body is stored in parts, and served whole, in ranges, compressed, and after
// it was validated.
func TestLongBodies(t *testing.T) {
	const size = 3<<20 + 12345
	eachStore(t, func(t *testing.T, st stores) {
		var runs, validated atomic.Int32
		handler := func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"long"`)
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Cache-Control", "public, max-age=60")
			if r.Header.Get("If-None-Match") != "" {
				validated.Add(1)
				w.WriteHeader(http.StatusNotModified)
				return
			}
			runs.Add(1)
			writePattern(w, size)
		}
		p := responsecache.Policy{MaxBody: 8 << 20, Compress: true}
		a, b := serve(t, st, p, handler), serve(t, st, p, handler)
		want := patternSum(size)
		n, sum, _ := a.sumOf(t, "/long")
		require.EqualValues(t, size, n)
		require.Equal(t, want, sum)
		for range 2 {
			for _, s := range []*server{a, b} {
				// It may be on its way into the store still.
				await(t, "a hit", func() bool {
					n, sum, resp := s.sumOf(t, "/long")
					assert.EqualValues(t, size, n)
					assert.Equal(t, want, sum)
					return strings.Contains(resp.Header.Get("Cache-Status"), "hit") && resp.ContentLength == size
				})
			}
			whole := new(bytes.Buffer)
			writePattern(whole, size)
			resp := b.get(t, "/long", "Range", "bytes=1000000-2000000")
			assert.Equal(t, 206, resp.status)
			assert.Equal(t, string(whole.Bytes()[1_000_000:2_000_001]), resp.body)
			resp = b.get(t, "/long", "Range", "bytes=5-9, 2500000-2500009, 100-109")
			assert.Equal(t, 206, resp.status)
			for _, r := range [][2]int{{5, 10}, {2500000, 2500010}, {100, 110}} {
				assert.Contains(t, resp.body, string(whole.Bytes()[r[0]:r[1]]))
			}
			n, _, resp2 := b.sumOf(t, "/long", "Accept-Encoding", "gzip")
			assert.Equal(t, "gzip", resp2.Header.Get("Content-Encoding"))
			assert.Less(t, n, int64(size/10))
			assert.Equal(t, 304, b.get(t, "/long", "If-None-Match", `"long"`).status)
			assert.Empty(t, b.do(t, t.Context(), http.MethodHead, "/long").body)
			// A 304 of the handler makes it fresh, and it is the same body.
			require.NoError(t, a.cache.SoftPurge(t.Context(), "http://example.com/long"))
			require.Eventually(t, func() bool {
				_, sum, resp := b.sumOf(t, "/long")
				assert.Equal(t, want, sum)
				return strings.Contains(resp.Header.Get("Cache-Status"), "fwd-status=304")
			}, 10*time.Second, 5*time.Millisecond)
		}
		assert.EqualValues(t, 1, runs.Load())
		assert.EqualValues(t, 2, validated.Load())
	})
}

// What is lost of a long body makes it a miss, and is made anew.
func TestATornBodyIsAMiss(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	var runs atomic.Int32
	s := serve(t, redisStores(t, rdb), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		runs.Add(1)
		writePattern(w, 700<<10)
	})
	_, want, _ := s.sumOf(t, "/long")
	deleted := 0
	iter := rdb.Scan(t.Context(), 0, "*:1", 1000).Iterator()
	for iter.Next(t.Context()) {
		if rdb.StrLen(t.Context(), iter.Val()).Val() > 200<<10 { // the second of three parts
			deleted += int(rdb.Del(t.Context(), iter.Val()).Val())
		}
	}
	require.Positive(t, deleted)
	n, sum, _ := s.sumOf(t, "/long")
	assert.EqualValues(t, 700<<10, n)
	assert.Equal(t, want, sum)
	assert.EqualValues(t, 2, runs.Load())
	_, sum, resp := s.sumOf(t, "/long")
	assert.Equal(t, want, sum)
	assert.Contains(t, resp.Header.Get("Cache-Status"), "hit")
}

// Others of the same server read along while a page is made, from its beginning,
// whenever they come.
func TestFollowersReadAlong(t *testing.T) {
	eachStore(t, func(t *testing.T, st stores) {
		var runs atomic.Int32
		steps := make(chan string)
		s := serve(t, st, responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, _ *http.Request) {
			runs.Add(1)
			for step := range steps {
				fmt.Fprint(w, step)
				_ = http.NewResponseController(w).Flush()
			}
		})
		first := s.open(t, "/page")
		steps <- "one "
		assert.Equal(t, "one ", first.read(t, 4))
		second := s.open(t, "/page")
		assert.Equal(t, "one ", second.read(t, 4))
		steps <- "two "
		third := s.open(t, "/page")
		assert.Equal(t, "one two ", third.read(t, 8))
		close(steps)
		for _, c := range []*stream{first, second, third} {
			_, err := io.ReadAll(c.body)
			assert.NoError(t, err)
		}
		assert.EqualValues(t, 1, runs.Load())
		assert.Contains(t, third.header.Get("Cache-Status"), "collapsed")
		assert.Equal(t, "one two ", s.get(t, "/page").body)
	})
}

// Who reads along and has the page gets a 304 as others do, also in a coding.
func TestA304ForWhoReadsAlong(t *testing.T) {
	proceed := make(chan struct{})
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute, Compress: true}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("ETag", `"v"`)
		fmt.Fprint(w, strings.Repeat("text ", 1000))
		_ = http.NewResponseController(w).Flush()
		<-proceed
	})
	s.open(t, "/page").read(t, 5)
	defer close(proceed)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for coding, etag := range map[string]string{"gzip": `"v-gzip"`, "identity": `"v"`} {
		r := s.do(t, ctx, http.MethodGet, "/page", "Accept-Encoding", coding, "If-None-Match", etag)
		assert.Equal(t, http.StatusNotModified, r.status, coding)
		assert.Contains(t, r.cacheStatus(), "collapsed")
		assert.Equal(t, etag, r.header.Get("ETag"))
		assert.Equal(t, "Accept-Encoding", r.header.Get("Vary"))
		assert.Empty(t, r.header.Get("Content-Encoding"))
	}
}

// stream is a response whose body is read bit by bit.
type stream struct {
	header http.Header
	body   *bufio.Reader
}

// open asks for path and returns when the header is there.
func (s *server) open(t testing.TB, path string) *stream {
	t.Helper()
	type answer struct {
		resp *http.Response
		err  error
	}
	answers := make(chan answer, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a response that gets stuck fails its test
	t.Cleanup(cancel)
	go func() {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+path, nil)
		if err != nil {
			answers <- answer{err: err}
			return
		}
		req.Host = "example.com"
		resp, err := (&http.Transport{DisableCompression: true}).RoundTrip(req)
		answers <- answer{resp, err}
	}()
	c := &stream{}
	c.body = bufio.NewReader(readerFunc(func() io.Reader {
		a := <-answers
		if !assert.NoError(t, a.err) {
			return strings.NewReader("")
		}
		c.header = a.resp.Header
		t.Cleanup(func() { a.resp.Body.Close() })
		return a.resp.Body
	}))
	return c
}

// read reads n bytes.
func (c *stream) read(t testing.TB, n int) string {
	t.Helper()
	b := make([]byte, n)
	_, err := io.ReadFull(c.body, b)
	assert.NoError(t, err)
	return string(b)
}

// readerFunc returns a reader that is opened by the first read.
func readerFunc(open func() io.Reader) io.Reader { return &lazyReader{open: open} }

type lazyReader struct {
	open func() io.Reader
	r    io.Reader
}

func (l *lazyReader) Read(p []byte) (int, error) {
	if l.r == nil {
		l.r = l.open()
	}
	return l.r.Read(p)
}

// A follower of a page that breaks half way is told: it never gets a part that looks
// like all.
func TestFollowersOfABrokenPage(t *testing.T) {
	for name, breaks := range map[string]func(){
		"panic": func() { panic("boom") },
		"abort": func() { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			proceed := make(chan struct{})
			var runs atomic.Int32
			s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprint(w, "half ")
				if runs.Add(1) == 1 {
					_ = http.NewResponseController(w).Flush()
					<-proceed
					breaks()
				}
				fmt.Fprint(w, "whole")
			})
			s.Config.ErrorLog = discardLog
			first := s.open(t, "/page")
			first.read(t, 5)
			follower := s.open(t, "/page")
			assert.Equal(t, "half ", follower.read(t, 5))
			close(proceed)
			_, err := io.ReadAll(follower.body)
			assert.Error(t, err)
			require.Eventually(t, func() bool { return s.get(t, "/page").body == "half whole" }, 10*time.Second, 10*time.Millisecond)
		})
	}
}

// Who has got a 304 has all of its response, whatever becomes of the page: it keeps
// its connection, on which the next request may be one that is not sent twice.
func TestWhoHasA304KeepsItsConnection(t *testing.T) {
	proceed := make(chan struct{})
	var runs atomic.Int32
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"v"`)
		fmt.Fprint(w, "half ")
		if runs.Add(1) == 1 {
			_ = http.NewResponseController(w).Flush()
			<-proceed
			panic(http.ErrAbortHandler)
		}
		fmt.Fprint(w, "whole")
	})
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
	defer client.CloseIdleConnections()
	do := func(method string) (status int, reused bool) {
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) { reused = c.Reused }})
		req, err := http.NewRequestWithContext(ctx, method, s.URL+"/page", nil)
		require.NoError(t, err)
		req.Host = "example.com"
		req.Header.Set("If-None-Match", `"v"`)
		resp, err := client.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, reused
	}
	status, _ := do(http.MethodGet)
	require.Equal(t, http.StatusNotModified, status)
	follower := s.open(t, "/page")
	require.Equal(t, "half ", follower.read(t, 5))
	close(proceed)
	_, err := io.ReadAll(follower.body)
	require.Error(t, err, "a part must not look like all")
	status, reused := do(http.MethodPost)
	assert.Equal(t, http.StatusOK, status)
	assert.True(t, reused)
	require.Eventually(t, func() bool { return s.get(t, "/page").body == "half whole" }, 10*time.Second, 10*time.Millisecond)
}

// Only giving up the connection is for the page alone: a fault of the handler is heard
// of by who recovers from it. And only when the 304 has gone out: middleware that gives up
// the connection at that moment gets its way.
func TestAPanicAfterA304(t *testing.T) {
	for name, tt := range map[string]struct {
		handler, middleware any // what they panic with
		heard               any
	}{
		"a fault":           {handler: "boom", heard: "boom"},
		"given up":          {handler: http.ErrAbortHandler},
		"not sent at all":   {middleware: http.ErrAbortHandler, heard: http.ErrAbortHandler},
		"a fault before it": {middleware: "boom", heard: "boom"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCache(t, memoryStores(t), responsecache.Options{})
			h := c.With(responsecache.Policy{TTL: time.Minute}).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("ETag", `"v"`)
				fmt.Fprint(w, "half ")
				panic(tt.handler)
			}))
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://example.com/page", nil)
			r.Header.Set("If-None-Match", `"v"`)
			w := &panicking{httptest.NewRecorder(), tt.middleware}
			heard := func() (p any) {
				defer func() { p = recover() }()
				h.ServeHTTP(w, r)
				return nil
			}()
			assert.Equal(t, tt.heard, heard)
			if tt.middleware == nil {
				assert.Equal(t, http.StatusNotModified, w.Code)
			}
			assert.EqualValues(t, 1, c.Stats().LoadErrors, "the page has not been made")
		})
	}
}

// panicking is the writer of middleware that may panic when the header is sent.
type panicking struct {
	*httptest.ResponseRecorder
	with any
}

func (p *panicking) WriteHeader(code int) {
	if p.with != nil {
		panic(p.with)
	}
	p.ResponseRecorder.WriteHeader(code)
}

// An event stream begins at once, though its end is nowhere near, and a route that
// wants to store it does not hold it back, nor in memory.
func TestAnEventStreamIsNotHeldBack(t *testing.T) {
	for name, p := range map[string]responsecache.Policy{"none": {}, "stored": {TTL: time.Minute, MaxBody: 1 << 10}} {
		t.Run(name, func(t *testing.T) {
			events := make(chan string)
			s := serve(t, memoryStores(t), p, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				_ = http.NewResponseController(w).Flush()
				for {
					select {
					case e := <-events:
						fmt.Fprintf(w, "data: %s\n\n", e)
						_ = http.NewResponseController(w).Flush()
					case <-r.Context().Done():
						return
					}
				}
			})
			c := s.open(t, "/events")
			for i := range 50 {
				event := strings.Repeat(fmt.Sprint(i), 100)
				events <- event
				sent := time.Now()
				line, err := c.body.ReadString('\n')
				require.NoError(t, err)
				assert.Equal(t, "data: "+event+"\n", line)
				assert.Less(t, time.Since(sent), 5*time.Second)
				_, _ = c.body.ReadString('\n')
			}
		})
	}
}

// 100 clients of a body of some size all get it whole, from one run, and memory does
// not hold it.
func TestManyClientsOfALongBody(t *testing.T) {
	size, clients := 24<<20, 30
	if os.Getenv("HERDLESS_SOAK") != "" {
		size, clients = 200<<20, 100
	}
	rdb := redistest.Standalone(t).Client(t)
	var runs atomic.Int32
	st := redisStores(t, rdb)
	proceed := make(chan struct{})
	c := newCache(t, st, responsecache.Options{WaitTimeout: time.Minute})
	ts := httptest.NewServer(c.With(responsecache.Policy{TTL: time.Minute, MaxBody: 256 << 20}).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		runs.Add(1)
		_ = http.NewResponseController(w).Flush()
		<-proceed
		writePattern(w, size)
	})))
	t.Cleanup(ts.Close)
	s := &server{Server: ts, cache: c}
	want := patternSum(size)

	ctx, cancel := context.WithCancel(t.Context())
	peak := watchMemory(ctx)
	var wg sync.WaitGroup
	var arrived atomic.Int32
	for range clients {
		wg.Go(func() {
			if arrived.Add(1) == int32(clients) {
				time.AfterFunc(200*time.Millisecond, func() { close(proceed) })
			}
			n, sum, _ := s.sumOf(t, "/long")
			assert.EqualValues(t, size, n)
			assert.Equal(t, want, sum)
		})
	}
	wg.Wait()
	cancel()
	grown := <-peak
	t.Logf("%d runs, memory grew by %d MiB", runs.Load(), grown>>20)
	assert.EqualValues(t, 1, runs.Load())
	assert.Less(t, grown, uint64(64<<20), "of the clients in this process, too")
	n, sum, _ := s.sumOf(t, "/long")
	assert.EqualValues(t, size, n)
	assert.Equal(t, want, sum)
}

// watchMemory returns a channel that gets, when ctx ends, by how many bytes the
// memory in use has grown at most.
func watchMemory(ctx context.Context) <-chan uint64 {
	inUse := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	runtime.GC()
	began := inUse()
	out := make(chan uint64, 1)
	go func() {
		var peak uint64
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if now := inUse(); now > began {
					peak = max(peak, now-began)
				}
			case <-ctx.Done():
				out <- peak
				return
			}
		}
	}()
	return out
}
