package ratelimit_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/middleware/ratelimit"
)

// request returns one with these header fields.
func request(fields ...string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	for i := 0; i < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	return r
}

func serve(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// Two policies, one rejects: the other is not consumed.
func TestSeveralPoliciesAllOrNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := ratelimit.NewPolicies(ratelimit.NewMemoryStore(), []ratelimit.Policy{
			{Name: "user", Limits: []ratelimit.Limit{ratelimit.PerHour(3), {Rate: 100, Period: 24 * time.Hour}}, Key: byHeader},
			{Name: "global", Limits: []ratelimit.Limit{ratelimit.PerHour(5)}, Key: ratelimit.Everybody},
		}, nil)
		require.NoError(t, err)
		h := l.Handler(ok)
		left := func(keys ...string) (n []int) {
			result, err := l.Peek(t.Context(), keys...)
			require.NoError(t, err)
			for _, s := range result.Limits {
				n = append(n, s.Remaining)
			}
			return n
		}
		for range 3 {
			assert.Equal(t, http.StatusNoContent, get(h, "a").Code)
		}
		for range 5 {
			w := get(h, "a")
			assert.Equal(t, http.StatusTooManyRequests, w.Code)
			assert.Equal(t, "1200", w.Header().Get("Retry-After"))
			assert.Contains(t, w.Body.String(), `"violated-policies":["user/1h0m0s"]`)
		}
		assert.Equal(t, []int{0, 97, 2}, left("a", "everybody"))
		for range 2 {
			assert.Equal(t, http.StatusNoContent, get(h, "b").Code)
		}
		w := get(h, "b")
		assert.Equal(t, http.StatusTooManyRequests, w.Code)
		assert.Contains(t, w.Body.String(), `"violated-policies":["global"]`)
		assert.Equal(t, []int{1, 98, 0}, left("b", "everybody"))

		require.NoError(t, l.Reset(t.Context(), "", "everybody"))
		assert.Equal(t, []int{1, 98, 5}, left("b", "everybody"))
		assert.Equal(t, http.StatusNoContent, get(h, "b").Code)
	})
}

func TestTiersAndCosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPolicy(t, ratelimit.NewMemoryStore(), ratelimit.Policy{
			Limits: []ratelimit.Limit{ratelimit.PerHour(10)},
			Tier:   func(r *http.Request) string { return r.Header.Get("X-Tier") },
			Tiers:  map[string][]ratelimit.Limit{"gold": {ratelimit.PerHour(100)}},
			Cost: func(r *http.Request) int {
				n, _ := strconv.Atoi(r.Header.Get("X-Cost"))
				return n
			},
		}, nil)
		h := l.Handler(ok)
		for _, step := range []struct {
			tier, cost string
			status     int
			left       string
		}{
			{"", "4", 204, `"api";r=6;t=360`},
			{"unknown", "6", 204, `"api";r=0;t=360`},
			{"", "1", 429, `"api";r=0;t=360`},
			{"", "11", 429, `"api";r=0;t=360`},
			// What was taken counts in another tier as well: an hour of debt.
			{"gold", "1", 429, `"api";r=0;t=36`},
			{"", "0", 204, `"api";r=0;t=360`},
			{"", "-5", 204, `"api";r=0;t=360`},
		} {
			w := serve(h, request("X-Key", "a", "X-Tier", step.tier, "X-Cost", step.cost))
			assert.Equal(t, step.status, w.Code, step)
			assert.Equal(t, step.left, w.Header().Get("RateLimit"), step)
			if step.cost == "11" {
				assert.NotContains(t, w.Header(), "Retry-After", "it never passes")
			}
		}
		w := serve(h, request("X-Key", "b", "X-Tier", "gold", "X-Cost", "40"))
		assert.Equal(t, `"api";q=100;w=3600`, w.Header().Get("RateLimit-Policy"))
		assert.Equal(t, `"api";r=60;t=36`, w.Header().Get("RateLimit"))

		result, err := l.Tier("gold").AllowN(t.Context(), 50, "b")
		require.NoError(t, err)
		assert.True(t, result.Allowed)
		result, err = l.AllowN(t.Context(), 5, "b")
		require.NoError(t, err)
		assert.False(t, result.Allowed)
		require.NoError(t, l.Reset(t.Context(), "b"))
		result, err = l.AllowN(t.Context(), 5, "b")
		require.NoError(t, err)
		assert.True(t, result.Allowed)
	})
}

