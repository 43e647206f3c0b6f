package ginadapter_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	ginadapter "github.com/herdless/herdless/adapters/gin"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
)

const sessionCookie = "__Host-session"

// routes are handlers by path. With gin, they write to gin's writer.
type routes map[string]func(w http.ResponseWriter, r *http.Request, s *session.Session)

var routers = map[string]func(m *session.Manager, routes routes) http.Handler{
	"net/http": func(m *session.Manager, routes routes) http.Handler {
		mux := http.NewServeMux()
		for path, h := range routes {
			mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { h(w, r, session.FromContext(r.Context())) })
		}
		return m.Handler(mux)
	},
	"gin": func(m *session.Manager, routes routes) http.Handler {
		r := gin.New()
		r.Use(ginadapter.Wrap(m.Handler))
		for path, h := range routes {
			r.Any(path, func(c *gin.Context) { h(c.Writer, c.Request, ginadapter.Session(c)) })
		}
		return r
	},
}

// everywhere runs test with both routers, over HTTP/1.1 and HTTP/2, on both
// stores.
func everywhere(t *testing.T, routes routes, test func(t *testing.T, node *node)) {
	for router, build := range routers {
		for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
			for _, kind := range []string{"memory", "redis"} {
				t.Run(router+" "+protocol+" "+kind, func(t *testing.T) {
					var store session.Store = session.NewMemoryStore()
					if kind == "redis" {
						store = redisstore.New(redistest.Standalone(t).Client(t), &redisstore.Options{Prefix: redistest.Prefix(t)})
					}
					m, err := session.New(store, &session.Options{Logger: slog.New(slog.DiscardHandler)})
					require.NoError(t, err)
					other, err := session.New(store, nil)
					require.NoError(t, err)
					srv := httptest.NewUnstartedServer(build(m, routes))
					srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
					srv.EnableHTTP2 = protocol == "HTTP/2.0"
					srv.StartTLS()
					t.Cleanup(srv.Close)
					test(t, &node{srv, t, other, protocol})
				})
			}
		}
	}
}

type node struct {
	*httptest.Server
	t        *testing.T
	other    *session.Manager // of another node
	protocol string
}

// visitor returns a client with a cookie jar.
func (n *node) visitor() *http.Client {
	jar, err := cookiejar.New(nil)
	require.NoError(n.t, err)
	client := *n.Client()
	client.Jar = jar
	return &client
}

// ask returns the response to a request, and its body as far as it came.
func (n *node) ask(client *http.Client, method, path string, trace *httptrace.ClientTrace) (res *http.Response, body string, err error) {
	n.t.Helper()
	ctx := httptrace.WithClientTrace(n.t.Context(), trace)
	req, err := http.NewRequestWithContext(ctx, method, n.URL+path, nil)
	require.NoError(n.t, err)
	res, err = client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	assert.Equal(n.t, n.protocol, res.Proto)
	b, err := io.ReadAll(res.Body)
	return res, string(b), err
}

func (n *node) get(client *http.Client, path string) (*http.Response, string) {
	n.t.Helper()
	res, body, err := n.ask(client, http.MethodGet, path, &httptrace.ClientTrace{})
	require.NoError(n.t, err)
	return res, body
}

func (n *node) value(client *http.Client) string {
	n.t.Helper()
	_, body := n.get(client, "/value")
	return body
}

func sessionCookies(res *http.Response) (found []*http.Cookie) {
	for _, c := range res.Cookies() {
		if c.Name == sessionCookie {
			found = append(found, c)
		}
	}
	return found
}

func writeValue(w http.ResponseWriter, r *http.Request, s *session.Session) {
	var v string
	_, _ = s.Get(r.Context(), "a", &v)
	_, _ = io.WriteString(w, v)
}

func setValue(r *http.Request, s *session.Session, v string) { _ = s.Set(r.Context(), "a", v) }

