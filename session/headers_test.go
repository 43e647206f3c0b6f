package session_test

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/herdless/herdless/session"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheCookiePrecedesTheFirstByte(t *testing.T) {
	respond := map[string]func(w http.ResponseWriter) error{
		"nothing":     func(http.ResponseWriter) error { return nil },
		"Write":       func(w http.ResponseWriter) error { _, err := w.Write([]byte("body")); return err },
		"WriteString": func(w http.ResponseWriter) error { _, err := io.WriteString(w, "body"); return err },
		"status":      func(w http.ResponseWriter) error { w.WriteHeader(http.StatusTeapot); return nil },
		"204":         func(w http.ResponseWriter) error { w.WriteHeader(http.StatusNoContent); return nil },
		"flush":       func(w http.ResponseWriter) error { return http.NewResponseController(w).Flush() },
		"copy":        func(w http.ResponseWriter) error { _, err := io.Copy(w, strings.NewReader("body")); return err },
		"103": func(w http.ResponseWriter) error {
			w.Header().Set("Link", "</style.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			_, err := w.Write([]byte("body"))
			return err
		},
	}
	onBothStores(t, func(t *testing.T, store session.Store) {
		for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
			s := newSite(t, store, nil)
			if protocol == "HTTP/2.0" {
				s = overHTTP2(t, s)
			}
			for name, fn := range respond {
				s.handle("/respond/"+name, func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
					assert.NoError(t, sess.Set(r.Context(), "a", name))
					_ = fn(w) // HTTP/2 refuses the body of a HEAD
					return nil
				})
			}
			for name := range respond {
				for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
					b := s.browser()
					var early []textproto.MIMEHeader
					trace := &httptrace.ClientTrace{Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
						early = append(early, h)
						return nil
					}}
					req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), method, s.URL+"/respond/"+name, nil)
					require.NoError(t, err)
					res, err := b.Do(req)
					require.NoError(t, err)
					res.Body.Close()
					assert.Equal(t, protocol, res.Proto)
					assert.Len(t, reply{Response: res}.sessionCookies(), 1, "%s %s %s", protocol, method, name)
					assert.Equal(t, name, b.ok("/get?name=a"))
					for _, h := range early {
						assert.Empty(t, h["Set-Cookie"], "the cookie belongs to the final header")
					}
					assert.Len(t, early, strings.Count(name, "103"), "early hints must pass")
				}
			}
		}
	})
}

// overHTTP2 starts s again with HTTP/2.
func overHTTP2(t *testing.T, s *site) *site {
	srv := httptest.NewUnstartedServer(s.Config.Handler)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	s.Close()
	s.Server = srv
	return s
}

func TestHijack(t *testing.T) {
	s := newSite(t, session.NewMemoryStore(), nil)
	s.handle("/hijack", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
		require.NoError(t, sess.Set(r.Context(), "a", "1"))
		conn, buf, err := http.NewResponseController(w).Hijack()
		require.NoError(t, err)
		defer conn.Close()
		assert.NoError(t, sess.Set(r.Context(), "a", "2"))
		// Who hijacks writes the header, of which the cookie is a part by now.
		io.WriteString(buf, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: test\r\nConnection: upgrade\r\n")
		w.Header().Write(buf)
		io.WriteString(buf, "\r\nhello\n")
		return buf.Flush()
	})
	s.handle("/hijack-then-read", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
		conn, buf, err := http.NewResponseController(w).Hijack()
		require.NoError(t, err)
		defer conn.Close()
		var v string
		_, err = sess.Get(r.Context(), "a", &v)
		io.WriteString(buf, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: test\r\nConnection: upgrade\r\n\r\n"+v+"\n")
		assert.NoError(t, err, "nobody caches a connection: it is not too late for a first use")
		return buf.Flush()
	})
	upgrade := func(path string, b *browser) (reply, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+path, nil)
		require.NoError(t, err)
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", "test")
		res, err := b.Do(req)
		require.NoError(t, err)
		defer res.Body.Close()
		line, err := bufio.NewReader(res.Body).ReadString('\n')
		require.NoError(t, err)
		return reply{Response: res}, line
	}
	b := s.browser()
	res, line := upgrade("/hijack", b)
	assert.Equal(t, "hello\n", line)
	assert.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	require.Len(t, res.sessionCookies(), 1)
	require.Eventually(t, func() bool { return b.ok("/get?name=a") == "2" }, 10*time.Second, time.Millisecond, "a change after the hijacking must be saved at the end")
	_, line = upgrade("/hijack-then-read", b)
	assert.Equal(t, "2\n", line)
}