// A key that is spent in one tier is not in another whose limit has nothing to do with it:
// its debt would be more than the other can have, and be cut to that, and who could choose
// between the two would pay neither. What is as long counts in both.
func TestATierOfAnotherLengthCountsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := ratelimit.NewMemoryStore()
		l := newPolicy(t, store, ratelimit.Policy{
			Limits: []ratelimit.Limit{ratelimit.PerHour(10)},
			Tier:   func(*http.Request) string { return "" },
			Tiers: map[string][]ratelimit.Limit{
				"double": {ratelimit.PerHour(20)},
				"minute": {{Rate: 10, Period: time.Hour, Burst: 1}},
				"second": {ratelimit.PerSecond(5)},
				"many":   {ratelimit.PerSecond(5), ratelimit.PerHour(40)},
				"window": {ratelimit.Window(10, time.Hour)},
				"larger": {ratelimit.Window(20, time.Hour)},
			},
		}, &ratelimit.Options{LocalDenial: -1})
		allow := func(tier string, n int) bool {
			r, err := l.Tier(tier).AllowN(t.Context(), n, "k")
			require.NoError(t, err)
			for _, s := range r.Limits {
				assert.Contains(t, []string{"api/1h0m0s", "api/1s"}, s.Name, "clients know the policy's limits by these names")
			}
			return r.Allowed
		}
		assert.True(t, allow("", 10))
		for range 2 {
			assert.False(t, allow("", 1))
			assert.False(t, allow("double", 1), "it owes an hour")
			for tier, n := range map[string]int{"minute": 1, "second": 5, "window": 10, "larger": 20} {
				assert.True(t, allow(tier, n), tier)
				assert.False(t, allow(tier, 1), tier)
			}
			assert.False(t, allow("", 1), "others have nothing to do with it")
			require.NoError(t, l.Reset(t.Context(), "k"))
			assert.True(t, allow("double", 20))
		}
		alone, err := ratelimit.NewPolicies(store, []ratelimit.Policy{{
			Name: "other", Key: byHeader, Limits: []ratelimit.Limit{ratelimit.PerHour(10)},
			Tier: func(*http.Request) string { return "" }, Tiers: map[string][]ratelimit.Limit{"second": {ratelimit.PerSecond(5)}},
		}}, nil)
		require.NoError(t, err)
		for range 2 {
			for _, l := range []*ratelimit.Limiter{alone, alone.Tier("second")} {
				r, err := l.AtMost(t.Context(), 5, "k")
				require.NoError(t, err)
				assert.Equal(t, 5, r.Taken)
			}
			time.Sleep(time.Second)
		}

		require.NoError(t, l.Reset(t.Context(), "k"))
		assert.True(t, allow("many", 5))
		assert.False(t, allow("second", 1), "both have the same five a second")
		time.Sleep(time.Second)
		assert.True(t, allow("second", 5))
		assert.True(t, allow("", 8), "five of forty are an eighth of ten")
		assert.False(t, allow("", 1))
	})
}

// Two limits that are full again after the same time count together, also where a unit takes no
// whole number of anything.
func TestTiersOfOneLengthCountTogether(t *testing.T) {
	per := func(rate int, period time.Duration, burst int) ratelimit.Limit {
		return ratelimit.Limit{Rate: rate, Period: period, Burst: burst}
	}
	for name, tt := range map[string]struct{ base, tier ratelimit.Limit }{
		"an hour":           {per(700, time.Hour, 700), ratelimit.PerHour(1400)},
		"a part of a day":   {per(4900, 24*time.Hour, 490), per(9800, 24*time.Hour, 980)},
		"of other lengths":  {per(70, time.Minute, 7), per(8400, time.Hour, 14)},
		"a third of second": {per(3, time.Second, 1), per(6, time.Second, 2)},
		"as long as can be": {per(1, 100*365*24*time.Hour, 1), per(1_000_000_000_000, 100*365*24*time.Hour, 0)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newPolicy(t, ratelimit.NewMemoryStore(), ratelimit.Policy{
					Limits: []ratelimit.Limit{tt.base},
					Tier:   func(*http.Request) string { return "" }, Tiers: map[string][]ratelimit.Limit{"paying": {tt.tier}},
				}, nil)
				for _, tier := range []string{"paying", ""} {
					r, err := l.Tier(tier).AtMost(t.Context(), ratelimit.MaxExtra, "k")
					require.NoError(t, err)
					assert.Equal(t, tier == "paying", r.Allowed)
				}
			})
		})
	}
}

