package session_test

import (
	"fmt"
	"strings"
	"testing"

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
	warm.ok("/login?user=alice")
	warm.ok("/logout")

	b := s.browser()
	for i := range 12 { // 1.3 kB of values
		b.ok("/set?name=value-%02d&value=%s", i, strings.Repeat("x", 98))
	}
	b.ok("/set?name=step&value=address")
	forged := b.cookie()[:len(b.cookie())-1] + "_"
	unknown := newSite(t, session.NewMemoryStore(), nil).browser()
	unknown.ok("/login?user=mallory")

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
	} {
		proxy.Reset()
		tt.browser.ok("%s", tt.path)
		got := proxy.Stats()
		t.Logf("%-30s %d round trips, %3d bytes up, %4d down", tt.name, got.RoundTrips, got.BytesUp, got.BytesDown)
		assert.Equal(t, tt.trips, got.RoundTrips, "round trips of: %s", tt.name)
		assert.LessOrEqual(t, got.BytesUp, tt.bytesUp, "bytes up of: %s", tt.name)
	}
}

// Ten thousand visits and logouts of nobody leave nothing behind.
func TestAnonymousVisitsLeaveNothing(t *testing.T) {
	rdb := redistest.NewStandalone(t).Client(t)
	s := newSite(t, redisstore.New(rdb, nil), nil)
	for i := range 10_000 {
		res := s.raw([]string{"/plain", "/user", "/get?name=a", "/delete?name=a", "/renew", "/logout"}[i%6])
		require.Empty(t, res.Cookies())
	}
	keys, err := rdb.DBSize(t.Context()).Result()
	require.NoError(t, err)
	assert.Zero(t, keys)
	assert.Equal(t, [3]int64{}, s.spy.calls())
}

func TestHostileCookies(t *testing.T) {
	s := newSite(t, session.NewMemoryStore(), nil)
	b := s.browser()
	b.ok("/login?user=alice")
	good := b.cookie()
	s.spy.calls()

	hostile := map[string]string{
		"empty": "", "dot": ".", "6 kB": strings.Repeat("A", 6<<10), "6 kB of the right beginning": good + strings.Repeat("A", 6<<10),
		"NUL": good[:30] + "\x00" + good[31:], "not UTF-8": good[:30] + "\xff" + good[31:],
		"percent": strings.Replace(good, ".", "%2e", 1), "quoted inside": good[:30] + `"` + good[31:],
		"no dot": strings.Replace(good, ".", "A", 1), "two dots": good[:30] + "." + good[31:],
		"standard base64": strings.Repeat("+/", 12) + "." + strings.Repeat("+/", 24),
		"other checksum":  good[:len(good)-1] + string(good[len(good)-1]^1), "other secret": good[:27] + string(good[27]^1) + good[28:],
		"other id": string(good[0]^1) + good[1:], "other last bits": good[:72] + string(good[72]^1),
		"truncated": good[:len(good)-1], "longer": good + "A", "line break": good[:30] + "\n" + good[31:], "spaces": " " + good[1:],
		// With a checksum that somebody computed:
		"padding bits": session.TokenFor(strings.Repeat("A", 23)+"=", make([]byte, 32)),
		"braces":       session.TokenFor("{"+strings.Repeat("A", 22)+"}", make([]byte, 32)),
	}
	for name, value := range hostile {
		res := s.raw("/user", cookieName+"="+value)
		assert.Equal(t, 200, res.StatusCode, name)
		assert.Empty(t, res.body, "%s: nothing may come of it", name)
		assert.Empty(t, res.Header["Set-Cookie"], name)
		assert.Equal(t, [3]int64{}, s.spy.calls(), "%s: no round trip", name)
	}
	many := make([]string, 200)
	for i := range many {
		many[i] = fmt.Sprintf("%s=%s%03d", cookieName, good[:len(good)-3], i)
	}
	s.raw("/user", strings.Join(many, "; "))
	assert.Equal(t, [3]int64{}, s.spy.calls(), "200 cookies")

	for i := range many {
		many[i] = cookieName + "=" + session.TokenFor(good[:24], fmt.Appendf(nil, "%032d", i))
	}
	s.raw("/user", strings.Join(many, "; "))
	assert.Equal(t, [3]int64{4, 0, 0}, s.spy.calls(), "200 cookies whose checksum somebody computed must cost four loads at most")

	res := s.raw("/logout", cookieName+"=<script>")
	assert.Len(t, res.sessionCookies(), 1, "a logout must make the client forget a bad cookie too")
	assert.Equal(t, [3]int64{}, s.spy.calls())
	assert.NotContains(t, fmt.Sprint(res.Header), "script", "nothing may be reflected")
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