func TestResponsesAreMarkedPrivate(t *testing.T) {
	const untouched = "untouched"
	for _, tt := range []struct {
		name         string
		set, want    map[string]string // "" for no such header
		cacheControl string
	}{
		{name: "nothing set", want: map[string]string{"Cache-Control": "private", "Vary": "Cookie"}},
		{
			name: "private already", set: map[string]string{"Cache-Control": "private, max-age=60"},
			want: map[string]string{"Cache-Control": "private, max-age=60"},
		},
		{
			name: "no-store", set: map[string]string{"Cache-Control": "no-store"},
			want: map[string]string{"Cache-Control": "no-store"},
		},
		{
			name: "public", set: map[string]string{"Cache-Control": "public, max-age=60, s-maxage=3600"},
			want: map[string]string{"Cache-Control": "private, max-age=60"},
		},
		{
			name: "public in capitals", set: map[string]string{"Cache-Control": "PUBLIC , S-MaxAge = 3600,Must-Revalidate"},
			want: map[string]string{"Cache-Control": "private, Must-Revalidate"},
		},
		{
			name: "public and no-store", set: map[string]string{"Cache-Control": "public, no-store"},
			want: map[string]string{"Cache-Control": "no-store"},
		},
		{
			name: "private for a field", set: map[string]string{"Cache-Control": `private="x-a, public, no-store", max-age=1`},
			want: map[string]string{"Cache-Control": "private, max-age=1"},
		},
		{
			name: "no-store in a string", set: map[string]string{"Cache-Control": `ext="a\", no-store, b", max-age=1`},
			want: map[string]string{"Cache-Control": `private, ext="a\", no-store, b", max-age=1`},
		},
		{
			name: "broken", set: map[string]string{"Cache-Control": `ext="a, no-store`},
			want: map[string]string{"Cache-Control": `private, ext="a, no-store`},
		},
		{
			name: "for shared caches alone", set: map[string]string{
				"CDN-Cache-Control": "max-age=60", "Cloudflare-CDN-Cache-Control": "max-age=60", "Surrogate-Control": "max-age=60",
			},
			want: map[string]string{
				"Cache-Control": "private", "CDN-Cache-Control": "", "Cloudflare-CDN-Cache-Control": "", "Surrogate-Control": "",
			},
		},
		{
			name: "Vary", set: map[string]string{"Vary": "Accept-Language"},
			want: map[string]string{"Vary": "Accept-Language|Cookie"},
		},
		{name: "Vary with Cookie", set: map[string]string{"Vary": "Accept, cookie"}, want: map[string]string{"Vary": "Accept, cookie"}},
		{name: "Vary: *", set: map[string]string{"Vary": "*"}, want: map[string]string{"Vary": "*"}},
		{
			name: untouched, set: map[string]string{"Cache-Control": "public, s-maxage=60", "CDN-Cache-Control": "max-age=60"},
			want: map[string]string{"Cache-Control": "public, s-maxage=60", "CDN-Cache-Control": "max-age=60", "Vary": ""},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newManager(t, session.NewMemoryStore(), nil)
			h := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if tt.name != untouched {
					_, err := session.FromContext(r.Context()).User(r.Context())
					require.NoError(t, err)
				}
				for name, value := range tt.set {
					w.Header().Set(name, value)
				}
			}))
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/", nil))
			for name, want := range tt.want {
				assert.Equal(t, want, strings.Join(rec.Result().Header.Values(name), "|"), name)
			}
			assert.Empty(t, rec.Result().Cookies())
		})
	}
}

// Whatever a handler says, a response that depends on a session is private.
func FuzzResponsesAreMarkedPrivate(f *testing.F) {
	for _, s := range []string{"", "public", `private="a", s-maxage=1`, `x="`, `\",public`, "no-store"} {
		f.Add(s)
	}
	m, err := session.New(session.NewMemoryStore(), nil)
	require.NoError(f, err)
	s := m.Load(httptest.NewRequest(http.MethodGet, "/", nil))
	_, err = s.User(f.Context())
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, cacheControl string) {
		h := http.Header{"Cache-Control": {cacheControl}}
		s.MarkResponse(h)
		got := h.Get("Cache-Control")
		// Either private comes first, where nothing can hide it, or the handler
		// has said no-store.
		if got != "private" && !strings.HasPrefix(got, "private, ") && !strings.Contains(strings.ToLower(got), "no-store") {
			t.Errorf("Cache-Control %q became %q", cacheControl, got)
		}
		again := h.Clone()
		s.MarkResponse(again)
		assert.Equal(t, h, again, "marking it twice must change nothing")
	})
}

func TestASecondHandlerOfTheSameManagerIsNoOther(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(), nil)
	inner := m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		require.NoError(t, session.FromContext(r.Context()).Set(r.Context(), "a", 1))
	}))
	h := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		require.NoError(t, session.FromContext(r.Context()).Login(r.Context(), "alice"))
		inner.ServeHTTP(w, r)
	}))
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/", nil))
	assert.Len(t, rec.Result().Cookies(), 1)
}

// Fields by which caches in front go before Cache-Control do not let them keep what depends
// on a session.
func TestFieldsForOneCacheOnly(t *testing.T) {
	s := newSite(t, session.NewMemoryStore(), nil)
	fields := map[string]string{
		"X-Accel-Expires": "60", "Edge-Control": "cache-maxage=60", "Surrogate-Control": "max-age=60",
		"CDN-Cache-Control": "max-age=60", "Cloudflare-CDN-Cache-Control": "max-age=60",
	}
	s.handle("/page", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
		for name, value := range fields {
			w.Header().Set(name, value)
		}
		_, err := sess.User(r.Context())
		return err
	})
	h := s.browser().get("/page").Header
	for name := range fields {
		assert.Empty(t, h.Get(name), name)
	}
}
