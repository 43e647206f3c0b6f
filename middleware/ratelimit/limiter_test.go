package ratelimit_test

import (
	"bytes"
	"cmp"
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

// newPolicy returns a Limiter with one policy, whose Key is byHeader and whose name
// is "api".
func newPolicy(t *testing.T, store ratelimit.Store, p ratelimit.Policy, o *ratelimit.Options) *ratelimit.Limiter {
	t.Helper()
	p.Name, p.Key = cmp.Or(p.Name, "api"), byHeader
	l, err := ratelimit.NewPolicies(store, []ratelimit.Policy{p}, o)
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
	negative := ratelimit.PerSecond(-5)
	l, err := ratelimit.NewPolicies(nil, []ratelimit.Policy{
		{Name: "a:b", Limits: []ratelimit.Limit{{Rate: -1}}},
		{Name: "none", FailClosed: true, Local: &negative, Tier: func(*http.Request) string { return "" }},
		{Name: "twice", Limits: []ratelimit.Limit{ratelimit.PerSecond(1), ratelimit.PerSecond(2)}, Key: byHeader},
		{Name: "twice", Limits: []ratelimit.Limit{ratelimit.PerHour(100)}, Key: byHeader, Batch: 100},
		{Name: "window", Limits: []ratelimit.Limit{ratelimit.Window(1_000_000_000, 24*365*time.Hour)}, Key: byHeader},
		{Name: "tier", Limits: []ratelimit.Limit{ratelimit.PerHour(1)}, Key: byHeader, Tiers: map[string][]ratelimit.Limit{"gold": nil}},
	}, &ratelimit.Options{Timeout: -1})
	require.Error(t, err)
	assert.Nil(t, l)
	for _, want := range []string{
		"no store", "rate is -1", "period is 0s", "no key", `policy "a:b": a name holds only`, "Options.Timeout is -1ns", "no limit",
		"Local: the rate is -5", "Tier and Tiers need each other", "FailClosed and Local exclude each other", "two limits have the period 1s",
		`two policies have the name "twice"`, "Batch of 100 needs", "Batch needs a Limiter of its own", "cannot be counted exactly", `tier "gold" has no limit`,
	} {
		assert.ErrorContains(t, err, want)
	}
	for line := range strings.Lines(err.Error()) {
		t.Log(strings.TrimSpace(line))
	}

	perHour := []ratelimit.Limit{ratelimit.PerHour(1)}
	tier := func(*http.Request) string { return "" }
	for name, first := range map[string]ratelimit.Policy{
		"two limits": {Limits: []ratelimit.Limit{ratelimit.PerSecond(1), ratelimit.PerHour(5)}},
		"a tier":     {Limits: perHour, Tier: tier, Tiers: map[string][]ratelimit.Limit{"gold": {ratelimit.PerSecond(1)}}},
	} {
		first.Name, first.Key = "api", byHeader
		_, err = ratelimit.NewPolicies(ratelimit.NewMemoryStore(), []ratelimit.Policy{
			first, {Name: "api/1s", Limits: perHour, Key: byHeader},
		}, nil)
		assert.ErrorContains(t, err, `two policies, "api" and "api/1s", have a limit of the name "api/1s"`, name)
	}

	_, err = ratelimit.New(ratelimit.NewMemoryStore(), ratelimit.PerHour(1), nil, nil)
	assert.ErrorContains(t, err, "no key")
	_, err = ratelimit.New(ratelimit.NewMemoryStore(), ratelimit.PerHour(1), ratelimit.Join(byHeader, nil), nil)
	assert.ErrorContains(t, err, "no key")
	_, err = ratelimit.NewPolicies(ratelimit.NewMemoryStore(), nil, nil)
	assert.ErrorContains(t, err, "no policy")
	_, err = ratelimit.New((*ratelimit.MemoryStore)(nil), ratelimit.PerHour(1), byHeader, &ratelimit.Options{Denied: (*http.ServeMux)(nil)})
	assert.ErrorContains(t, err, "no store")
	assert.ErrorContains(t, err, "Options.Denied is a nil *http.ServeMux")
	l, err = ratelimit.New(ratelimit.NewMemoryStore(), ratelimit.PerHour(1), byHeader, nil)
	require.NoError(t, err)
	assert.PanicsWithValue(t, "ratelimit: Limiter.Handler needs a handler to wrap, and got nil", func() { l.Handler(nil) })
}

func TestLimits(t *testing.T) {
	assert.Equal(t, ratelimit.Limit{Rate: 5, Period: time.Second}, ratelimit.PerSecond(5))
	assert.Equal(t, ratelimit.Limit{Rate: 5, Period: time.Minute}, ratelimit.PerMinute(5))
	assert.Equal(t, ratelimit.Limit{Rate: 5, Period: time.Hour}, ratelimit.PerHour(5))
}

func TestHandlerDenies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newLimiter(t, ratelimit.NewMemoryStore(), ratelimit.PerMinute(7), nil).Handler(ok)
		for range 7 {
			w := get(h, "a")
			assert.Equal(t, http.StatusNoContent, w.Code)
			assert.Empty(t, w.Header().Get("Retry-After"))
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
	})
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
	synctest.Test(t, func(t *testing.T) {
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
	})
}

