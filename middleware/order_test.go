package middleware_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/middleware"
	"github.com/herdless/herdless/middleware/clientip"
	"github.com/herdless/herdless/middleware/idempotency"
	"github.com/herdless/herdless/middleware/ratelimit"
	"github.com/herdless/herdless/middleware/traffic"
	"github.com/herdless/herdless/responsecache"
	"github.com/herdless/herdless/session"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The tests of this file show what the package documentation says of the order:
// each dangerous one does its damage here, next to the right one, which does not.

// site is one of each middleware, around handlers that know no order.
type site struct {
	sessions *session.Manager
	pages    *responsecache.Route
	once     *idempotency.Guard
	runs     int // of the handlers
}

var cart = session.NewKey[string]("cart")

func newSite(t *testing.T) *site {
	t.Helper()
	sessions, err := session.New(session.NewMemoryStore(), nil)
	require.NoError(t, err)
	pages, err := responsecache.New(cache.NewMemoryStore(nil), nil)
	require.NoError(t, err)

	once, err := idempotency.New(idempotency.NewMemoryStore(), func(r *http.Request) (string, error) {
		s := session.FromContext(r.Context())
		if s == nil {
			return "anybody", nil
		}
		return s.User(r.Context())
	}, time.Hour, nil)
	require.NoError(t, err)
	return &site{sessions: sessions, pages: pages.With(responsecache.Policy{TTL: time.Minute, Public: true}), once: once}
}

// greeting shows who is logged in.
func (s *site) greeting(w http.ResponseWriter, r *http.Request) {
	s.runs++
	user, err := session.FromContext(r.Context()).User(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintf(w, "hello %s", user)
}

// pay tells what was paid by whom.
func (s *site) pay(w http.ResponseWriter, r *http.Request) {
	s.runs++
	fmt.Fprintf(w, "payment %d of %s", s.runs, r.Header.Get("User"))
}

// login returns the cookie of a user who is logged in.
func (s *site) login(t *testing.T, user string) *http.Cookie {
	t.Helper()
	rec := httptest.NewRecorder()
	s.sessions.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		assert.NoError(t, session.FromContext(r.Context()).Login(r.Context(), user))
	})).ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "https://shop.example/login", nil))
	cookies := rec.Result().Cookies()
	require.Len(t, cookies, 1)
	return cookies[0]
}

// ask sends a request and returns the response and its body.
func ask(h http.Handler, method string, change ...func(*http.Request)) (*http.Response, string) {
	r := httptest.NewRequest(method, "https://shop.example/", nil)
	for _, c := range change {
		c(r)
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec.Result(), rec.Body.String()
}

func with(cookie *http.Cookie) func(*http.Request) {
	return func(r *http.Request) { r.AddCookie(cookie) }
}

func header(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func from(addr string) func(*http.Request) {
	return func(r *http.Request) { r.RemoteAddr = addr + ":1234" }
}

// Whatever rewrites Cache-Control between the session and a response cache
// outside of it takes away what keeps a user's page from the others.
func TestCacheControlMustNotBeRewrittenBetweenSessionAndCache(t *testing.T) {
	rewrite := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, r)
			for name, values := range rec.Header() {
				w.Header()[name] = values
			}
			w.Header().Del("Vary")
			w.Header().Set("Cache-Control", "public, max-age=60")
			w.WriteHeader(rec.Code)
			_, _ = w.Write(rec.Body.Bytes())
		})
	}
	greetings := func(order func(s *site) []middleware.Middleware) (ann, bob string) {
		s := newSite(t)
		h := middleware.Chain(order(s)...)(http.HandlerFunc(s.greeting))
		_, ann = ask(h, http.MethodGet, with(s.login(t, "ann")))
		_, bob = ask(h, http.MethodGet, with(s.login(t, "bob")))
		return ann, bob
	}

	_, bob := greetings(func(s *site) []middleware.Middleware {
		return []middleware.Middleware{s.pages.Handler, s.sessions.Handler}
	})
	assert.Equal(t, "hello bob", bob)
	_, bob = greetings(func(s *site) []middleware.Middleware {
		return []middleware.Middleware{s.pages.Handler, rewrite, s.sessions.Handler}
	})
	assert.Equal(t, "hello ann", bob, "this order is safe after all: correct the documentation")
}

