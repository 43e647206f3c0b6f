package responsecache_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/rediscache"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/responsecache"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The most common idiom: a template fails half way, and http.Error comes too
// late to change the status.
func TestAnErrorAfterHalfThePageIsNotStored(t *testing.T) {
	fail := true
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "<p>half")
		if fail {
			fail = false
			http.Error(w, "database is gone", http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, " whole</p>")
	})
	s.Config.ErrorLog = discardLog
	_ = s.get(t, "/page")
	assert.Equal(t, "<p>half whole</p>", s.get(t, "/page").body)
}

func TestARecovererInsideOfTheCache(t *testing.T) {
	fail := true
	h := func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "<p>half")
		if fail {
			fail = false
			panic("boom")
		}
		fmt.Fprint(w, " whole</p>")
	}
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if recover() != nil {
				w.WriteHeader(500)
			}
		}()
		h(w, r)
	})
	s.Config.ErrorLog = discardLog
	_ = s.get(t, "/page")
	assert.Equal(t, "<p>half whole</p>", s.get(t, "/page").body)
}

func TestRoutesUnderStripPrefixAreNotMixedUp(t *testing.T) {
	c := newCache(t, memoryStores(t), responsecache.Options{})
	page := func(what string) http.Handler {
		return c.With(responsecache.Policy{TTL: time.Minute}).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, what, r.URL.Path) }))
	}
	mux := http.NewServeMux()
	mux.Handle("/internal/", http.StripPrefix("/internal", page("secret")))
	mux.Handle("/shop/", http.StripPrefix("/shop", page("shop")))
	s := newServer(t, mux)
	assert.Equal(t, "secret/list", s.get(t, "/internal/list").body)
	assert.Equal(t, "shop/list", s.get(t, "/shop/list").body)
	require.NoError(t, c.Purge(t.Context(), "http://example.com/shop/list"))
	assert.Contains(t, s.get(t, "/shop/list").cacheStatus(), "fwd", "purged by its URL")
}

func TestPurgeUnderStripPrefix(t *testing.T) {
	c := newCache(t, memoryStores(t), responsecache.Options{})
	mux := http.NewServeMux()
	mux.Handle("/shop/", http.StripPrefix("/shop/", c.With(responsecache.Policy{TTL: time.Minute}).Handler(counting(nil))))
	s := newServer(t, mux)
	require.Equal(t, "run 1", s.get(t, "/shop/list").body)
	require.Equal(t, "run 1", s.get(t, "/shop/list").body)
	require.NoError(t, c.Purge(t.Context(), "http://example.com/shop/list"))
	assert.Equal(t, "run 2", s.get(t, "/shop/list").body)
}

// Also where the handler adds to the same field.
func TestWhatOuterMiddlewareSetsIsNotReplayed(t *testing.T) {
	c := newCache(t, memoryStores(t), responsecache.Options{})
	cached := c.With(responsecache.Policy{TTL: time.Minute}).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Server-Timing", "db;dur=5")
		w.Header().Add("Vary", "Accept")
		fmt.Fprint(w, "page")
	}))
	s := newServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Server-Timing", `user;desc="`+r.Header.Get("X-User")+`"`)
		if r.Header.Get("Origin") != "" {
			w.Header().Add("Vary", "Origin")
			w.Header().Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
		}
		cached.ServeHTTP(w, r)
	}))
	_ = s.get(t, "/page", "X-User", "alice")
	second := s.get(t, "/page", "X-User", "bob", "Origin", "https://x.example")
	assert.Contains(t, second.cacheStatus(), "hit")
	assert.NotContains(t, strings.Join(second.header.Values("Server-Timing"), ","), "alice")
	assert.Contains(t, strings.Join(second.header.Values("Server-Timing"), ","), "bob")
	assert.Contains(t, strings.Join(second.header.Values("Vary"), ","), "Origin")
}

