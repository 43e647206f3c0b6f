package traffic_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"weak"

	"github.com/herdless/herdless/middleware/traffic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// nothing is a ResponseWriter that costs nothing.
type nothing struct{ header http.Header }

func (n nothing) Header() http.Header         { return n.header }
func (n nothing) Write(p []byte) (int, error) { return len(p), nil }
func (n nothing) WriteHeader(int)             {}

func TestCountingDoesNotAllocate(t *testing.T) {
	r := newRecorder(t, traffic.NewMemoryStore(), nil)
	require.NoError(t, r.Flush(t.Context()))
	body := []byte("page")
	h := r.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }))
	var w http.ResponseWriter = nothing{http.Header{"Cache-Status": {`herdless; hit; key="a"`}}}
	req := httptest.NewRequest(http.MethodGet, "/product/1", nil)
	req.Pattern = "GET /product/{id}"
	h.ServeHTTP(w, req)
	board, err := r.Board("products", nil)
	require.NoError(t, err)
	board.Add("teapot", 1)
	assert.Zero(t, testing.AllocsPerRun(2000, func() { h.ServeHTTP(w, req) }))
	assert.Zero(t, testing.AllocsPerRun(2000, func() { board.Add("teapot", 1) }))
	v6 := traffic.Hit{Route: "r", Path: "/product/1", Status: 200, Addr: netip.MustParseAddr("2001:db8::1")}
	r.Record(v6)
	assert.Zero(t, testing.AllocsPerRun(2000, func() { r.Record(v6) }))
}

// one serves a request by net/http's server and returns what was counted.
func one(t *testing.T, handler http.HandlerFunc, request func(client *http.Client, url string)) *traffic.Counters {
	t.Helper()
	r := newRecorder(t, traffic.NewMemoryStore(), nil)
	server := httptest.NewServer(r.Handler(handler))
	defer server.Close()
	request(server.Client(), server.URL)
	server.Close() // waits until the handler is over, but for connections that were taken over
	require.Eventually(t, func() bool {
		require.NoError(t, r.Flush(t.Context()))
		return lastHour(t, r).Total.Requests() == 1
	}, 10*time.Second, 5*time.Millisecond)
	return &lastHour(t, r).Total
}

func fetch(method string) func(*http.Client, string) {
	return func(client *http.Client, url string) {
		req, err := http.NewRequestWithContext(context.Background(), method, url, nil)
		if err != nil {
			panic(err)
		}
		if resp, err := client.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	}
}

func TestWhatIsCountedOfAResponse(t *testing.T) {
	for _, tt := range []struct {
		name, method string
		handler      http.HandlerFunc
		class        int
		bytes        uint64
	}{
		{"nothing", "GET", func(http.ResponseWriter, *http.Request) {}, 2, 0},
		{"write", "GET", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 10)) }, 2, 10},
		{"string", "GET", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "12345") }, 2, 5},
		{"copy", "GET", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.Copy(w, strings.NewReader(strings.Repeat("x", 5000)))
		}, 2, 5000},
		{"flush", "GET", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "1")
			assert.NoError(t, http.NewResponseController(w).Flush())
			assert.NoError(t, http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Minute)))
			_, _ = io.WriteString(w, "2")
		}, 2, 2},
		{"head", "HEAD", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "12345") }, 2, 0},
		{"no content", "GET", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNoContent)
			_, _ = io.WriteString(w, "12345")
		}, 2, 0},
		{"early hints", "GET", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusTeapot)
		}, 4, 0},
		{"panic", "GET", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 5, 0},
		{"panic in the middle", "GET", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "12345")
			panic(http.ErrAbortHandler)
		}, 2, 5},
		{"hijack", "GET", func(w http.ResponseWriter, _ *http.Request) {
			conn, rw, err := http.NewResponseController(w).Hijack()
			if assert.NoError(t, err) {
				answer(rw)
				conn.Close()
			}
		}, 1, 0},
		{"odd status", "GET", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(799) }, 5, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := one(t, tt.handler, fetch(tt.method))
			assert.Equal(t, uint64(1), c.Status[tt.class-1], "%v", c.Status)
			assert.Equal(t, tt.bytes, c.Bytes)
		})
	}
}