func TestARequestWithoutAKeyIsRefused(t *testing.T) {
	log := &bytes.Buffer{}
	h := newPolicy(t, ratelimit.NewMemoryStore(), ratelimit.Policy{Limits: []ratelimit.Limit{ratelimit.PerHour(100)}}, &ratelimit.Options{
		Logger: slog.New(slog.NewTextHandler(log, nil)),
	}).Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it got through") }))

	w := get(h, "")
	assert.Equal(t, http.StatusBadRequest, w.Code)

	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("X-Fault", "yes")
	w = httptest.NewRecorder()
	h.ServeHTTP(w, r)
	assert.Equal(t, http.StatusServiceUnavailable, w.Code, "it is not the client's mistake")
	assert.Equal(t, "1", w.Header().Get("Retry-After"))
	assert.NotContains(t, w.Body.String(), "secret", "the client need not know why")
	assert.Equal(t, 1, strings.Count(log.String(), "\n"), "both within ten seconds: %s", log)
	assert.Contains(t, log.String(), "policy=api")
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

func (s *brokenStore) Reset(context.Context, string, ...string) error { return errors.New("broken") }

func TestTheStoreFails(t *testing.T) {
	perHour := []ratelimit.Limit{ratelimit.PerHour(1)}
	tests := []struct {
		name    string
		store   *brokenStore
		policy  ratelimit.Policy
		timeout time.Duration
		status  int
		took    time.Duration
	}{
		{"broken, open", &brokenStore{}, ratelimit.Policy{}, 0, http.StatusNoContent, 0},
		{"broken, closed", &brokenStore{}, ratelimit.Policy{FailClosed: true}, 0, http.StatusServiceUnavailable, 0},
		{"hanging, open", &brokenStore{hang: true}, ratelimit.Policy{}, 0, http.StatusNoContent, 50 * time.Millisecond},
		{
			"hanging, closed, own timeout", &brokenStore{hang: true},
			ratelimit.Policy{FailClosed: true},
			time.Second,
			http.StatusServiceUnavailable, time.Second,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &bytes.Buffer{}
				tt.policy.Limits = perHour
				l := newPolicy(t, tt.store, tt.policy, &ratelimit.Options{
					Timeout: tt.timeout, Logger: slog.New(slog.NewTextHandler(log, nil)),
				})
				h := l.Handler(ok)
				begin := time.Now()
				w := get(h, "a")
				assert.Equal(t, tt.status, w.Code)
				assert.Equal(t, tt.took, time.Since(begin))
				if tt.status == http.StatusServiceUnavailable {
					assert.Equal(t, "1", w.Header().Get("Retry-After"))
					assert.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
				}
				assert.Empty(t, w.Header().Get("RateLimit"), "nothing is known")

				// Loudly, but not a line per request: at once, then one every ten
				// seconds that counts the others.
				assert.Equal(t, 1, strings.Count(log.String(), "\n"), log)
				for time.Since(begin) < 25*time.Second {
					get(h, "a")
					time.Sleep(time.Second)
				}
				assert.Equal(t, 3, strings.Count(log.String(), "\n"), log)
				assert.Contains(t, log.String(), "level=ERROR")
				assert.Regexp(t, "more_since_last_line=[1-9]", log.String())
				stats := l.Stats()
				assert.True(t, stats.BreakerOpen)
				assert.Positive(t, stats.FailedOpen+stats.FailedClosed)
			})
		})
	}
}