// Who may see a page is to be asked outside of the cache, unless the session
// answers it: the cache knows of no other way to tell one client from another
// but Authorization and Vary.
func TestPermissionIsAskedOutsideOfTheCache(t *testing.T) {
	onlyOffice := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasPrefix(r.RemoteAddr, "10.") {
				http.Error(w, "not from there", http.StatusForbidden)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	stranger := func(order func(s *site) []middleware.Middleware) int {
		s := newSite(t)
		h := middleware.Chain(order(s)...)(page)
		res, _ := ask(h, http.MethodGet, from("10.0.0.1"))
		require.Equal(t, http.StatusOK, res.StatusCode)
		res, _ = ask(h, http.MethodGet, from("192.0.2.1"))
		return res.StatusCode
	}

	assert.Equal(t, http.StatusForbidden, stranger(func(s *site) []middleware.Middleware {
		return []middleware.Middleware{onlyOffice, s.pages.Handler}
	}))
	assert.Equal(t, http.StatusOK, stranger(func(s *site) []middleware.Middleware {
		return []middleware.Middleware{s.pages.Handler, onlyOffice}
	}), "this order is safe after all: correct the documentation")
}

// Outside of the session the keys of all users are one user's.
func TestIdempotencyKeysBelongInsideOfTheSession(t *testing.T) {
	payments := func(order func(s *site) []middleware.Middleware) (ann, bob string) {
		s := newSite(t)
		h := middleware.Chain(order(s)...)(http.HandlerFunc(s.pay))
		_, ann = ask(h, http.MethodPost, with(s.login(t, "ann")), header("Idempotency-Key", `"1"`), header("User", "ann"))
		_, bob = ask(h, http.MethodPost, with(s.login(t, "bob")), header("Idempotency-Key", `"1"`), header("User", "bob"))
		return ann, bob
	}

	_, bob := payments(func(s *site) []middleware.Middleware {
		return []middleware.Middleware{s.sessions.Handler, s.once.Handler}
	})
	assert.Equal(t, "payment 2 of bob", bob)
	_, bob = payments(func(s *site) []middleware.Middleware {
		return []middleware.Middleware{s.once.Handler, s.sessions.Handler}
	})
	assert.Equal(t, "payment 1 of ann", bob, "this order is safe after all: correct the documentation")
}

// Idempotency keys may stand outside of the rate limit, too: what it refuses is
// not taken for the response of the request, for as long as the key is
// remembered.
func TestARefusalIsNotReplayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		limiter, err := ratelimit.New(ratelimit.NewMemoryStore(), ratelimit.PerMinute(1), clientip.Key, nil)
		require.NoError(t, err)
		h := middleware.Chain(s.once.Handler, limiter.Handler)(http.HandlerFunc(s.pay))
		res, _ := ask(h, http.MethodPost)
		require.Equal(t, http.StatusOK, res.StatusCode)
		res, _ = ask(h, http.MethodPost, header("Idempotency-Key", `"1"`))
		require.Equal(t, http.StatusTooManyRequests, res.StatusCode)
		time.Sleep(time.Minute)
		res, _ = ask(h, http.MethodPost, header("Idempotency-Key", `"1"`))
		require.Equal(t, http.StatusOK, res.StatusCode)
	})
}

// A limit by user that stands outside of the session finds no user, and refuses
// everybody, so that the mistake is found by the first request, and not by the
// users who share one allowance.
func TestALimitByUserBelongsInsideOfTheSession(t *testing.T) {
	byUser := ratelimit.ByUser(func(r *http.Request) (string, error) { return session.FromContext(r.Context()).User(r.Context()) }, nil)
	statuses := func(order func(s *site, limit middleware.Middleware) []middleware.Middleware) []int {
		s := newSite(t)
		limiter, err := ratelimit.New(ratelimit.NewMemoryStore(), ratelimit.PerMinute(1), byUser, nil)
		require.NoError(t, err)
		h := middleware.Chain(order(s, limiter.Handler)...)(http.HandlerFunc(s.greeting))
		ann, bob := with(s.login(t, "ann")), with(s.login(t, "bob"))
		var out []int
		for _, user := range []func(*http.Request){ann, ann, bob} {
			res, _ := ask(h, http.MethodGet, user)
			out = append(out, res.StatusCode)
		}
		return out
	}

	assert.Equal(t, []int{http.StatusOK, http.StatusTooManyRequests, http.StatusOK}, statuses(func(s *site, limit middleware.Middleware) []middleware.Middleware {
		return []middleware.Middleware{s.sessions.Handler, limit}
	}))
	assert.Equal(t, []int{http.StatusServiceUnavailable, http.StatusServiceUnavailable, http.StatusServiceUnavailable}, statuses(func(s *site, limit middleware.Middleware) []middleware.Middleware {
		return []middleware.Middleware{limit, s.sessions.Handler}
	}))
}