func TestShadow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []ratelimit.Event
		l, err := ratelimit.NewPolicies(ratelimit.NewMemoryStore(), []ratelimit.Policy{
			{Name: "new", Limits: []ratelimit.Limit{ratelimit.PerHour(2)}, Key: byHeader, Shadow: true, FailClosed: true},
			{Name: "old", Limits: []ratelimit.Limit{ratelimit.PerHour(5)}, Key: byHeader},
		}, &ratelimit.Options{Observe: func(_ context.Context, e ratelimit.Event) { events = append(events, e) }})
		require.NoError(t, err)
		h := l.Handler(ok)
		for i := range 7 {
			w := get(h, "a")
			assert.Equal(t, i >= 5, w.Code == http.StatusTooManyRequests)
			assert.NotContains(t, w.Header().Get("RateLimit"), "new")
			assert.NotContains(t, w.Header().Get("RateLimit-Policy"), "new")
			assert.NotContains(t, w.Body.String(), "new")
		}
		stats := l.Stats()
		assert.EqualValues(t, 5, stats.Admitted)
		assert.EqualValues(t, 2, stats.Denied)
		assert.EqualValues(t, 5, stats.ShadowDenied)
		kinds := map[ratelimit.EventKind]int{}
		for _, e := range events {
			kinds[e.Kind]++
			assert.Equal(t, "a", e.Key)
			assert.Equal(t, map[ratelimit.EventKind]string{ratelimit.ShadowDenied: "new", ratelimit.Denied: "old"}[e.Kind], e.Limit)
		}
		assert.Equal(t, map[ratelimit.EventKind]int{ratelimit.ShadowDenied: 5, ratelimit.Admitted: 5, ratelimit.Denied: 2}, kinds)

		only := newPolicy(t, ratelimit.NewMemoryStore(), ratelimit.Policy{Limits: []ratelimit.Limit{ratelimit.PerHour(1)}, Shadow: true}, nil)
		for range 100 {
			w := get(only.Handler(ok), "a")
			assert.Equal(t, http.StatusNoContent, w.Code)
			assert.Empty(t, w.Header())
		}
		assert.EqualValues(t, 99, only.Stats().ShadowDenied)
		assert.EqualValues(t, 1, only.Stats().Asked, "the first says that there is no room for an hour")

		failing := newPolicy(t, &brokenStore{}, ratelimit.Policy{
			Limits: []ratelimit.Limit{ratelimit.PerHour(1)}, Shadow: true, FailClosed: true,
		}, &ratelimit.Options{Logger: slog.New(slog.DiscardHandler)})
		assert.Equal(t, http.StatusNoContent, get(failing.Handler(ok), "a").Code, "it denies nothing, whatever fails")
	})
}

// counting counts what a store is asked.
type counting struct {
	*ratelimit.MemoryStore
	took  time.Duration
	calls int
}

func (c *counting) Take(ctx context.Context, req ratelimit.Request) (ratelimit.Decision, error) {
	c.calls++
	time.Sleep(c.took)
	d, err := c.MemoryStore.Take(ctx, req)
	time.Sleep(c.took)
	return d, err
}

// A denied key is denied without the store, and for no moment longer than it has to
// be: Retry-After is still the first second that passes.
func TestADeniedKeyIsDeniedLocally(t *testing.T) {
	for _, limit := range []ratelimit.Limit{ratelimit.PerMinute(7), ratelimit.Window(7, time.Minute), ratelimit.PerSecond(3)} {
		t.Run(limit.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &counting{MemoryStore: ratelimit.NewMemoryStore(), took: time.Millisecond}
				l := newLimiter(t, store, limit, &ratelimit.Options{LocalDenial: time.Hour})
				h := l.Handler(ok)
				for get(h, "a").Code == http.StatusNoContent {
				}
				calls := store.calls
				for range 3 {
					seconds, err := strconv.Atoi(get(h, "a").Header().Get("Retry-After"))
					require.NoError(t, err)
					for range 10 {
						assert.Equal(t, http.StatusTooManyRequests, get(h, "a").Code)
					}
					assert.Equal(t, calls, store.calls)
					time.Sleep(time.Duration(seconds-1) * time.Second)
					if seconds > 1 {
						assert.Equal(t, http.StatusTooManyRequests, get(h, "a").Code, "a second before")
					}
					time.Sleep(time.Second)
					assert.Equal(t, http.StatusNoContent, get(h, "a").Code, "after %d seconds", seconds)
					for get(h, "a").Code == http.StatusNoContent {
					}
					calls = store.calls
				}
				assert.Equal(t, l.Stats().Denied, l.Stats().DeniedLocally, "also what spends a key says when it has room again")
			})
		})
	}
}