// After three failures nobody waits. The store is tried about twice a second.
func TestTheCircuitBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &brokenStore{hang: true}
		changed := make(chan bool, 10)
		l := newPolicy(t, store, ratelimit.Policy{Limits: []ratelimit.Limit{ratelimit.PerHour(1)}}, &ratelimit.Options{
			Logger: slog.New(slog.DiscardHandler),
			Observe: func(_ context.Context, e ratelimit.Event) {
				if e.Kind == ratelimit.BreakerChanged {
					changed <- e.Open
				}
			},
		})
		begin, waited := time.Now(), 0
		for time.Since(begin) < 10*time.Second {
			before := time.Now()
			result, err := l.Allow(t.Context(), "a")
			assert.Error(t, err)
			assert.True(t, result.Allowed)
			if time.Since(before) > 0 {
				assert.Equal(t, 50*time.Millisecond, time.Since(before))
				waited++
			}
			time.Sleep(time.Millisecond)
		}
		assert.Equal(t, 3, waited)
		synctest.Wait()
		assert.InDelta(t, 10/0.45, store.calls, 5)
		assert.True(t, <-changed)
		assert.Empty(t, changed)
		assert.EqualValues(t, store.calls, l.Stats().StoreErrors)
	})
}

// While the store fails each process limits by itself, if the policy says so.
func TestALocalLimitWhileTheStoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		local := ratelimit.PerHour(2)
		l := newPolicy(t, &brokenStore{}, ratelimit.Policy{Limits: []ratelimit.Limit{ratelimit.PerHour(100)}, Local: &local}, &ratelimit.Options{
			Logger: slog.New(slog.DiscardHandler),
		})
		h := l.Handler(ok)
		for _, want := range []int{http.StatusNoContent, http.StatusNoContent, http.StatusTooManyRequests} {
			assert.Equal(t, want, get(h, "a").Code)
		}
		assert.Equal(t, "1800", get(h, "a").Header().Get("Retry-After"))
		assert.Equal(t, http.StatusNoContent, get(h, "b").Code)
		stats := l.Stats()
		assert.EqualValues(t, 3, stats.LocalAdmitted)
		assert.EqualValues(t, 2, stats.LocalDenied)
		assert.Zero(t, stats.FailedOpen)
	})
}

// What an attacker makes up while the store fails takes a bounded amount of memory, and he
// does not get rid so of what he has taken.
func TestALocalLimitHoldsSoManyKeysOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 1 << 16
		local := ratelimit.Limit{Rate: 10, Period: time.Hour}
		l := newPolicy(t, &brokenStore{}, ratelimit.Policy{Limits: []ratelimit.Limit{ratelimit.PerHour(100)}, Local: &local}, &ratelimit.Options{
			Logger: slog.New(slog.DiscardHandler),
		})
		allowed := func(key string) bool {
			result, err := l.Allow(t.Context(), key)
			require.Error(t, err)
			return result.Allowed
		}
		for range 10 {
			require.True(t, allowed("spent"))
		}
		for i := range most + 1000 {
			require.True(t, allowed(strconv.Itoa(i)))
		}
		assert.Equal(t, most, ratelimit.Len(ratelimit.LocalOf(l)))
		assert.False(t, allowed("spent"), "those go first that are full again first")
	})
}

