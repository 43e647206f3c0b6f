package session_test

import (
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

// What requests cost, counted between the client and a real Redis, with the
// default prefix, whose length counts.
func TestRoundTripsAndBytes(t *testing.T) {
	proxy := redistest.NewProxy(t, redistest.NewStandalone(t).Addr())
	rdb := redis.NewClient(&redis.Options{Addr: proxy.Addr(), MaxRetries: -1})
	t.Cleanup(func() { rdb.Close() })
	s := newSite(t, redisstore.New(rdb, nil), nil)

	warm := s.browser() // Redis learns the scripts
	warm.ok("/set?name=step&value=address")
	warm.ok("/set?name=step&value=pay")
	warm.ok("/login?user=alice")
	warm.ok("/logout")

	b := s.browser()
	for i := range 12 { // 1.3 kB of values
		b.ok("/set?name=value-%02d&value=%s", i, strings.Repeat("x", 98))
	}
	b.ok("/set?name=step&value=address")
	forged := b.cookie()[:len(b.cookie())-1] + "_"
	if forged == b.cookie() {
		forged = forged[:len(forged)-1] + "-"
	}
	unknown := newSite(t, session.NewMemoryStore(), nil).browser()
	unknown.ok("/login?user=mallory")

	renewing := newSite(t, redisstore.New(rdb, nil), rotating(time.Hour))
	due := func() *browser { return renewing.with(aged(renewing)) }
	overdue := func() *browser { // with the token from before a rotation
		cookie := aged(renewing)
		renewing.raw("/user", cookieName+"="+cookie)
		return renewing.with(cookie)
	}
	overdue().ok("/user") // Redis learns another script

	for _, tt := range []struct {
		name, path string
		browser    *browser
		trips      int64
		bytesUp    int64
	}{
		{"anonymous, untouched", "/plain", s.browser(), 0, 0},
		{"anonymous, read", "/user", s.browser(), 0, 0},
		{"forged cookie", "/user", s.with(forged), 0, 0},
		{"untouched", "/plain", b, 0, 0},
		{"unknown token with a checksum", "/user", s.with(unknown.cookie()), 1, 150},
		{"read", "/get?name=step", b, 1, 150},
		{"equal write", "/set?name=step&value=address", b, 1, 150},
		{"one-field write", "/set?name=step&value=pay", b, 2, 400},
		{"renewal", "/renew", b, 2, 400},
		{"login, which moves the values", "/login?user=alice", b, 4, 3000},
		{"step up", "/login?user=alice", b, 2, 400},
		{"login of a visitor without a session", "/login?user=alice", s.browser(), 1, 600},
		{"logout", "/logout", b, 2, 260},
		{"first write", "/set?name=step&value=pay", s.browser(), 1, 400},
		{"read that rotates", "/get?name=step", due(), 2, 500},
		{"one-field write that rotates", "/set?name=step&value=pay", due(), 2, 550},
		{"read with the token before a rotation", "/get?name=step", overdue(), 2, 350},
		{"one-field write with the token before a rotation", "/set?name=step&value=pay", overdue(), 3, 650},
	} {
		proxy.Reset()
		tt.browser.ok("%s", tt.path)
		got := proxy.Stats()
		t.Logf("%-30s %d round trips, %3d bytes up, %4d down", tt.name, got.RoundTrips, got.BytesUp, got.BytesDown)
		assert.Equal(t, tt.trips, got.RoundTrips, "round trips of: %s", tt.name)
		assert.LessOrEqual(t, got.BytesUp, tt.bytesUp, "bytes up of: %s", tt.name)
	}
}

// Only a token that was given out, as it was given out, reaches the store.
func FuzzCookie(f *testing.F) {
	good := session.TokenFor("AAAAAAAAAAAAAAAAAAAAAAAA", make([]byte, 32))
	for _, s := range []string{"", ".", good, good[1:], good + "=", strings.Repeat(".", 73), "AAAAAAAAAAAAAAAAAAAAAA==" + good[24:]} {
		f.Add(s)
	}
	spy := &spy{Store: session.NewMemoryStore()}
	m, err := session.New(spy, nil)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, value string) {
		s := m.Load(request(value))
		user, err := s.User(t.Context())
		require.NoError(t, err)
		require.Empty(t, user)
		// The parser of net/http takes off spaces and quotes.
		if loads := spy.loads.Swap(0); loads > 0 && !strings.Contains(value, good) {
			id, secret := strings.Trim(value, ` "`)[:24], session.SecretOf(strings.Trim(value, ` "`))
			require.Contains(t, value, session.TokenFor(id, secret), "a token has one spelling")
		}
	})
}