// Whoever waits goes on as soon as the headers say that there is nothing to share.
func TestAStreamHoldsUpNobody(t *testing.T) {
	stop := make(chan struct{})
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Cache-Control", "no-store")
		fmt.Fprint(w, "data: hello\n\n")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
		case <-stop:
		}
	})
	var once sync.Once
	defer once.Do(func() { close(stop) })
	open := func() *http.Response {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/events", nil)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		_, err = bufio.NewReader(resp.Body).ReadString('\n')
		require.NoError(t, err)
		return resp
	}
	first := open()
	defer first.Body.Close()
	began := time.Now()
	second := open()
	defer second.Body.Close()
	assert.Less(t, time.Since(began), time.Second)
	once.Do(func() { close(stop) })
}

func TestAStreamEndsWithItsClient(t *testing.T) {
	ended := make(chan struct{})
	release := make(chan struct{})
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Cache-Control", "no-store")
		fmt.Fprint(w, "data: hello\n\n")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
		case <-release:
		}
	})
	defer close(release)
	resp, err := http.Get(s.URL + "/events")
	require.NoError(t, err)
	resp.Body.Close() // the client goes away
	http.DefaultClient.CloseIdleConnections()
	select {
	case <-ended:
	case <-time.After(3 * time.Second):
		t.Error("the handler never hears that its only client is gone")
	}
}

func TestVariantsWithoutTheStoreDoNotQueue(t *testing.T) {
	for _, vary := range []string{"", "Accept-Encoding"} {
		st := memoryStores(t)
		st.cache = awayStore{}
		s := serve(t, st, responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, _ *http.Request) {
			if vary != "" {
				w.Header().Set("Vary", vary)
			}
			time.Sleep(200 * time.Millisecond)
			fmt.Fprint(w, "page")
		})
		began := time.Now()
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { _ = s.get(t, "/page") })
		}
		wg.Wait()
		assert.Less(t, time.Since(began), 1500*time.Millisecond)
	}
}

func TestVariantsDoNotQueueWhenAHandlerVariesOnMore(t *testing.T) {
	var mu sync.Mutex
	vary, runs := "A", 0
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		runs++
		v := vary
		mu.Unlock()
		time.Sleep(100 * time.Millisecond)
		w.Header().Set("Vary", v)
		fmt.Fprint(w, r.Header.Get("A"), r.Header.Get("B"))
	})
	require.Equal(t, "a1", s.get(t, "/page", "A", "a", "B", "1").body)
	mu.Lock()
	vary, runs = "A, B", 0
	mu.Unlock()
	began := time.Now()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { assert.Equal(t, "x1", s.get(t, "/page", "A", "x", "B", "1").body) })
	}
	wg.Wait()
	assert.Less(t, time.Since(began), time.Second)
}

func TestAnEmptyPathIsNotTheRoot(t *testing.T) {
	for _, target := range []string{"http://example.com", "http:x", "http://example.com?"} {
		c := newCache(t, memoryStores(t), responsecache.Options{})
		mux := http.NewServeMux()
		mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "home") })
		s := newServer(t, c.With(responsecache.Policy{TTL: time.Minute, Statuses: []int{200, 301, 307}}).Handler(mux))
		raw(t, s, "GET "+target+" HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n")
		resp := s.get(t, "/")
		assert.Equal(t, "home", resp.body, "%s: got %d to %q", target, resp.status, resp.header.Get("Location"))
		assert.Contains(t, s.get(t, "/").cacheStatus(), "hit", target)
	}
}

func TestWhatIsNoDirectiveIsNotStored(t *testing.T) {
	for _, cc := range []string{"private; max-age=60", "no-store; max-age=0", "no-cache no-store", `"private"`} {
		s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, counting(headers("Cache-Control", cc)))
		_ = s.get(t, "/page")
		assert.Equal(t, "run 2", s.get(t, "/page").body, cc)
	}
}

func TestNamesOfFieldsAreCaseInsensitive(t *testing.T) {
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, counting(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["set-cookie"] = []string{"id=secret"}
	}))
	_ = s.get(t, "/page")
	second := s.get(t, "/page")
	assert.Equal(t, "run 2", second.body)
}

