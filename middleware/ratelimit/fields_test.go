package ratelimit_test

import (
	"context"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunglas/httpsfv"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/middleware/ratelimit"
)

// item is one of a structured field.
type item struct {
	name   string
	params map[string]any
}

// parse reads a structured field with a library that knows nothing of ours.
func parse(t *testing.T, lines []string) (items []item) {
	t.Helper()
	list, err := httpsfv.UnmarshalList(lines)
	require.NoError(t, err, lines)
	for _, member := range list {
		it, ok := member.(httpsfv.Item)
		require.True(t, ok, "%v is no item", member)
		name, ok := it.Value.(string)
		require.True(t, ok, "%v is no string", it.Value)
		params := map[string]any{}
		for _, p := range it.Params.Names() {
			params[p], _ = it.Params.Get(p)
		}
		items = append(items, item{name, params})
	}
	return items
}

// The fields parse, q and w say the limits, and r is the limit without what was
// admitted.
func TestFields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := ratelimit.NewPolicies(ratelimit.NewMemoryStore(), []ratelimit.Policy{
			{Name: "user", Limits: []ratelimit.Limit{ratelimit.PerHour(20), ratelimit.Window(100, 24*time.Hour)}, Key: byHeader},
			{Name: "burst", Limits: []ratelimit.Limit{{Rate: 60, Period: time.Hour, Burst: 15}}, Key: byHeader},
		}, &ratelimit.Options{XRateLimit: true})
		require.NoError(t, err)
		h := l.Handler(ok)
		for i := range 18 {
			w := get(h, "a")
			admitted := int64(min(i+1, 15))
			assert.Equal(t, i >= 15, w.Code == http.StatusTooManyRequests)
			assert.Equal(t, []item{
				{"user/1h0m0s", map[string]any{"q": int64(20), "w": int64(3600)}},
				{"user/24h0m0s", map[string]any{"q": int64(100), "w": int64(86400)}},
				{"burst", map[string]any{"q": int64(15), "w": int64(900)}},
			}, parse(t, w.Header()["Ratelimit-Policy"]))
			left := map[string]int64{}
			for _, it := range parse(t, w.Header()["Ratelimit"]) {
				left[it.name] = it.params["r"].(int64)
				assert.Positive(t, it.params["t"], it.name)
				if retry := w.Header().Get("Retry-After"); retry != "" && it.name == "burst" {
					seconds, err := strconv.ParseInt(retry, 10, 64)
					require.NoError(t, err)
					assert.GreaterOrEqual(t, seconds, it.params["t"], "Retry-After is not before the reset")
				}
			}
			if i < 15 {
				assert.Equal(t, map[string]int64{"user/1h0m0s": 20 - admitted, "user/24h0m0s": 100 - admitted, "burst": 15 - admitted}, left)
			} else {
				assert.Equal(t, int64(0), left["burst"])
			}
			assert.Equal(t, "15", w.Header().Get("X-RateLimit-Limit"))
			assert.Equal(t, strconv.FormatInt(15-admitted, 10), w.Header().Get("X-RateLimit-Remaining"))
			assert.InDelta(t, 60*admitted, atoi(t, w.Header().Get("X-RateLimit-Reset")), 5)
		}
	})
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	require.NoError(t, err)
	return n
}

// t is the time until there is one more unit than r says, rounded up.
func TestTheTimeUntilOneMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPolicy(t, ratelimit.NewMemoryStore(), ratelimit.Policy{Limits: []ratelimit.Limit{ratelimit.PerMinute(7)}}, nil).Handler(ok)
		for want := 6; want >= 0; want-- {
			items := parse(t, get(h, "a").Header()["Ratelimit"])
			assert.Equal(t, []item{{"api", map[string]any{"r": int64(want), "t": int64(9)}}}, items)
		}
		for range 5 { // denied here
			time.Sleep(time.Second)
			get(h, "a")
		}
		assert.Equal(t, []item{{"api", map[string]any{"r": int64(0), "t": int64(4)}}}, parse(t, get(h, "a").Header()["Ratelimit"]))
	})
}

// A route inside of several limiters tells of all of them.
func TestFieldsOfSeveralLimiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := ratelimit.NewMemoryStore()
		outer := newPolicy(t, store, ratelimit.Policy{Name: "outer", Limits: []ratelimit.Limit{ratelimit.PerHour(10)}}, nil)
		inner := newPolicy(t, store, ratelimit.Policy{Name: "inner", Limits: []ratelimit.Limit{ratelimit.PerHour(20)}}, nil)
		w := get(outer.Handler(inner.Handler(newConcurrency(t, store, 3, nil).Handler(ok))), "a")
		assert.Equal(t, []item{
			{"outer", map[string]any{"r": int64(9), "t": int64(360)}},
			{"inner", map[string]any{"r": int64(19), "t": int64(180)}},
			{"exports", map[string]any{"r": int64(2)}},
		}, parse(t, w.Header()["Ratelimit"]))
		assert.Equal(t, item{"exports", map[string]any{"q": int64(3), "qu": "concurrent-requests"}}, parse(t, w.Header()["Ratelimit-Policy"])[2])
	})
}

func TestHiddenFields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newLimiter(t, ratelimit.NewMemoryStore(), ratelimit.PerHour(1), &ratelimit.Options{HideFields: true}).Handler(ok)
		assert.Empty(t, get(h, "a").Header())
		w := get(h, "a")
		assert.Equal(t, "3600", w.Header().Get("Retry-After"))
		assert.Empty(t, w.Header().Get("RateLimit")+w.Header().Get("RateLimit-Policy"))
	})
}

func TestOwnDeniedHandlerKnowsTheResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newLimiter(t, ratelimit.NewMemoryStore(), ratelimit.PerHour(1), &ratelimit.Options{
			Denied: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				result, ok := ratelimit.FromContext(r.Context())
				assert.True(t, ok)
				assert.Equal(t, []string{"1/1h0m0s"}, result.Violated())
				assert.InDelta(t, time.Hour, result.RetryAfter, float64(time.Minute))
				w.WriteHeader(http.StatusTeapot)
			}),
		}).Handler(ok)
		get(h, "a")
		assert.Equal(t, http.StatusTeapot, get(h, "a").Code)
		_, found := ratelimit.FromContext(context.Background())
		assert.False(t, found)
	})
}