// Recovery inside of the session hides from it that the handler broke, and what
// the handler had changed half is saved.
func TestRecoveryBelongsOutsideOfTheSession(t *testing.T) {
	recovery := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer func() {
				if recover() != nil {
					w.WriteHeader(http.StatusInternalServerError)
				}
			}()
			next.ServeHTTP(w, r)
		})
	}
	saved := func(order func(s *site) []middleware.Middleware) string {
		s := newSite(t)
		ann := s.login(t, "ann")
		ask(middleware.Chain(order(s)...)(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			assert.NoError(t, cart.Set(r.Context(), "half"))
			panic("broken")
		})), http.MethodPost, with(ann))
		_, body := ask(s.sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			v, err := cart.Get(r.Context())
			assert.NoError(t, err)
			fmt.Fprint(w, v)
		})), http.MethodGet, with(ann))
		return body
	}

	assert.Empty(t, saved(func(s *site) []middleware.Middleware {
		return []middleware.Middleware{recovery, s.sessions.Handler}
	}))
	assert.Equal(t, "half", saved(func(s *site) []middleware.Middleware {
		return []middleware.Middleware{s.sessions.Handler, recovery}
	}), "this order is safe after all: correct the documentation")
}

// Figures belong outside of the rate limit and the response cache. The other way round
// what is refused, and what the cache has, does not show.
func TestFiguresBelongOutside(t *testing.T) {
	for _, tt := range []struct {
		name                    string
		inside                  bool
		requests, refused, hits uint64
	}{
		{"outside", false, 10, 4, 5},
		{"inside, which is wrong", true, 1, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			figures, err := traffic.New(traffic.NewMemoryStore(), &traffic.Options{Node: "web", Interval: time.Hour})
			require.NoError(t, err)
			defer func() { require.NoError(t, figures.Close(context.Background())) }()
			limiter, err := ratelimit.New(ratelimit.NewMemoryStore(), ratelimit.PerHour(6), ratelimit.Everybody, &ratelimit.Options{Logger: slog.New(slog.DiscardHandler)})
			require.NoError(t, err)
			pages, err := responsecache.New(cache.NewMemoryStore(nil), nil)
			require.NoError(t, err)
			cached := pages.With(responsecache.Policy{TTL: time.Hour, Public: true}).Handler
			chain := middleware.Chain(figures.Handler, limiter.Handler, cached)
			if tt.inside {
				chain = middleware.Chain(limiter.Handler, cached, figures.Handler)
			}
			h := chain(page)
			for range 10 {
				h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "http://example.com/", nil))
			}
			require.NoError(t, figures.Flush(t.Context()))
			report, err := figures.Report(t.Context(), time.Now().Add(-time.Minute), time.Now().Add(time.Minute), traffic.UnitMinute)
			require.NoError(t, err)
			assert.Equal(t, tt.requests, report.Total.Requests())
			assert.Equal(t, tt.refused, report.Total.Status[3])
			assert.Equal(t, tt.hits, report.Total.CacheHits)
		})
	}
}