func TestAllow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, ratelimit.NewMemoryStore(), ratelimit.PerHour(10), nil)
		result, err := l.AllowN(t.Context(), 7, "a")
		require.NoError(t, err)
		assert.True(t, result.Allowed)
		assert.Equal(t, 7, result.Taken)
		result, err = l.AllowN(t.Context(), 4, "a")
		require.NoError(t, err)
		assert.False(t, result.Allowed)
		assert.Zero(t, result.Taken)
		assert.Equal(t, 3, result.Limits[0].Remaining)
		assert.Equal(t, []string{"10/1h0m0s"}, result.Violated())
		result, err = l.AllowN(t.Context(), 11, "a")
		require.NoError(t, err)
		assert.Negative(t, result.RetryAfter)
		result, err = l.Peek(t.Context(), "a")
		require.NoError(t, err)
		assert.True(t, result.Allowed)
		assert.Equal(t, 3, result.Limits[0].Remaining)
		result, err = l.Allow(t.Context(), "a")
		require.NoError(t, err)
		assert.Equal(t, 2, result.Limits[0].Remaining)

		result, err = l.AtMost(t.Context(), 5, "a")
		require.NoError(t, err)
		assert.True(t, result.Allowed)
		assert.Equal(t, 2, result.Taken)
		result, err = l.AtMost(t.Context(), 5, "a")
		require.NoError(t, err)
		assert.False(t, result.Allowed)
		assert.Zero(t, result.Taken)

		require.NoError(t, l.Reset(t.Context(), "a"))
		result, err = l.AtMost(t.Context(), 50, "a")
		require.NoError(t, err)
		assert.Equal(t, 10, result.Taken)

		for name, call := range map[string]func() (ratelimit.Result, error){
			"an empty key":  func() (ratelimit.Result, error) { return l.Allow(t.Context(), "") },
			"no key":        func() (ratelimit.Result, error) { return l.Allow(t.Context()) },
			"two keys":      func() (ratelimit.Result, error) { return l.Allow(t.Context(), "a", "b") },
			"a negative n":  func() (ratelimit.Result, error) { return l.AllowN(t.Context(), -1, "a") },
			"at most none":  func() (ratelimit.Result, error) { return l.AtMost(t.Context(), 0, "a") },
			"reset no keys": func() (ratelimit.Result, error) { return ratelimit.Result{}, l.Reset(t.Context()) },
		} {
			result, err := call()
			assert.Error(t, err, name)
			assert.False(t, result.Allowed, name)
		}
	})
}

func TestAllowWhenTheStoreFails(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	for _, failClosed := range []bool{false, true} {
		l := newPolicy(t, &brokenStore{}, ratelimit.Policy{
			Limits: []ratelimit.Limit{ratelimit.PerHour(1)}, FailClosed: failClosed,
		}, &ratelimit.Options{Logger: quiet})
		result, err := l.Allow(t.Context(), "a")
		assert.ErrorContains(t, err, "broken")
		assert.Equal(t, !failClosed, result.Allowed)
		assert.Empty(t, result.Limits)
		assert.ErrorContains(t, l.Reset(t.Context(), "a"), "broken")
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
	for range 5 {
		result, err := l.Allow(ctx, "a")
		assert.ErrorIs(t, err, context.Canceled)
		assert.False(t, result.Allowed)
	}
	assert.Empty(t, log.String())
	assert.False(t, l.Stats().BreakerOpen)
}

// A client that hangs up at once is counted like every other.
func TestAClientThatHangsUpIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
	})
}

func TestLimitersThatShareAStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := ratelimit.NewMemoryStore()
		one := newLimiter(t, store, ratelimit.PerHour(1), nil)
		result, err := one.Allow(t.Context(), "a")
		require.NoError(t, err)
		require.True(t, result.Allowed)
		for name, other := range map[string]struct {
			limiter *ratelimit.Limiter
			share   bool
		}{
			"the same limit": {newLimiter(t, store, ratelimit.PerHour(1), nil), true},
			"another limit":  {newLimiter(t, store, ratelimit.PerMinute(1), nil), false},
			"another burst":  {newLimiter(t, store, ratelimit.Limit{Rate: 1, Period: time.Hour, Burst: 2}, nil), false},
			"a window":       {newLimiter(t, store, ratelimit.Window(1, time.Hour), nil), false},
			"another name": {newPolicy(t, store, ratelimit.Policy{
				Name: "login", Limits: []ratelimit.Limit{ratelimit.PerHour(1)},
			}, nil), false},
			"the same name": {newPolicy(t, store, ratelimit.Policy{
				Name: "1/1h0m0s", Limits: []ratelimit.Limit{ratelimit.PerHour(1)},
			}, nil), true},
		} {
			result, err := other.limiter.Allow(t.Context(), "a")
			require.NoError(t, err, name)
			assert.Equal(t, !other.share, result.Allowed, name)
		}
	})
}
