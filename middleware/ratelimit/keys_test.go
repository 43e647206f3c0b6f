package ratelimit_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"

	"github.com/herdless/herdless/middleware/ratelimit"
	"github.com/stretchr/testify/assert"
)

func TestKeys(t *testing.T) {
	mux := http.NewServeMux()
	mux.Handle("GET /items/{id}", ok)
	user := func(r *http.Request) (string, error) { return r.Header.Get("X-User"), nil }
	key := func(f ratelimit.KeyFunc, r *http.Request) string {
		k, err := f(r)
		if err != nil {
			return "error"
		}
		return k
	}
	item := httptest.NewRequest("GET", "/items/5", nil)
	none := httptest.NewRequest("GET", "/none", nil)
	assert.Equal(t, "GET /items/{id}", key(ratelimit.ByRouteOf(mux), item))
	assert.Equal(t, "no route", key(ratelimit.ByRouteOf(mux), none))
	assert.Equal(t, "error", key(ratelimit.ByRoute, item))
	inside := ""
	around := http.NewServeMux()
	around.HandleFunc("GET /items/{id}", func(_ http.ResponseWriter, r *http.Request) { inside = key(ratelimit.ByRoute, r) })
	serve(around, item)
	assert.Equal(t, "GET /items/{id}", inside)

	assert.Equal(t, "error", key(ratelimit.ByHeader("x-api-key"), request()))
	secret := key(ratelimit.ByHeader("x-api-key"), request("X-API-Key", "secret"))
	assert.Regexp(t, "^[0-9a-f]{32}$", secret)
	assert.NotEqual(t, secret, key(ratelimit.ByHeader("x-api-key"), request("X-API-Key", "other")))
	twice := request("X-API-Key", "secret")
	twice.Header.Add("X-API-Key", "other")
	assert.Equal(t, "error", key(ratelimit.ByHeader("x-api-key"), twice))

	byUser := ratelimit.ByUser(user, ratelimit.ByHeader("X-Address"))
	assert.Equal(t, "user:ada", key(byUser, request("X-User", "ada")))
	assert.Regexp(t, "^other:[0-9a-f]{32}$", key(byUser, request("X-Address", "192.0.2.1")))
	assert.Equal(t, "error", key(byUser, request()))
	assert.Equal(t, "error", key(ratelimit.ByUser(user, nil), request()))
	assert.Nil(t, ratelimit.ByUser(nil, byHeader))

	a := func(r *http.Request) (string, error) { return r.Header.Get("A"), nil }
	b := func(r *http.Request) (string, error) { return r.Header.Get("B"), nil }
	join := ratelimit.Join(a, b)
	seen := map[string]bool{}
	for _, pair := range [][2]string{{"a", "b"}, {"a|1:b", "c"}, {"a", "1:b|c"}, {"a|b", "c"}, {"a", "b|c"}, {"1:a|b", "c"}} {
		k := key(join, request("A", pair[0], "B", pair[1]))
		assert.False(t, seen[k], "%v has the key %q of another pair", pair, k)
		seen[k] = true
	}
	assert.Equal(t, "error", key(join, request("A", "a")))
}

// Who asks by himself can tell a request that has no key, which is the client's, from a store
// that fails.
func TestErrNoKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, ratelimit.NewMemoryStore(), ratelimit.PerHour(1), nil)
		c := newConcurrency(t, ratelimit.NewMemoryStore(), 1, nil)
		failing := newPolicy(t, &brokenStore{}, ratelimit.Policy{Limits: []ratelimit.Limit{ratelimit.PerHour(1)}, FailClosed: true},
			&ratelimit.Options{Logger: slog.New(slog.DiscardHandler)})
		none := func(*http.Request) (string, error) { return "", nil }
		ask := func(f ratelimit.KeyFunc) func() error {
			return func() error { _, err := f(request()); return err }
		}
		for name, call := range map[string]func() error{
			"Allow":    func() error { _, err := l.Allow(t.Context(), ""); return err },
			"AtMost":   func() error { _, err := l.AtMost(t.Context(), 2, ""); return err },
			"Peek":     func() error { _, err := l.Peek(t.Context(), ""); return err },
			"Acquire":  func() error { _, err := c.Acquire(t.Context(), ""); return err },
			"ByHeader": ask(ratelimit.ByHeader("X-API-Key")),
			"ByUser":   ask(ratelimit.ByUser(none, nil)),
			"ByRoute":  ask(ratelimit.ByRoute),
			"Join":     ask(ratelimit.Join(none, ratelimit.Everybody)),
		} {
			assert.ErrorIs(t, call(), ratelimit.ErrNoKey, name)
		}
		_, err := failing.Allow(t.Context(), "a")
		assert.Error(t, err)
		assert.NotErrorIs(t, err, ratelimit.ErrNoKey)
	})
}
