package redislimit_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/middleware/ratelimit"
	"github.com/herdless/herdless/middleware/ratelimit/redislimit"
)

const (
	budget = 50 * time.Millisecond // the default of ratelimit.Options.Timeout
	// A loaded machine must not fail a test: what is broken waits for seconds.
	scheduling = 450 * time.Millisecond
)

func clientIP(*http.Request) (string, error) { return "192.0.2.1", nil }

// logBuffer is a log that may be written and read at once.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Split(strings.TrimSpace(b.buf.String()), "\n")
}

// serve sends a request and returns the status and how long it took.
func serve(h http.Handler) (status int, took time.Duration) {
	rec := httptest.NewRecorder()
	begin := time.Now()
	h.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	return rec.Code, time.Since(begin)
}

// A Redis that hangs holds nobody up, whether the client looks at contexts or
// not, and when it goes on so do the limits.
func TestAStoppedRedis(t *testing.T) {
	clients := map[string]func(addr string) *redis.Client{
		"a client with go-redis's defaults": func(addr string) *redis.Client {
			return redis.NewClient(&redis.Options{Addr: addr})
		},
		"a client that looks at contexts": func(addr string) *redis.Client {
			return redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
		},
	}
	policies := []struct {
		name       string
		failClosed bool
		status     int
	}{{"open", false, http.StatusNoContent}, {"closed", true, http.StatusServiceUnavailable}}

	for name, newClient := range clients {
		for _, policy := range policies {
			t.Run(name+", fail "+policy.name, func(t *testing.T) {
				server := redistest.NewStandalone(t)
				rdb := newClient(server.Addr())
				defer rdb.Close()
				log := &logBuffer{}
				limiter, err := ratelimit.New(redislimit.New(rdb, nil), ratelimit.PerHour(2), clientIP, &ratelimit.Options{
					FailClosed: policy.failClosed,
					Logger:     slog.New(slog.NewTextHandler(log, nil)),
				})
				require.NoError(t, err)
				h := limiter.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.WriteHeader(http.StatusNoContent)
				}))
				status, _ := serve(h)
				require.Equal(t, http.StatusNoContent, status)

				server.Stop(t)
				var wg sync.WaitGroup
				for range 20 {
					wg.Go(func() {
						for range 3 {
							status, took := serve(h)
							assert.Equal(t, policy.status, status)
							assert.GreaterOrEqual(t, took, budget/2, "a hanging Redis should have been waited for")
							assert.Less(t, took, budget+scheduling)
						}
					})
				}
				wg.Wait()
				if lines := log.lines(); assert.Len(t, lines, 1, "60 failures within ten seconds are one line") {
					assert.Contains(t, lines[0], "the store fails")
					assert.Contains(t, lines[0], "50ms")
				}

				server.Continue(t)
				assert.Eventually(t, func() bool {
					status, _ := serve(h)
					return status == http.StatusTooManyRequests
				}, 30*time.Second, 10*time.Millisecond, "the limit holds again")
			})
		}
	}
}

func TestARedisThatIsGone(t *testing.T) {
	server := redistest.NewStandalone(t)
	rdb := server.Client(t)
	limiter, err := ratelimit.New(redislimit.New(rdb, nil), ratelimit.PerHour(2), clientIP, &ratelimit.Options{
		Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	server.Kill(t)
	for range 20 {
		begin := time.Now()
		d, err := limiter.Allow(t.Context(), "k")
		assert.Error(t, err)
		assert.True(t, d.Allowed)
		assert.Less(t, time.Since(begin), budget+scheduling)
	}
}

// Connections break all the time while three clients ask: answers get lost and
// requests are sent again, so units may be charged twice, but never admitted
// twice.
func TestCutConnectionsAdmitNobodyTwice(t *testing.T) {
	proxy := redistest.NewProxy(t, redistest.Standalone(t).Addr())
	options := &redislimit.Options{Prefix: redistest.Prefix(t)}
	var admitted, failed atomic.Int64
	stop := make(chan struct{})
	var cutter, wg sync.WaitGroup
	cutter.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(3 * time.Millisecond):
				proxy.Cut()
			}
		}
	})
	for range 3 {
		rdb := redis.NewClient(&redis.Options{Addr: proxy.Addr()})
		defer rdb.Close()
		store := redislimit.New(rdb, options)
		for range 10 {
			wg.Go(func() {
				for range 20 {
					d, err := store.Take(t.Context(), request("k"))
					if err != nil {
						failed.Add(1)
					} else if d.Allowed {
						admitted.Add(1)
					}
				}
			})
		}
	}
	wg.Wait()
	close(stop)
	cutter.Wait()
	assert.LessOrEqual(t, admitted.Load(), int64(100))
	assert.Positive(t, admitted.Load())
	t.Logf("of 600 requests %d were admitted and %d failed", admitted.Load(), failed.Load())
}

func TestAnAbandonedDecisionLeavesNoGoroutine(t *testing.T) {
	server := redistest.NewStandalone(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true})
	require.NoError(t, rdb.Ping(t.Context()).Err())
	running := goleak.IgnoreCurrent()
	server.Stop(t)
	for range 10 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		_, err := redislimit.New(rdb, nil).Take(ctx, request("k"))
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		cancel()
	}
	require.NoError(t, rdb.Close())
	server.Continue(t)
	goleak.VerifyNone(t, running)
}
