package ratelimit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/middleware/ratelimit"
)

// byHeader is a key that tests can choose.
func byHeader(r *http.Request) (string, error) {
	if r.Header.Get("X-Fault") != "" {
		return "", errors.New("secret detail")
	}
	return r.Header.Get("X-Key"), nil
}

var ok = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })

func newLimiter(t *testing.T, store ratelimit.Store, limit ratelimit.Limit, o *ratelimit.Options) *ratelimit.Limiter {
	t.Helper()
	l, err := ratelimit.New(store, limit, byHeader, o)
	require.NoError(t, err)
	return l
}

func get(h http.Handler, key string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("X-Key", key)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestNewReportsAllFaultsAtOnce(t *testing.T) {
	l, err := ratelimit.New(nil, ratelimit.Limit{Rate: -1}, nil, &ratelimit.Options{Name: "a:b", Timeout: -1})
	require.Error(t, err)
	assert.Nil(t, l)
	for _, want := range []string{"no store", "rate is -1", "period is 0s", "no key", `Options.Name is "a:b"`, "Options.Timeout is -1ns"} {
		assert.ErrorContains(t, err, want)
	}
	for line := range strings.Lines(err.Error()) {
		t.Log(strings.TrimSpace(line))
	}
}

func TestLimits(t *testing.T) {
	assert.Equal(t, ratelimit.Limit{Rate: 5, Period: time.Second}, ratelimit.PerSecond(5))
	assert.Equal(t, ratelimit.Limit{Rate: 5, Period: time.Minute}, ratelimit.PerMinute(5))
	assert.Equal(t, ratelimit.Limit{Rate: 5, Period: time.Hour}, ratelimit.PerHour(5))
}

func TestHandlerDenies(t *testing.T) {
	h := newLimiter(t, ratelimit.NewMemoryStore(), ratelimit.PerMinute(7), nil).Handler(ok)
	for range 7 {
		w := get(h, "a")
		assert.Equal(t, http.StatusNoContent, w.Code)
		assert.Empty(t, w.Header())
	}
	w := get(h, "a")
	assert.Equal(t, http.StatusTooManyRequests, w.Code)
	assert.Equal(t, "9", w.Header().Get("Retry-After"), "8.57 seconds, rounded up")
	assert.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	assert.Equal(t, strconv.Itoa(w.Body.Len()), w.Header().Get("Content-Length"))
	var problem map[string]any
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &problem))
	assert.Equal(t, map[string]any{
		"type":              "https://iana.org/assignments/http-problem-types#quota-exceeded",
		"title":             "Request cannot be satisfied as assigned quota has been exceeded",
		"status":            429.0,
		"violated-policies": []any{"7/1m0s"},
	}, problem)

	assert.Equal(t, http.StatusNoContent, get(h, "b").Code, "another key")
}

// RFC 9110 gives whole seconds only, so the exact ones are those that matter: a
// retry then passes, and a second before it fails.
func TestRetryAfterIsTheFirstSecondThatPasses(t *testing.T) {
	for _, limit := range []ratelimit.Limit{
		ratelimit.PerMinute(7), ratelimit.PerHour(7), ratelimit.PerMinute(60), ratelimit.PerSecond(3),
	} {
		t.Run(limit.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newLimiter(t, ratelimit.NewMemoryStore(), limit, nil).Handler(ok)
				for get(h, "a").Code == http.StatusNoContent {
				}
				seconds, err := strconv.Atoi(get(h, "a").Header().Get("Retry-After"))
				require.NoError(t, err)
				time.Sleep(time.Duration(seconds-1) * time.Second)
				assert.Equal(t, http.StatusTooManyRequests, get(h, "a").Code, "a second before")
				time.Sleep(time.Second)
				assert.Equal(t, http.StatusNoContent, get(h, "a").Code, "after %d seconds", seconds)
			})
		})
	}
}

func TestOwnDeniedHandler(t *testing.T) {
	h := newLimiter(t, ratelimit.NewMemoryStore(), ratelimit.PerHour(1), &ratelimit.Options{
		Denied: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "slow down", http.StatusTeapot)
		}),
	}).Handler(ok)
	get(h, "a")
	w := get(h, "a")
	assert.Equal(t, http.StatusTeapot, w.Code)
	assert.Equal(t, "slow down\n", w.Body.String())
	assert.Equal(t, "3600", w.Header().Get("Retry-After"))
}

func TestARequestWithoutAKeyIsRefused(t *testing.T) {
	log := &bytes.Buffer{}
	h := newLimiter(t, ratelimit.NewMemoryStore(), ratelimit.PerHour(100), &ratelimit.Options{
		Name: "api", Logger: slog.New(slog.NewTextHandler(log, nil)),
	}).Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it got through") }))

	w := get(h, "")
	assert.Equal(t, http.StatusBadRequest, w.Code)

	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("X-Fault", "yes")
	w = httptest.NewRecorder()
	h.ServeHTTP(w, r)
	assert.Equal(t, http.StatusBadRequest, w.Code)
	assert.NotContains(t, w.Body.String(), "secret", "the client need not know why")
	assert.Equal(t, 1, strings.Count(log.String(), "\n"), "both within ten seconds: %s", log)
	assert.Contains(t, log.String(), "limiter=api")
}

// brokenStore fails, or hangs until its context is done.
type brokenStore struct {
	hang  bool
	calls int
}

func (s *brokenStore) Take(ctx context.Context, _ ratelimit.Request) (ratelimit.Decision, error) {
	s.calls++
	if s.hang {
		<-ctx.Done()
		return ratelimit.Decision{}, ctx.Err()
	}
	return ratelimit.Decision{}, errors.New("broken")
}