// TestAnUpgradedConnectionHasNoLatency: how long a websocket is open says nothing about
// how long requests take.
func TestAnUpgradedConnectionHasNoLatency(t *testing.T) {
	c := one(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if assert.NoError(t, err) {
			answer(rw)
			conn.Close()
		}
	}, fetch("GET"))
	assert.Equal(t, [5]uint64{0: 1}, c.Status)
	assert.Zero(t, c.Micros)
	assert.Zero(t, c.Latency)
	assert.Zero(t, c.Mean())

	r := newRecorder(t, traffic.NewMemoryStore(), nil)
	for range 9 {
		r.Record(traffic.Hit{Status: http.StatusSwitchingProtocols, Latency: time.Hour})
	}
	r.Record(traffic.Hit{Status: http.StatusOK, Latency: 100 * time.Millisecond})
	require.NoError(t, r.Flush(t.Context()))
	total := lastHour(t, r).Total
	assert.Equal(t, [5]uint64{0: 9, 1: 1}, total.Status)
	assert.Equal(t, 100*time.Millisecond, total.Mean(), "that of those that have one")
	assert.Less(t, total.Percentile(0.99), 200*time.Millisecond)
}

func answer(rw *bufio.ReadWriter) {
	fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
	rw.Flush()
}

// copying is a middleware that replaces the request, as a session does, and the
// writer.
func copying(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(wrapped{w}, r.WithContext(context.WithValue(r.Context(), wrapped{}, 1)))
	})
}

type wrapped struct{ http.ResponseWriter }

func (w wrapped) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func TestRoutes(t *testing.T) {
	named := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { traffic.SetRoute(w, "by itself") })
	for _, tt := range []struct {
		name    string
		handler http.Handler
		route   func(*http.Request) string
		want    string
	}{
		{"the pattern of the mux", shop(), nil, "GET /product/{id}"},
		{"behind middleware that replaces the request", copying(shop()), nil, ""},
		{"with Routed", copying(traffic.Routed(shop())), nil, "GET /product/{id}"},
		{"said by the handler", copying(named), nil, "by itself"},
		{"by an option", shop(), func(r *http.Request) string { return r.Method }, "GET"},
		{"control characters", copying(named), func(*http.Request) string { return "a\nb" }, "a b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRecorder(t, traffic.NewMemoryStore(), &traffic.Options{Route: tt.route})
			get(r.Handler(tt.handler), "/product/1")
			require.NoError(t, r.Flush(t.Context()))
			report := lastHour(t, r)
			require.Len(t, report.Routes, 1)
			assert.Equal(t, tt.want, report.Routes[0].Name)
		})
	}
	traffic.SetRoute(httptest.NewRecorder(), "without a Recorder nothing happens")
}