// However a handler answers, the cookie precedes the first byte of the response,
// and what was set is there for the next request.
func TestTheCookiePrecedesTheFirstByteThroughRouters(t *testing.T) {
	ways := map[string]func(w http.ResponseWriter) (body string){
		"nothing": func(http.ResponseWriter) string { return "" },
		"write":   func(w http.ResponseWriter) string { fmt.Fprint(w, "body"); return "body" },
		"string":  func(w http.ResponseWriter) string { _, _ = io.WriteString(w, "body"); return "body" },
		"204":     func(w http.ResponseWriter) string { w.WriteHeader(http.StatusNoContent); return "" },
		"hints": func(w http.ResponseWriter) string {
			w.Header().Set("Link", "</style.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			fmt.Fprint(w, "body")
			return "body"
		},
		"hints-flush": func(w http.ResponseWriter) string {
			w.WriteHeader(http.StatusEarlyHints)
			_ = http.NewResponseController(w).Flush()
			fmt.Fprint(w, "body")
			return "body"
		},
		"hints-only": func(w http.ResponseWriter) string { w.WriteHeader(http.StatusEarlyHints); return "" },
		"flush": func(w http.ResponseWriter) string {
			_ = http.NewResponseController(w).Flush()
			fmt.Fprint(w, "body")
			return "body"
		},
		"flusher": func(w http.ResponseWriter) string { w.(http.Flusher).Flush(); return "" },
		"copy": func(w http.ResponseWriter) string {
			_, _ = io.Copy(w, strings.NewReader("body"))
			return "body"
		},
		"copy-long": func(w http.ResponseWriter) string {
			long := strings.Repeat("long body ", 10_000)
			_, _ = io.Copy(w, strings.NewReader(long))
			return long
		},
		"copy-file": func(w http.ResponseWriter) string {
			f, err := os.Open("go.mod")
			if err != nil {
				return ""
			}
			defer f.Close()
			_, _ = io.Copy(w, f)
			all, _ := os.ReadFile("go.mod")
			return string(all)
		},
		"error": func(w http.ResponseWriter) string { http.Error(w, "no", http.StatusTeapot); return "no\n" },
	}
	wanted := map[string]string{}
	all := routes{"/value": writeValue}
	for name, respond := range ways {
		wanted[name] = respond(discardWriter{http.Header{}})
		all["/way/"+name] = func(w http.ResponseWriter, r *http.Request, s *session.Session) {
			setValue(r, s, name)
			respond(w)
		}
	}
	everywhere(t, all, func(t *testing.T, n *node) {
		for name, want := range wanted {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				client := n.visitor()
				var early []textproto.MIMEHeader
				res, body, err := n.ask(client, method, "/way/"+name, &httptrace.ClientTrace{Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
					early = append(early, h)
					return nil
				}})
				require.NoError(t, err, name)
				assert.Len(t, sessionCookies(res), 1, "%s %s", method, name)
				if method == http.MethodGet {
					assert.Equal(t, want, body, name)
				}
				assert.Equal(t, "private", res.Header.Get("Cache-Control"), name)
				assert.Equal(t, name, n.value(client))
				assert.Len(t, early, strings.Count(name, "hints"), "%s: early hints must pass", name)
				for _, h := range early {
					assert.Empty(t, h["Set-Cookie"], "the cookie belongs to the final header")
				}
			}
		}
	})
}

// discardWriter tells what a handler would write.
type discardWriter struct{ header http.Header }

func (d discardWriter) Header() http.Header         { return d.header }
func (d discardWriter) Write(p []byte) (int, error) { return len(p), nil }
func (d discardWriter) WriteHeader(int)             {}
func (d discardWriter) Flush()                      {}

// A handler that panics leaves nothing half-written: no session, and no cookie
// where the header was not out yet.
func TestAPanicLeavesNothing(t *testing.T) {
	everywhere(t, routes{
		"/value": writeValue,
		"/set":   func(_ http.ResponseWriter, r *http.Request, s *session.Session) { setValue(r, s, "old") },
		"/panic": func(_ http.ResponseWriter, r *http.Request, s *session.Session) {
			setValue(r, s, "new")
			panic(http.ErrAbortHandler)
		},
		"/panic-later": func(w http.ResponseWriter, r *http.Request, s *session.Session) {
			setValue(r, s, "first")
			fmt.Fprint(w, "half")
			_ = http.NewResponseController(w).Flush()
			setValue(r, s, "second")
			panic(http.ErrAbortHandler)
		},
	}, func(t *testing.T, n *node) {
		known := n.visitor()
		n.get(known, "/set")
		for _, client := range []*http.Client{known, n.visitor()} {
			_, _, err := n.ask(client, http.MethodGet, "/panic", &httptrace.ClientTrace{})
			require.Error(t, err)
		}
		assert.Equal(t, "old", n.value(known))
		for _, client := range []*http.Client{known, n.visitor()} {
			res, body, err := n.ask(client, http.MethodGet, "/panic-later", &httptrace.ClientTrace{})
			require.Error(t, err, "the response must not look whole")
			require.NotNil(t, res)
			assert.Equal(t, "half", body)
			assert.Equal(t, "first", n.value(client), "what was saved with the header stays, what came later was never saved")
		}
	})
}

// A connection that is taken over has the cookie among the headers, and the
// session was saved before; where it cannot be, the handler answers as usual.
func TestASessionOfAHijackedConnection(t *testing.T) {
	everywhere(t, routes{
		"/value": writeValue,
		"/hijack": func(w http.ResponseWriter, r *http.Request, s *session.Session) {
			setValue(r, s, "1")
			conn, buf, err := http.NewResponseController(w).Hijack()
			if err != nil {
				http.Error(w, "cannot", http.StatusNotImplemented)
				return
			}
			defer conn.Close()
			fmt.Fprint(buf, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: test\r\nConnection: upgrade\r\n")
			_ = w.Header().Write(buf)
			fmt.Fprint(buf, "\r\nhello\n")
			_ = buf.Flush()
		},
	}, func(t *testing.T, n *node) {
		client := n.visitor()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL+"/hijack", nil)
		require.NoError(t, err)
		if n.protocol == "HTTP/1.1" {
			req.Header.Set("Connection", "Upgrade")
			req.Header.Set("Upgrade", "test")
		}
		res, err := client.Do(req)
		require.NoError(t, err)
		defer res.Body.Close()
		line, err := bufio.NewReader(res.Body).ReadString('\n')
		require.NoError(t, err)
		if n.protocol == "HTTP/1.1" {
			assert.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
			assert.Equal(t, "hello\n", line)
		} else {
			assert.Equal(t, http.StatusNotImplemented, res.StatusCode)
			assert.Equal(t, "cannot\n", line)
		}
		require.Len(t, sessionCookies(res), 1)
		assert.Equal(t, "1", n.value(client))
	})
}

