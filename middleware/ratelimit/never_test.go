package ratelimit_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/middleware/ratelimit"
)

// costs returns a Cost that is n.
func costs(n *int) func(*http.Request) int { return func(*http.Request) int { return *n } }

// Who asks for more than Policy.Local ever has is not told to come back.
func TestLocalLimitThatNeverHasRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cost, local := 3, ratelimit.PerHour(2)
		l, err := ratelimit.NewPolicies(&brokenStore{}, []ratelimit.Policy{{
			Name: "api", Limits: []ratelimit.Limit{ratelimit.PerHour(10)}, Key: byHeader, Cost: costs(&cost), Local: &local,
		}}, nil)
		require.NoError(t, err)
		w := get(l.Handler(ok), "a")
		assert.Equal(t, http.StatusTooManyRequests, w.Code)
		assert.NotContains(t, w.Header(), "Retry-After")
	})
}

// Nor is he, and he hears which limit it is, if another limit is known to have no room, of which it is known when it will.
func TestNeverAlsoBesideADenialKnownHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cost := 5
		var last ratelimit.Event
		l, err := ratelimit.NewPolicies(ratelimit.NewMemoryStore(), []ratelimit.Policy{{
			Name: "api", Limits: []ratelimit.Limit{ratelimit.PerHour(10), {Rate: 5, Period: time.Minute}}, Key: byHeader, Cost: costs(&cost),
		}}, &ratelimit.Options{Observe: func(_ context.Context, e ratelimit.Event) { last = e }})
		require.NoError(t, err)
		h := l.Handler(ok)
		assert.Equal(t, http.StatusNoContent, get(h, "a").Code)
		cost = 7
		for _, what := range []string{"from the store", "from what the process knows"} {
			w := get(h, "a")
			assert.Equal(t, http.StatusTooManyRequests, w.Code, what)
			assert.NotContains(t, w.Header(), "Retry-After", what)
			assert.Contains(t, w.Body.String(), `"violated-policies":["api/1h0m0s","api/1m0s"]`, what)
			assert.Equal(t, "api/1h0m0s", last.Limit, what)
			assert.Equal(t, what == "from what the process knows", last.Local)
		}
	})
}