// TestClientsMakeNoRoutes: whatever a client asks a ServeMux for, a route is a pattern
// that the program has.
func TestClientsMakeNoRoutes(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /u/{user}/", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/all/{user}/", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("example.com/{$}", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("CONNECT /tunnel", func(http.ResponseWriter, *http.Request) {})
	for name, h := range map[string]http.Handler{"plain": mux, "routed": copying(traffic.Routed(mux))} {
		t.Run(name, func(t *testing.T) {
			r := newRecorder(t, traffic.NewMemoryStore(), nil)
			for i := range 100 {
				for _, method := range []string{"GET", "POST", "CONNECT", "OPTIONS", "PRI", fmt.Sprint("M", i)} {
					for _, path := range []string{"/u/%d", "/u/%d/", "/all/%d", "/all/%d/", "//%d", "/all/../%d", "/all/./%d/../", "/%d/%%2e%%2e/x"} {
						get(r.Handler(h), fmt.Sprintf(path, i), func(r *http.Request) {
							r.Method, r.Host = method, fmt.Sprint("host", i)
						})
					}
				}
			}
			get(r.Handler(h), "/tunnel", func(r *http.Request) { r.Method = http.MethodConnect })
			require.NoError(t, r.Flush(t.Context()))
			var got []string
			for _, row := range lastHour(t, r).Routes {
				got = append(got, row.Name)
			}
			assert.Subset(t, []string{"", "GET /u/{user}/", "/all/{user}/", "CONNECT /tunnel"}, got)
			assert.Contains(t, got, "CONNECT /tunnel")
		})
	}
}

func TestCacheStatus(t *testing.T) {
	for field, want := range map[string]traffic.CacheStatus{
		`herdless; hit`:                                         traffic.CacheHit,
		`herdless; hit; ttl=3; key="a"`:                         traffic.CacheHit,
		`herdless;hit`:                                          traffic.CacheHit,
		`herdless; hit=?1; ttl=3`:                               traffic.CacheHit,
		`herdless; hit=?0`:                                      traffic.CacheMiss,
		`herdless; fwd=miss; stored; key="x; hit"`:              traffic.CacheMiss,
		`herdless; fwd=miss; key="\"; hit; \\"`:                 traffic.CacheMiss,
		`origin; hit, herdless; fwd=miss`:                       traffic.CacheMiss,
		`origin; fwd=stale, herdless; hit; key="a, b; fwd=uri"`: traffic.CacheHit,
		`herdless; hits`:                                        traffic.CacheMiss,
		`herdless`:                                              traffic.CacheMiss,
		``:                                                      traffic.CacheMiss,
		`"`:                                                     traffic.CacheMiss,
		`a;"\`:                                                  traffic.CacheMiss,
	} {
		assert.Equal(t, want, traffic.CacheStatusOf(field), "%s", field)
	}
}

// TestALongRequestKeepsNoOthers: writers have common memory, of which one request that
// goes on, such as a stream of events, keeps all. It must not keep the responses that
// are over.
func TestALongRequestKeepsNoOthers(t *testing.T) {
	r := newRecorder(t, traffic.NewMemoryStore(), nil)
	leave := make(chan struct{})
	var long sync.WaitGroup
	defer long.Wait()
	defer close(leave)
	entered := make(chan struct{})
	h := r.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/events" {
			entered <- struct{}{}
			<-leave
		}
	}))
	var over []weak.Pointer[httptest.ResponseRecorder]
	for i := range 320 {
		if i%32 == 0 {
			long.Go(func() { get(h, "/events") })
			<-entered
		}
		over = append(over, weak.Make(get(h, "/")))
	}
	runtime.GC()
	kept := 0
	for _, w := range over {
		if w.Value() != nil {
			kept++
		}
	}
	assert.LessOrEqual(t, kept, 1, "one may lie on the stack still")
}

// A handler that writes after it has returned is wrong; it must not reach somebody
// else for that.
func TestALateWriteReachesNobodyElse(t *testing.T) {
	r := newRecorder(t, traffic.NewMemoryStore(), nil)
	var late []http.ResponseWriter
	h := r.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { late = append(late, w) }))
	var others []*httptest.ResponseRecorder
	for range 200 {
		others = append(others, get(h, "/"))
	}
	for i, w := range late {
		w.Header().Set("X-Late", "yes")
		w.WriteHeader(http.StatusTeapot)
		_, err := fmt.Fprint(w, i)
		assert.Error(t, err)
		assert.Error(t, http.NewResponseController(w).Flush())
	}
	for _, w := range others {
		assert.Equal(t, http.StatusOK, w.Code)
		assert.Empty(t, w.Header())
		assert.Empty(t, w.Body.String(), "its own response is over as well")
	}
}

func TestVisitors(t *testing.T) {
	byHeader := func(r *http.Request) string { return r.Header.Get("X-User") }
	for _, tt := range []struct {
		name  string
		o     traffic.Options
		peers []string
		want  uint64
	}{
		{"the address of the peer", traffic.Options{}, []string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.2:1", "[::ffff:192.0.2.2]:9"}, 2},
		{"IPv6 by its first 64 bits", traffic.Options{}, []string{"[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8:0:1::1]:1", "[2001:db8::2%eth0]:1"}, 2},
		{"no address", traffic.Options{}, []string{"@", ""}, 0},
		{"an address from elsewhere", traffic.Options{Addr: func(*http.Request) (netip.Addr, error) { return netip.MustParseAddr("192.0.2.1"), nil }}, []string{"192.0.2.5:1", "192.0.2.6:1"}, 1},
		{"an address that is not known", traffic.Options{Addr: func(*http.Request) (netip.Addr, error) { return netip.Addr{}, errAway }}, []string{"192.0.2.5:1"}, 0},
		{"by name, or else by address", traffic.Options{Visitor: byHeader}, []string{"192.0.2.1:1", "192.0.2.2:1#ada", "192.0.2.3:1#ada", "192.0.2.3:1#bob", "192.0.2.3:1#" + strings.Repeat("x", 100), "192.0.2.3:1#" + strings.Repeat("x", 101)}, 5},
		{"names with the bytes of addresses", traffic.Options{Visitor: byHeader}, []string{"115.97.98.99:1", "1.1.1.1:1#abc", "1.1.1.1:1#sabc", "[7361:6263:6465:6667::1]:1", "1.1.1.1:1#abcdefg", "97.98.99.100:1", "1.1.1.1:1#aabcd"}, 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			atNoon(t, func(t *testing.T) {
				r := newRecorder(t, traffic.NewMemoryStore(), &tt.o)
				for _, p := range tt.peers {
					addr, user, _ := strings.Cut(p, "#")
					get(r.Handler(shop()), "/", func(r *http.Request) {
						r.RemoteAddr = addr
						r.Header.Set("X-User", user)
					})
				}
				require.NoError(t, r.Flush(t.Context()))
				report := lastHour(t, r)
				assert.Equal(t, tt.want, report.Visitors)
				assert.Equal(t, uint64(len(tt.peers)), report.Total.Requests())
			})
		})
	}
}