func TestOnlyWhiteSpaceAroundMembersIsIgnored(t *testing.T) {
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "X-Tenant")
		fmt.Fprintf(w, "%q", r.Header.Get("X-Tenant"))
	})
	assert.Equal(t, `"a b"`, s.get(t, "/page", "X-Tenant", "a b").body)
	assert.Equal(t, `"a  b"`, s.get(t, "/page", "X-Tenant", "a  b").body)
	assert.Equal(t, `"\"x,  y\""`, s.get(t, "/page", "X-Tenant", `"x,  y"`).body)
	assert.Equal(t, `"\"x, y\""`, s.get(t, "/page", "X-Tenant", `"x, y"`).body)
}

func TestFreshnessCountsFromTheHeader(t *testing.T) {
	s := serve(t, memoryStores(t), responsecache.Policy{}, counting(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=1")
		w.WriteHeader(200)
		time.Sleep(1500 * time.Millisecond)
	}))
	_ = s.get(t, "/page")
	second := s.get(t, "/page")
	assert.Equal(t, "run 2", second.body, "%v %v", second.header.Get("Age"), second.cacheStatus())
}

func TestAClientReadsItsOwnWrites(t *testing.T) {
	content := make(chan string, 1)
	content <- "old"
	read, proceed := make(chan struct{}, 10), make(chan struct{})
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		c := <-content
		if r.Method == "POST" {
			content <- "new"
			fmt.Fprint(w, "saved")
			return
		}
		content <- c
		read <- struct{}{}
		<-proceed
		fmt.Fprint(w, c)
	})
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.get(t, "/page") })
	<-read
	require.Equal(t, "saved", s.do(t, t.Context(), "POST", "/page").body)
	wg.Go(func() { assert.Equal(t, "new", s.get(t, "/page").body, "the same client, after its own POST") })
	time.Sleep(100 * time.Millisecond)
	close(proceed)
	wg.Wait()
}

func TestAHandlerMayChangeTheURLInPlace(t *testing.T) {
	h := counting(nil)
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = strings.TrimSuffix(r.URL.Path, "/") // as chi's StripSlashes does
		h(w, r)
	})
	require.Equal(t, "run 1", s.get(t, "/page/").body)
	require.Equal(t, "run 2", s.do(t, t.Context(), "POST", "/page/").body)
	assert.Equal(t, "run 3", s.get(t, "/page/").body)
}

func TestNoFieldValueIsLogged(t *testing.T) {
	var buf bytes.Buffer
	st := memoryStores(t)
	broken := &failing{Store: st.cache}
	st.cache = broken
	c := newCache(t, st, responsecache.Options{Logger: slog.New(slog.NewTextHandler(&buf, nil))})
	s := newServer(t, c.With(responsecache.Policy{TTL: time.Minute, Public: true, Vary: []string{"X-Api-Key"}}).Handler(counting(nil)))
	_ = s.get(t, "/page", "X-Api-Key", "one")
	broken.on.Store(true)
	_ = s.get(t, "/page", "X-Api-Key", "TOPSECRET")
	assert.NotContains(t, buf.String(), "TOPSECRET")
}

func TestWhatIsNotKeptLeavesNoVariants(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	prefix := redistest.Prefix(t)
	l, err := lock.New(lock.NewMemoryStore(), nil)
	require.NoError(t, err)
	c, err := responsecache.New(rediscache.New(rdb, &rediscache.Options{Prefix: prefix, CompressAbove: -1}), &responsecache.Options{Locker: l, StoreTimeout: 2 * time.Second, WaitTimeout: 100 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	s := newServer(t, c.With(responsecache.Policy{TTL: time.Hour}).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(500 * time.Millisecond)
		w.Header().Set("Vary", "Accept-Encoding")
		_, _ = w.Write(make([]byte, 100_000))
	})))
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() { _ = s.get(t, "/page") })
	}
	wg.Wait()
	keys, err := rdb.Keys(t.Context(), prefix+"*").Result()
	require.NoError(t, err)
	big := 0
	for _, k := range keys {
		if n, _ := rdb.StrLen(t.Context(), k).Result(); n > 90_000 {
			big++
		}
	}
	assert.Equal(t, 1, big, "copies of one page in Redis")
}

