package session_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/herdless/herdless/session"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestNewReportsAllFaultsAtOnce(t *testing.T) {
	_, err := session.New(nil, &session.Options{
		IdleTimeout: -1, AbsoluteTimeout: -1, SlideEvery: 1, MaxBytes: -1, Key: []byte("short"),
		CookieName: "a b", SameSite: http.SameSiteDefaultMode,
	})
	for _, part := range []string{
		"the store is nil", "IdleTimeout", "AbsoluteTimeout", "SlideEvery", "MaxBytes", "Key has 5 bytes", `CookieName "a b"`, "SameSite",
	} {
		assert.ErrorContains(t, err, part)
	}
	_, err = session.New((*session.MemoryStore)(nil), &session.Options{Codec: (*nilCodec)(nil)})
	assert.ErrorContains(t, err, "the store is nil")
	assert.ErrorContains(t, err, "Codec is a nil *session_test.nilCodec")
}

func TestHandlerNeedsAHandler(t *testing.T) {
	m, err := session.New(session.NewMemoryStore(), nil)
	require.NoError(t, err)
	assert.PanicsWithValue(t, "session: Manager.Handler needs a handler to wrap, and got nil", func() { m.Handler(nil) })
}

type nilCodec struct{ session.Codec }

func TestNumbersOfSecondsAreNoTimeouts(t *testing.T) {
	_, err := session.New(session.NewMemoryStore(), &session.Options{IdleTimeout: 1800, AbsoluteTimeout: 86400})
	assert.ErrorContains(t, err, "session: IdleTimeout is 1.8µs: write 1800 * time.Second for seconds")
	assert.ErrorContains(t, err, "session: AbsoluteTimeout is 86.4µs: write 86400 * time.Second for seconds")

	m := newManager(t, session.NewMemoryStore(), nil)
	h := m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		s := m.Session(r.Context())
		assert.ErrorContains(t, s.SetTimeouts(r.Context(), 1800, 86400, true), "idle timeout is 1.8µs: write 1800 * time.Second")
		assert.ErrorContains(t, s.SetTimeouts(r.Context(), 1800, time.Hour, true), "idle timeout is 1.8µs: write 1800 * time.Second")
	}))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
}

func TestNewRefusesWhatBrowsersWould(t *testing.T) {
	store := session.NewMemoryStore()
	for _, o := range []session.Options{
		{DangerouslyAllowHTTP: true, CookieName: "__Host-session"},
		{DangerouslyAllowHTTP: true, CookieName: "__secure-session"},
		{DangerouslyAllowHTTP: true, SameSite: http.SameSiteNoneMode},
		{IdleTimeout: 48 * time.Hour},
		{Key: []byte{}},
	} {
		_, err := session.New(store, &o)
		assert.Error(t, err, "%+v", o)
	}
	_, err := session.New(store, &session.Options{AbsoluteTimeout: time.Minute})
	assert.NoError(t, err, "the default IdleTimeout must give way")
}

func TestCookieOptions(t *testing.T) {
	for _, tt := range []struct {
		o    session.Options
		want http.Cookie
	}{
		{
			session.Options{DangerouslyAllowHTTP: true},
			http.Cookie{Name: "session", SameSite: http.SameSiteLaxMode},
		},
		{
			session.Options{CookieName: "sid", SameSite: http.SameSiteStrictMode},
			http.Cookie{Name: "sid", Secure: true, SameSite: http.SameSiteStrictMode},
		},
		{
			session.Options{SameSite: http.SameSiteNoneMode},
			http.Cookie{Name: "__Host-session", Secure: true, SameSite: http.SameSiteNoneMode},
		},
	} {
		m := newManager(t, session.NewMemoryStore(), &tt.o)
		s := m.Load(httptest.NewRequest(http.MethodGet, "/", nil))
		require.NoError(t, s.Login(t.Context(), "alice"))
		got := commit(t, m, s)
		require.NoError(t, got.Valid())
		tt.want.Value, tt.want.Path, tt.want.HttpOnly = got.Value, "/", true
		got.Raw = ""
		assert.Equal(t, tt.want, *got)

		require.NoError(t, s.Destroy(t.Context()))
		expired := commit(t, m, s)
		tt.want.Value, tt.want.MaxAge = "", -1
		expired.Raw = ""
		assert.Equal(t, tt.want, *expired, "the cookie must be taken back as it was given, in the same response too")
		assert.Nil(t, commit(t, m, s))
	}
}

func TestKeySeparates(t *testing.T) {
	store := session.NewMemoryStore()
	key := []byte("0123456789abcdef0123456789abcdef")
	ours := newManager(t, store, &session.Options{Key: key})
	public := newManager(t, store, nil)
	cookie := logIn(t, ours, "alice")
	copied := key[0]
	key[0] = 'x'
	assert.Equal(t, "alice", visit(t, ours, cookie), "New must copy the key")
	assert.Empty(t, visit(t, public, cookie))

	key[0] = copied
	assert.Equal(t, "alice", visit(t, newManager(t, store, &session.Options{Key: key}), cookie),
		"servers with the same key must share their sessions")

	// Who can write to the store and knows no key makes up no session.
	made := logIn(t, public, "mallory")
	assert.Empty(t, visit(t, ours, made))
}