// More units than those that were denied need longer, by a known time; fewer may have
// room.
func TestLocalDenialAndUnits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &counting{MemoryStore: ratelimit.NewMemoryStore()}
		l := newLimiter(t, store, ratelimit.PerMinute(60), nil)
		allow := func(n int) (bool, time.Duration) {
			result, err := l.AllowN(t.Context(), n, "a")
			require.NoError(t, err)
			return result.Allowed, result.RetryAfter
		}
		allow(58)
		allowed, wait := allow(10)
		assert.False(t, allowed)
		assert.Equal(t, 8*time.Second, wait)
		asked := store.calls
		allowed, wait = allow(20)
		assert.False(t, allowed)
		assert.Equal(t, 18*time.Second, wait)
		assert.Equal(t, asked, store.calls)
		allowed, wait = allow(61)
		assert.False(t, allowed)
		assert.Negative(t, wait)
		allowed, _ = allow(2)
		assert.True(t, allowed)
		time.Sleep(3 * time.Second)
		allowed, _ = allow(3)
		assert.True(t, allowed)
	})
}

func TestLocalDenialIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := ratelimit.NewMemoryStore()
		here := newLimiter(t, store, ratelimit.PerHour(1), &ratelimit.Options{LocalDenial: 10 * time.Second})
		always := newLimiter(t, store, ratelimit.PerHour(1), nil)
		never := newLimiter(t, store, ratelimit.PerHour(1), &ratelimit.Options{LocalDenial: -1})
		allowed := func(l *ratelimit.Limiter) bool {
			result, err := l.Allow(t.Context(), "a")
			require.NoError(t, err)
			return result.Allowed
		}
		assert.True(t, allowed(here))
		for _, l := range []*ratelimit.Limiter{here, always, never} {
			assert.False(t, allowed(l))
		}
		require.NoError(t, store.Reset(t.Context(), "a", "1/1h0m0s")) // as another process does
		assert.False(t, allowed(here))
		assert.False(t, allowed(always))
		assert.True(t, allowed(never))
		require.NoError(t, store.Reset(t.Context(), "a", "1/1h0m0s"))
		time.Sleep(11 * time.Second)
		assert.True(t, allowed(here))
		assert.False(t, allowed(always), "by default for a minute")
		require.NoError(t, always.Reset(t.Context(), "a"))
		assert.True(t, allowed(always))
		assert.False(t, allowed(never))
		require.NoError(t, store.Reset(t.Context(), "a", "1/1h0m0s"))
		time.Sleep(50 * time.Second)
		assert.True(t, allowed(never))
		time.Sleep(11 * time.Second)
		assert.False(t, allowed(always), "it has asked, and never was faster")
	})
}

// The trouble with one key says nothing about the others: whoever can make it would
// switch all limits off.
func TestTroubleWithOneKeyOpensNoCircuitBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		foreign := &foreignKey{ratelimit.NewMemoryStore()}
		l := newPolicy(t, foreign, ratelimit.Policy{Limits: []ratelimit.Limit{ratelimit.PerHour(1)}}, &ratelimit.Options{
			Logger: slog.New(slog.DiscardHandler),
		})
		for range 10 {
			result, err := l.Allow(t.Context(), "foreign")
			assert.ErrorIs(t, err, ratelimit.ErrForeign)
			assert.True(t, result.Allowed)
		}
		assert.False(t, l.Stats().BreakerOpen)
		for _, want := range []bool{true, false} {
			result, err := l.Allow(t.Context(), "a")
			require.NoError(t, err)
			assert.Equal(t, want, result.Allowed)
		}
	})
}

// foreignKey has something else at the key "foreign".
type foreignKey struct{ *ratelimit.MemoryStore }

func (s *foreignKey) Take(ctx context.Context, req ratelimit.Request) (ratelimit.Decision, error) {
	if req.Checks[0].Key == "foreign" {
		return ratelimit.Decision{}, fmt.Errorf("store: %w", ratelimit.ErrForeign)
	}
	return s.MemoryStore.Take(ctx, req)
}

// What an attacker makes up takes a bounded amount of memory, and is limited all the
// same.
func TestManyDeniedKeys(t *testing.T) {
	l := newLimiter(t, ratelimit.NewMemoryStore(), ratelimit.PerHour(1), &ratelimit.Options{Timeout: 10 * time.Second})
	const keys = 70_000
	for i := range keys {
		_, err := l.Allow(t.Context(), strconv.Itoa(i))
		require.NoError(t, err)
	}
	assert.LessOrEqual(t, ratelimit.Denials(l), 1<<16)
	for i := 0; i < keys; i += 7 {
		result, err := l.Allow(t.Context(), strconv.Itoa(i))
		require.NoError(t, err)
		require.False(t, result.Allowed)
	}
}