// An event stream begins with the cookie, ends with its session, and what is set
// while it runs is saved.
func TestAnEventStream(t *testing.T) {
	everywhere(t, routes{
		"/value": writeValue,
		"/login": func(_ http.ResponseWriter, r *http.Request, s *session.Session) { _ = s.Login(r.Context(), "alice") },
		"/stream": func(w http.ResponseWriter, r *http.Request, s *session.Session) {
			ctx, stop, err := s.Context(r.Context())
			if err != nil {
				http.Error(w, "no", http.StatusServiceUnavailable)
				return
			}
			defer stop()
			setValue(r, s, "begun")
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "data: 0\n\n")
			_ = http.NewResponseController(w).Flush()
			setValue(r, s, "on")
			_ = s.Save(r.Context())
			for i := 1; ; i++ {
				select {
				case <-ctx.Done():
					fmt.Fprintf(w, "data: %v\n\n", context.Cause(ctx))
					return
				case <-time.After(5 * time.Millisecond):
					fmt.Fprintf(w, "data: %d\n\n", i)
					_ = http.NewResponseController(w).Flush()
				}
			}
		},
	}, func(t *testing.T, n *node) {
		client := n.visitor()
		n.get(client, "/login")
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL+"/stream", nil)
		require.NoError(t, err)
		res, err := client.Do(req)
		require.NoError(t, err)
		defer res.Body.Close()
		assert.Equal(t, "private", res.Header.Get("Cache-Control"))
		lines := bufio.NewScanner(res.Body)
		for lines.Scan() && lines.Text() != "data: 3" {
			continue
		}
		assert.Equal(t, "on", n.value(client))

		revoked, err := n.other.RevokeAll(t.Context(), "alice")
		require.NoError(t, err)
		require.Equal(t, 1, revoked)
		last := ""
		for lines.Scan() {
			if lines.Text() != "" {
				last = lines.Text()
			}
		}
		require.NoError(t, lines.Err(), "the handler has ended the stream")
		assert.Equal(t, "data: "+session.ErrGone.Error(), last)
		assert.Empty(t, n.value(client))
	})
}

// What is no token of ours is nobody's, and is not echoed.
func TestHostileCookiesThroughRouters(t *testing.T) {
	everywhere(t, routes{
		"/value": writeValue,
		"/set":   func(_ http.ResponseWriter, r *http.Request, s *session.Session) { setValue(r, s, "x") },
	}, func(t *testing.T, n *node) {
		res, _ := n.get(n.visitor(), "/set")
		require.Len(t, sessionCookies(res), 1)
		set := sessionCookies(res)[0]
		assert.Equal(t, fmt.Sprintf("%s=%s; Path=/; HttpOnly; Secure; SameSite=Lax", sessionCookie, set.Value), set.Raw)
		pair := sessionCookie + "=" + set.Value
		for _, tt := range []struct{ name, cookies, want string }{
			{"the good one", pair, "x"},
			{"a bad one first", sessionCookie + "=bad; " + pair, "x"},
			{"one of 200", strings.Repeat(sessionCookie+"="+strings.Repeat("A", 20)+"; ", 199) + pair, "x"},
			{"empty", sessionCookie + "=", ""},
			{"6 kB", sessionCookie + "=" + strings.Repeat("<", 6<<10), ""},
			{"percent", strings.Replace(pair, ".", "%2e", 1), ""},
			{"not UTF-8", sessionCookie + "=" + set.Value[:40] + "\xff" + set.Value[41:], ""},
			{"another name", strings.Replace(pair, "__Host-", "__Secure-", 1), ""},
		} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL+"/value", nil)
			require.NoError(t, err)
			req.Header.Set("Cookie", tt.cookies)
			res, err := n.Client().Do(req)
			require.NoError(t, err)
			body, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			res.Body.Close()
			assert.Equal(t, http.StatusOK, res.StatusCode, tt.name)
			assert.Equal(t, tt.want, string(body), tt.name)
			assert.Empty(t, res.Cookies(), tt.name)
		}
	})
}

// Visits and logouts of nobody begin no session.
func TestVisitsOfNobody(t *testing.T) {
	everywhere(t, routes{
		"/value":  writeValue,
		"/logout": func(_ http.ResponseWriter, r *http.Request, s *session.Session) { _ = s.Destroy(r.Context()) },
	}, func(t *testing.T, n *node) {
		client := n.visitor()
		for range 10 {
			for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
				for _, path := range []string{"/value", "/logout", "/unknown"} {
					res, _, err := n.ask(client, method, path, &httptrace.ClientTrace{})
					require.NoError(t, err)
					assert.Empty(t, res.Cookies())
				}
			}
		}
	})
}