func TestAnEmptyResponseHasACacheStatus(t *testing.T) {
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(http.ResponseWriter, *http.Request) {})
	assert.NotEmpty(t, s.get(t, "/page").cacheStatus())
}

// Nor does it tell what is for the cache alone.
func TestTheHeaderOfAnEmptyResponse(t *testing.T) {
	s := serve(t, memoryStores(t), responsecache.Policy{Vary: []string{"X-A"}}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Surrogate-Key", "tag")
		w.Header().Set("Herdless-Cache-Control", "max-age=60")
	})
	h := s.get(t, "/page").header
	assert.Empty(t, h.Get("Surrogate-Key"))
	assert.Empty(t, h.Get("Herdless-Cache-Control"))
	assert.Equal(t, "X-A", h.Get("Vary"))
}

// What is not stored here may be in a cache on the way.
func TestWhatPassesHasTheVaryOfThePolicy(t *testing.T) {
	s := serve(t, memoryStores(t), responsecache.Policy{Vary: []string{"X-A"}}, counting(headers("Cache-Control", "max-age=60", "ETag", `"v"`)))
	require.Equal(t, "X-A", s.get(t, "/page").header.Get("Vary"))
	for name, header := range map[string][]string{
		"no-store": {"Cache-Control", "no-store"},
		"a part":   {"Range", "bytes=0-1", "X-A", "2"},
	} {
		assert.Equal(t, "X-A", s.get(t, "/page", header...).header.Get("Vary"), name)
	}
	for _, page := range []string{"/page", "/unknown"} {
		assert.Equal(t, "X-A", s.do(t, t.Context(), "HEAD", page, "Cache-Control", "no-cache").header.Get("Vary"), page)
	}
}

// odd is a writer that cannot be compared.
type odd struct {
	http.ResponseWriter
	buf []byte //nolint:unused // it is what makes it so
}

func TestAWriterThatCannotBeCompared(t *testing.T) {
	h := newCache(t, memoryStores(t), responsecache.Options{}).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusOK)
		_, err := io.Copy(w, io.LimitReader(strings.NewReader("page"), 4)) // that has no WriteTo
		assert.NoError(t, err)
	}))
	w := httptest.NewRecorder()
	assert.NotPanics(t, func() {
		h.ServeHTTP(odd{ResponseWriter: w}, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/page", nil))
	})
	assert.Equal(t, "page", w.Body.String())
}

