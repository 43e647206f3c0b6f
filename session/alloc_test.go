package session_test

import (
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// shop is a site whose visitor has ten values of 100 bytes in his session.
type shop struct {
	manager *session.Manager
	cookie  *http.Cookie
}

func newShop(t testing.TB, store session.Store) *shop {
	t.Helper()
	m, err := session.New(store, &session.Options{StoreTimeout: 2 * time.Second}) // machines of tests are slow when they are busy
	require.NoError(t, err)
	w := httptest.NewRecorder()
	m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		for i := range 10 {
			name, value := fmt.Sprintf("value-%02d", i), strings.Repeat("x", 98)
			require.NoError(t, session.FromContext(r.Context()).Set(r.Context(), name, value))
		}
	})).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "https://example.com/", nil))
	return &shop{m, w.Result().Cookies()[0]}
}

// request returns a function that makes one request to handler.
func (s *shop) request(handler http.HandlerFunc) func() {
	r := httptest.NewRequest(http.MethodGet, "https://example.com/", nil)
	r.AddCookie(s.cookie)
	h, w := s.manager.Handler(handler), &sink{header: http.Header{}}
	return func() {
		clear(w.header)
		h.ServeHTTP(w, r)
	}
}

// sink is the writer of a connection that is used again and again.
type sink struct{ header http.Header }

func (w *sink) Header() http.Header         { return w.header }
func (w *sink) WriteHeader(int)             {}
func (w *sink) Write(p []byte) (int, error) { return len(p), nil }

func (s *shop) readOne(t testing.TB) func() {
	return s.request(func(w http.ResponseWriter, r *http.Request) {
		var value string
		ok, err := session.FromContext(r.Context()).Get(r.Context(), "value-04", &value)
		if !ok || err != nil {
			t.Error(ok, err)
		}
		w.WriteHeader(http.StatusNoContent)
	})
}

func (s *shop) writeOne(t testing.TB) func() {
	n := 0
	return s.request(func(w http.ResponseWriter, r *http.Request) {
		n++
		if err := session.FromContext(r.Context()).Set(r.Context(), "value-04", n); err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusNoContent)
	})
}

// TestAllocationsOfARequest: what a request with a session may allocate is counted,
// because a count does not depend on the machine.
func TestAllocationsOfARequest(t *testing.T) {
	s := newShop(t, onRedis(t))
	// Each command that goes by itself takes two for its deadline, and three for go-redis to look at the connection.
	for _, test := range []struct {
		name    string
		request func()
		most    float64
	}{
		{"untouched", s.request(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }), 2},
		{"read", s.readOne(t), 11},
		{"one-field write", s.writeOne(t), 21},
	} {
		// What else goes on in the process only adds to them.
		got := math.Inf(1)
		for range 10 {
			got = min(got, testing.AllocsPerRun(20, test.request))
		}
		t.Logf("%s: %v allocations", test.name, got)
		if !raced { // its own are counted, too
			assert.LessOrEqual(t, got, test.most, test.name)
		}
	}
}

// onRedis returns a store on a client that obeys deadlines, as that of redisconn.Open
// does. With another one each step takes a goroutine of its own.
func onRedis(t testing.TB) *redisstore.Store {
	rdb := redis.NewClient(&redis.Options{Addr: redistest.Standalone(t).Addr(), ContextTimeoutEnabled: true})
	t.Cleanup(func() { rdb.Close() })
	return redisstore.New(rdb, &redisstore.Options{Prefix: redistest.Prefix(t)})
}

func BenchmarkRequest(b *testing.B) {
	s := newShop(b, onRedis(b))
	for name, request := range map[string]func(testing.TB) func(){"read": s.readOne, "one-field write": s.writeOne} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				do := request(b)
				for pb.Next() {
					do()
				}
			})
		})
	}
}