func (s *brokenStore) Reset(context.Context, string) error { return errors.New("broken") }

func TestTheStoreFails(t *testing.T) {
	tests := []struct {
		name    string
		store   *brokenStore
		options ratelimit.Options
		status  int
		took    time.Duration
	}{
		{"broken, open", &brokenStore{}, ratelimit.Options{}, http.StatusNoContent, 0},
		{"broken, closed", &brokenStore{}, ratelimit.Options{FailClosed: true}, http.StatusServiceUnavailable, 0},
		{"hanging, open", &brokenStore{hang: true}, ratelimit.Options{}, http.StatusNoContent, 50 * time.Millisecond},
		{
			"hanging, closed, own timeout", &brokenStore{hang: true},
			ratelimit.Options{FailClosed: true, Timeout: time.Second},
			http.StatusServiceUnavailable, time.Second,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &bytes.Buffer{}
				tt.options.Logger = slog.New(slog.NewTextHandler(log, nil))
				h := newLimiter(t, tt.store, ratelimit.PerHour(1), &tt.options).Handler(ok)
				begin := time.Now()
				w := get(h, "a")
				assert.Equal(t, tt.status, w.Code)
				assert.Equal(t, tt.took, time.Since(begin))
				if tt.status == http.StatusServiceUnavailable {
					assert.Equal(t, "1", w.Header().Get("Retry-After"))
					assert.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
				}

				// Loudly, but not a line per request: at once, then one every ten
				// seconds that counts the others.
				assert.Equal(t, 1, strings.Count(log.String(), "\n"), log)
				for time.Since(begin) < 25*time.Second {
					get(h, "a")
					time.Sleep(time.Second - tt.took)
				}
				assert.Equal(t, 3, strings.Count(log.String(), "\n"), log)
				assert.Contains(t, log.String(), "level=ERROR")
				assert.Contains(t, log.String(), "more_since_last_line=9")
			})
		})
	}
}

func TestAllow(t *testing.T) {
	store := ratelimit.NewMemoryStore()
	l := newLimiter(t, store, ratelimit.PerHour(10), nil)

	d, err := l.AllowN(t.Context(), "a", 7)
	require.NoError(t, err)
	assert.True(t, d.Allowed)
	d, err = l.AllowN(t.Context(), "a", 4)
	require.NoError(t, err)
	assert.False(t, d.Allowed)
	assert.Equal(t, 3, d.States[0].Remaining)
	d, err = l.AllowN(t.Context(), "a", 11)
	require.NoError(t, err)
	assert.Negative(t, d.States[0].RetryAfter)
	d, err = l.AllowN(t.Context(), "a", 0)
	require.NoError(t, err)
	assert.True(t, d.Allowed)
	d, err = l.Allow(t.Context(), "a")
	require.NoError(t, err)
	assert.Equal(t, 2, d.States[0].Remaining)

	for _, arg := range []struct {
		key string
		n   int
	}{{"", 1}, {"a", -1}} {
		d, err := l.AllowN(t.Context(), arg.key, arg.n)
		assert.Error(t, err, arg)
		assert.False(t, d.Allowed, arg)
	}
}

func TestAllowWhenTheStoreFails(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	for _, failClosed := range []bool{false, true} {
		l := newLimiter(t, &brokenStore{}, ratelimit.PerHour(1), &ratelimit.Options{FailClosed: failClosed, Logger: quiet})
		d, err := l.Allow(t.Context(), "a")
		assert.ErrorContains(t, err, "broken")
		assert.Equal(t, !failClosed, d.Allowed)
		assert.Empty(t, d.States)
	}
}

// A caller that gives up is not a store that fails: it is told so, without a
// line in the log, and a limit that fails open does not open for it.
func TestAllowWithAContextThatIsDone(t *testing.T) {
	log := &bytes.Buffer{}
	l := newLimiter(t, &brokenStore{hang: true}, ratelimit.PerHour(1), &ratelimit.Options{
		Logger: slog.New(slog.NewTextHandler(log, nil)),
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d, err := l.Allow(ctx, "a")
	assert.ErrorIs(t, err, context.Canceled)
	assert.False(t, d.Allowed)
	assert.Empty(t, log.String())
}

// A client that hangs up at once is counted like every other.
func TestAClientThatHangsUpIsCounted(t *testing.T) {
	h := newLimiter(t, ratelimit.NewMemoryStore(), ratelimit.PerHour(1), nil).Handler(ok)
	for _, want := range []int{http.StatusNoContent, http.StatusTooManyRequests} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		r := httptest.NewRequestWithContext(ctx, "GET", "/", nil)
		r.Header.Set("X-Key", "a")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		assert.Equal(t, want, w.Code)
	}
}

func TestLimitersThatShareAStore(t *testing.T) {
	store := ratelimit.NewMemoryStore()
	one := newLimiter(t, store, ratelimit.PerHour(1), nil)
	tests := []struct {
		name  string
		limit ratelimit.Limit
		opts  *ratelimit.Options
		share bool
	}{
		{"the same limit", ratelimit.PerHour(1), nil, true},
		{"another limit", ratelimit.PerMinute(1), nil, false},
		{"another burst", ratelimit.Limit{Rate: 1, Period: time.Hour, Burst: 2}, nil, false},
		{"another name", ratelimit.PerHour(1), &ratelimit.Options{Name: "login"}, false},
	}
	d, err := one.Allow(t.Context(), "a")
	require.NoError(t, err)
	require.True(t, d.Allowed)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := newLimiter(t, store, tt.limit, tt.opts).Allow(t.Context(), "a")
			require.NoError(t, err)
			assert.Equal(t, !tt.share, d.Allowed)
		})
	}
}