func TestServersWithoutALockerDoNotStall(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	prefix := redistest.Prefix(t)
	mk := func() *server {
		c, err := responsecache.New(rediscache.New(rdb, &rediscache.Options{Prefix: prefix}), &responsecache.Options{WaitTimeout: 3 * time.Second, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		return newServer(t, c.With(responsecache.Policy{TTL: 300 * time.Millisecond}).Handler(counting(nil)))
	}
	older := mk()
	time.Sleep(10 * time.Millisecond)
	younger := mk()
	_ = younger.get(t, "/page")
	time.Sleep(500 * time.Millisecond)
	began := time.Now()
	_ = older.get(t, "/page")
	assert.Less(t, time.Since(began), time.Second)
}

// The whole site under a cache, and a route in it under the same cache with a
// policy of its own.
func TestACacheInsideOfItself(t *testing.T) {
	c := newCache(t, memoryStores(t), responsecache.Options{})
	mux := http.NewServeMux()
	mux.Handle("/page", c.With(responsecache.Policy{TTL: time.Minute}).Handler(counting(nil)))
	s := newServer(t, c.Handler(mux))
	began := time.Now()
	require.Equal(t, "run 1", s.get(t, "/page").body)
	assert.Less(t, time.Since(began), 5*time.Second, "it must not wait for itself")
	assert.Equal(t, "run 1", s.get(t, "/page").body)
}

// One client's bad request must not let a herd loose on the page.
func TestAnErrorOfOneClientIsSoonForgotten(t *testing.T) {
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, counting(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Odd") != "" {
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	require.Equal(t, http.StatusBadRequest, s.get(t, "/page", "X-Odd", "1").status)
	began := time.Now()
	await(t, "the page is stored", func() bool { return strings.Contains(s.get(t, "/page").cacheStatus(), "hit") })
	assert.Less(t, time.Since(began), 5*time.Second)
}

func TestATrailerThatWasNotAnnounced(t *testing.T) {
	runs := counting(nil)
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		runs(w, r)
		_ = http.NewResponseController(w).Flush()
		w.Header().Set(http.TrailerPrefix+"Sum", "1")
	})
	require.Equal(t, "run 1", s.get(t, "/page").body)
	assert.Equal(t, "run 2", s.get(t, "/page").body)
}

// failing is a store that can be made to refuse fills.
type failing struct {
	cache.Store
	on atomic.Bool
}

func (f *failing) Begin(ctx context.Context, key string, fill cache.Filling) (cache.Beginning, error) {
	if f.on.Load() {
		return cache.Beginning{}, errAway
	}
	return f.Store.Begin(ctx, key, fill)
}

func TestReview2NothingWrittenHasCacheStatus(t *testing.T) {
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(http.ResponseWriter, *http.Request) {})
	assert.NotEmpty(t, s.get(t, "/page").cacheStatus())
}

// awayStore is a store whose server is away. What is not defined is not called.
type awayStore struct{ cache.Store }

var errAway = errors.New("connection refused")

func (awayStore) Get(context.Context, string) (cache.Entry, bool, error) {
	return cache.Entry{}, false, errAway
}

func (awayStore) Peek(string) (cache.Entry, bool) { return cache.Entry{}, false }

func (awayStore) Begin(context.Context, string, cache.Filling) (cache.Beginning, error) {
	return cache.Beginning{}, errAway
}

func (awayStore) Fill(context.Context, string, cache.Ticket, cache.Entry) (bool, error) {
	return false, errAway
}
func (awayStore) Purge(context.Context, cache.Purge) error { return errAway }
func (awayStore) Watch(context.Context, string) (<-chan struct{}, func(), error) {
	return nil, nil, errAway
}
func (awayStore) LeaseName(key string) string { return key }

// raw sends text as it is and returns the answer.
func raw(t *testing.T, s *server, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, _ = io.WriteString(conn, text)
	b, _ := io.ReadAll(conn)
	return string(b)
}

// A body that is shorter than was declared does not look whole, in whatever coding the first
// client gets it.
func TestAShortBodyInACoding(t *testing.T) {
	for _, coding := range []string{"identity", "gzip", "br", "zstd"} {
		t.Run(coding, func(t *testing.T) {
			var runs atomic.Int32
			s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute, Compress: true}, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/plain")
				w.Header().Set("Content-Length", "20000")
				fmt.Fprint(w, strings.Repeat("some text ", 1000))
				if runs.Add(1) > 1 {
					fmt.Fprint(w, strings.Repeat("some text ", 1000))
				}
			})
			s.Config.ErrorLog = discardLog
			assert.Error(t, s.get(t, "/page", "Accept-Encoding", coding).err)
			r := s.get(t, "/page", "Accept-Encoding", "identity")
			assert.NoError(t, r.err)
			assert.Len(t, r.body, 20000)
		})
	}
}

// That a trailer was not announced is no fault of the body.
func TestATrailerOfABodyInACoding(t *testing.T) {
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute, Compress: true}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprint(w, strings.Repeat("some text ", 1000))
		w.Header().Set(http.TrailerPrefix+"X-Sum", "1")
	})
	body, err := gzip.NewReader(strings.NewReader(s.get(t, "/page", "Accept-Encoding", "gzip").body))
	require.NoError(t, err)
	plain, err := io.ReadAll(body)
	assert.NoError(t, err)
	assert.Equal(t, strings.Repeat("some text ", 1000), string(plain))
}
