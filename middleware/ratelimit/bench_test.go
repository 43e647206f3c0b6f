package ratelimit_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/middleware/clientip"
	"github.com/herdless/herdless/middleware/ratelimit"
	"github.com/herdless/herdless/middleware/ratelimit/redislimit"
)

// allow decides about one key from all processors, and reports the round trips of a
// decision.
func allow(b *testing.B, l *ratelimit.Limiter) {
	b.Helper()
	b.ReportAllocs()
	before := l.Stats().Asked
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := l.Allow(b.Context(), "192.0.2.1"); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(l.Stats().Asked-before)/float64(b.N), "roundtrips/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
}

// BenchmarkLimiter makes decisions on Redis: about a key that has room, one that has
// none, and one whose units are taken in batches.
func BenchmarkLimiter(b *testing.B) {
	rdb := redistest.Standalone(b).Client(b)
	limiter := func(b *testing.B, p ratelimit.Policy) *ratelimit.Limiter {
		p.Name, p.Key = "api", clientip.Key
		l, err := ratelimit.NewPolicies(redislimit.New(rdb, &redislimit.Options{Prefix: redistest.Prefix(b)}), []ratelimit.Policy{p}, &ratelimit.Options{
			Timeout: 10 * time.Second, // a busy machine is no store that fails
		})
		require.NoError(b, err)
		return l
	}
	b.Run("asked", func(b *testing.B) {
		allow(b, limiter(b, ratelimit.Policy{Limits: []ratelimit.Limit{ratelimit.PerSecond(1_000_000)}}))
	})
	b.Run("denied", func(b *testing.B) {
		l := limiter(b, ratelimit.Policy{Limits: []ratelimit.Limit{ratelimit.PerHour(1)}})
		_, err := l.Allow(b.Context(), "192.0.2.1")
		require.NoError(b, err)
		b.ResetTimer()
		allow(b, l)
	})
	b.Run("leased", func(b *testing.B) {
		allow(b, limiter(b, ratelimit.Policy{Limits: []ratelimit.Limit{ratelimit.PerSecond(100_000_000)}, Batch: 100_000}))
	})
}

// BenchmarkHandler answers requests of a key that has none left, by the client's address.
func BenchmarkHandler(b *testing.B) {
	l, err := ratelimit.New(ratelimit.NewMemoryStore(), ratelimit.PerHour(1), clientip.Key, nil)
	require.NoError(b, err)
	h := l.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for b.Loop() {
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
}