// Outside of the rate limit a hit is not counted.
func TestARateLimitInsideOfTheCacheCountsNoHits(t *testing.T) {
	answered := func(order func(s *site, limit middleware.Middleware) []middleware.Middleware) (n int) {
		s := newSite(t)
		limiter, err := ratelimit.New(ratelimit.NewMemoryStore(), ratelimit.PerHour(2), clientip.Key, nil)
		require.NoError(t, err)
		h := middleware.Chain(order(s, limiter.Handler)...)(page)
		for range 10 {
			if res, _ := ask(h, http.MethodGet); res.StatusCode == http.StatusOK {
				n++
			}
		}
		return n
	}

	assert.Equal(t, 2, answered(func(s *site, limit middleware.Middleware) []middleware.Middleware {
		return []middleware.Middleware{limit, s.pages.Handler}
	}))
	assert.Equal(t, 10, answered(func(s *site, limit middleware.Middleware) []middleware.Middleware {
		return []middleware.Middleware{s.pages.Handler, limit}
	}))
}

// Nor is what it tells one client for that one only, unless it tells nothing.
func TestARateLimitInsideOfTheCacheTellsAllClientsTheSame(t *testing.T) {
	told := func(o *ratelimit.Options) string {
		s := newSite(t)
		limiter, err := ratelimit.New(ratelimit.NewMemoryStore(), ratelimit.PerHour(2), clientip.Key, o)
		require.NoError(t, err)
		h := middleware.Chain(s.pages.Handler, limiter.Handler)(page)
		ask(h, http.MethodGet, from("192.0.2.1"))
		res, _ := ask(h, http.MethodGet, from("192.0.2.2"))
		return res.Header.Get("RateLimit")
	}

	assert.Contains(t, told(nil), "r=1", "what was left for the first client")
	assert.Empty(t, told(&ratelimit.Options{HideFields: true}))
}

// loads counts what a session store is asked for.
type loads struct {
	session.Store
	n int
}

func (l *loads) Load(ctx context.Context, id string, digest session.Digest) (session.Record, error) {
	l.n++
	return l.Store.Load(ctx, id, digest)
}

// Outside of the rate limit, who is to be refused makes the servers load
// sessions.
func TestTheRateLimitBelongsOutsideOfTheSession(t *testing.T) {
	loaded := func(order func(s *site, limit, touch middleware.Middleware) []middleware.Middleware) int {
		s, store := newSite(t), &loads{Store: session.NewMemoryStore()}
		var err error
		s.sessions, err = session.New(store, nil)
		require.NoError(t, err)
		limiter, err := ratelimit.New(ratelimit.NewMemoryStore(), ratelimit.PerHour(1), clientip.Key, nil)
		require.NoError(t, err)
		touch := func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = session.FromContext(r.Context()).User(r.Context())
				next.ServeHTTP(w, r)
			})
		}
		ann := s.login(t, "ann")
		store.n = 0
		h := middleware.Chain(order(s, limiter.Handler, touch)...)(page)
		for range 10 {
			ask(h, http.MethodGet, with(ann))
		}
		return store.n
	}

	assert.Equal(t, 1, loaded(func(s *site, limit, touch middleware.Middleware) []middleware.Middleware {
		return []middleware.Middleware{limit, s.sessions.Handler, touch}
	}))
	assert.Equal(t, 10, loaded(func(s *site, limit, touch middleware.Middleware) []middleware.Middleware {
		return []middleware.Middleware{s.sessions.Handler, touch, limit}
	}))
}

// eachMiddleware returns every middleware of this module, and some around one another.
func eachMiddleware(t *testing.T) map[string]middleware.Middleware {
	t.Helper()
	s := newSite(t)
	limiter, err := ratelimit.New(ratelimit.NewMemoryStore(), ratelimit.PerMinute(100), clientip.Key, nil)
	require.NoError(t, err)
	concurrency, err := ratelimit.NewConcurrency(ratelimit.NewMemoryStore(), "all", 10, clientip.Key, nil)
	require.NoError(t, err)
	recorder, err := traffic.New(traffic.NewMemoryStore(), nil)
	require.NoError(t, err)
	return map[string]middleware.Middleware{
		"nothing":     func(next http.Handler) http.Handler { return next },
		"session":     s.sessions.Handler,
		"limit":       limiter.Handler,
		"concurrency": concurrency.Handler,
		"idempotency": s.once.Handler,
		"cache":       s.pages.Handler,
		"traffic":     recorder.Handler,
		"all":         middleware.Chain(recorder.Handler, limiter.Handler, concurrency.Handler, s.sessions.Handler, s.pages.Handler),
	}
}
