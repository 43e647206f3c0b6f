package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alexedwards/scs/goredisstore"
	"github.com/alexedwards/scs/v2"
	"github.com/boj/redistore"
	ginsessions "github.com/gin-contrib/sessions"
	ginredis "github.com/gin-contrib/sessions/redis"
	"github.com/gin-gonic/gin"
	"github.com/gofiber/fiber/v3"
	fibersession "github.com/gofiber/fiber/v3/middleware/session"
	fiberredis "github.com/gofiber/storage/redis/v3"
	gorilla "github.com/gorilla/sessions"
	"github.com/herdless/herdless/bench/internal/report"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
	"github.com/redis/go-redis/v9"
)

// A session has ten values. Reading reads one; writing gives it a value that it
// has not had.
const (
	sessionValues = 10
	theValue      = "value3"
	valueLength   = 100
	// bigLength of the nine others makes a session of 64 KiB.
	bigLength = (64<<10 - valueLength) / (sessionValues - 1)
)

// connections are as many as goroutines at most, for clients that take a number.
const connections = 128

// valuesOf are a new session's values; those that are not read or written have so
// many bytes.
func valuesOf(length int) map[string]string {
	values := map[string]string{}
	for i := range sessionValues {
		values[fmt.Sprint("value", i)] = strings.Repeat(strconv.Itoa(i), length)
	}
	values[theValue] = numbered(0)
	return values
}

// numbered returns a value of valueLength that tells n.
func numbered(n int64) string { return fmt.Sprintf("%0*d", valueLength, n) }

// shop is what every session application here does, on any library:
//
//	/new    stores all values
//	/read   answers "ok" if the value is one that was written
//	/write  stores another value, and answers "ok"
//	/show   answers with the value
//
// It is handed the library's session of the request.
type shop struct {
	values  map[string]string
	written atomic.Int64
}

// bag is a session as a library gives it to a handler.
type bag interface {
	get(name string) (string, error)
	set(name, value string) error
	// save is for libraries that do not save by themselves.
	save() error
}

func (s *shop) answer(path string, b bag) (string, error) {
	switch path {
	case "/new":
		for name, v := range s.values {
			if err := b.set(name, v); err != nil {
				return "", err
			}
		}
		return "ok", b.save()
	case "/read":
		v, err := b.get(theValue)
		if err == nil && len(v) != valueLength {
			err = fmt.Errorf("read %q, which nobody has written", v)
		}
		return "ok", err
	case "/write":
		if err := b.set(theValue, numbered(s.written.Add(1))); err != nil {
			return "", err
		}
		return "ok", b.save()
	default:
		return b.get(theValue)
	}
}

// serveHTTP is the handler for net/http and gin.
func (s *shop) serveHTTP(w http.ResponseWriter, r *http.Request, b bag) {
	text, err := s.answer(r.URL.Path, b)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write([]byte(text))
}

var errNoValue = errors.New("the session has no such value")

// herdlessBag is herdless's.
type herdlessBag struct{ r *http.Request }

func (b herdlessBag) get(name string) (v string, err error) {
	ok, err := session.FromContext(b.r.Context()).Get(b.r.Context(), name, &v)
	if err == nil && !ok {
		err = errNoValue
	}
	return v, err
}

func (b herdlessBag) set(name, value string) error {
	return session.FromContext(b.r.Context()).Set(b.r.Context(), name, value)
}

func (herdlessBag) save() error { return nil }

func herdlessSessions(addr string, s *shop) (site, func(), error) {
	rdb, err := openRedis(addr)
	if err != nil {
		return nil, nil, err
	}
	m, err := session.New(redisstore.New(rdb, nil), &session.Options{MaxBytes: 1 << 20})
	if err != nil {
		return nil, nil, err
	}
	return httpSite{m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.serveHTTP(w, r, herdlessBag{r})
	}))}, func() { _ = rdb.Close() }, nil
}

// scsBag is that of alexedwards/scs.
type scsBag struct {
	m   *scs.SessionManager
	ctx context.Context
}

func (b scsBag) get(name string) (string, error) {
	if v := b.m.GetString(b.ctx, name); v != "" {
		return v, nil
	}
	return "", errNoValue
}

func (b scsBag) set(name, value string) error { b.m.Put(b.ctx, name, value); return nil }
func (scsBag) save() error                    { return nil }

func scsSessions(addr string, s *shop) (site, func(), error) {
	rdb := newClient(addr)
	m := scs.New()
	m.Store = goredisstore.New(rdb)
	return httpSite{m.LoadAndSave(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.serveHTTP(w, r, scsBag{m, r.Context()})
	}))}, func() { _ = rdb.Close() }, nil
}

// ginBag is that of gin-contrib/sessions.
type ginBag struct{ s ginsessions.Session }

func (b ginBag) get(name string) (string, error) {
	v, ok := b.s.Get(name).(string)
	if !ok {
		return "", errNoValue
	}
	return v, nil
}

func (b ginBag) set(name, value string) error { b.s.Set(name, value); return nil }
func (b ginBag) save() error                  { return b.s.Save() }

var cookieKey = []byte("0123456789abcdef0123456789abcdef")

func ginSessions(addr string, s *shop) (site, func(), error) {
	store, err := ginredis.NewStore(connections, "tcp", addr, "", "", cookieKey)
	if err != nil {
		return nil, nil, err
	}
	inner, err := ginredis.GetRedisStore(store)
	if err != nil {
		return nil, nil, err
	}
	inner.SetMaxLength(0) // 4 KiB by default
	e := gin.New()
	e.Use(ginsessions.Sessions("session", store))
	e.NoRoute(func(c *gin.Context) {
		c.Status(http.StatusOK)
		s.serveHTTP(c.Writer, c.Request, ginBag{ginsessions.Default(c)})
	})
	return httpSite{e}, func() { _ = inner.Close() }, nil
}

// gorillaBag is that of gorilla/sessions, with boj/redistore.
type gorillaBag struct {
	s *gorilla.Session
	w http.ResponseWriter
	r *http.Request
}

func (b gorillaBag) get(name string) (string, error) {
	v, ok := b.s.Values[name].(string)
	if !ok {
		return "", errNoValue
	}
	return v, nil
}

func (b gorillaBag) set(name, value string) error { b.s.Values[name] = value; return nil }
func (b gorillaBag) save() error                  { return b.s.Save(b.r, b.w) }

func gorillaSessions(addr string, s *shop) (site, func(), error) {
	store, err := redistore.NewRediStore(connections, "tcp", addr, "", "", cookieKey)
	if err != nil {
		return nil, nil, err
	}
	store.SetMaxLength(0)
	return httpSite{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sess, err := store.Get(r, "session")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		s.serveHTTP(w, r, gorillaBag{sess, w, r})
	})}, func() { _ = store.Close() }, nil
}

// fiberBag is that of fiber's session middleware, which saves at the end of
// each request.
type fiberBag struct{ m *fibersession.Middleware }

func (b fiberBag) get(name string) (string, error) {
	v, ok := b.m.Get(name).(string)
	if !ok {
		return "", errNoValue
	}
	return v, nil
}

func (b fiberBag) set(name, value string) error { b.m.Set(name, value); return nil }
func (fiberBag) save() error                    { return nil }

func fiberSessions(addr string, s *shop) (site, func(), error) {
	rdb := newClient(addr)
	app := fiber.New()
	app.Use(fibersession.New(fibersession.Config{Storage: fiberredis.NewFromConnection(rdb)}))
	app.Use(func(c fiber.Ctx) error {
		text, err := s.answer(c.Path(), fiberBag{fibersession.FromContext(c)})
		if err != nil {
			return err
		}
		return c.SendString(text)
	})
	return fastSite{app.Handler()}, func() { _ = rdb.Close() }, nil
}

// sessionLibrary is a site with sessions.
type sessionLibrary struct {
	name string
	kind report.Kind
	open func(addr string, s *shop) (site, func(), error)
}

var sessionLibraries = []sessionLibrary{
	{"herdless", report.Ours, herdlessSessions},
	{"alexedwards/scs", report.Peer, scsSessions},
	{"gin-contrib/sessions", report.Peer, ginSessions},
	{"gorilla/sessions", report.Peer, gorillaSessions},
	{"gofiber session", report.Peer, fiberSessions},
}

// sessionEntrants ask for path, with a session for each worker, whose other
// values have so many bytes.
func sessionEntrants(path string, length int) []entrant {
	var out []entrant
	for _, lib := range sessionLibraries {
		out = append(out, entrant{name: lib.name, kind: lib.kind, open: func(addr string) (*opened, error) {
			s := &shop{values: valuesOf(length)}
			web, closeSite, err := lib.open(addr, s)
			if err != nil {
				return nil, err
			}
			var v visitors
			return &opened{
				worker: func(int) (op, error) { return v.enter(web, path) },
				check:  func() error { return v.check(web, path == "/write") },
				close:  closeSite,
			}, nil
		}})
	}
	return out
}

// visitors are the sessions of an application, and what is known of them.
type visitors struct {
	mu  sync.Mutex
	all []*visitor
}

type visitor struct {
	cookies  []*http.Cookie
	requests int64
	seen     int64 // requests at the last check
	value    int64 // the value at the last check
}

// enter begins a session, and returns requests of it.
func (v *visitors) enter(web site, path string) (op, error) {
	a, err := must200(web, "/new", nil)
	if err != nil {
		return nil, err
	}
	if len(a.cookies) == 0 {
		return nil, errors.New("no cookie for a new session")
	}
	one := &visitor{cookies: a.cookies}
	v.mu.Lock()
	v.all = append(v.all, one)
	v.mu.Unlock()
	do := web.requests(path, a.cookies, len("ok"))
	return func() error {
		one.requests++
		return do()
	}, nil
}

// check reads every session again. A value that was written has grown since the
// last time, and one that was only read has not changed.
func (v *visitors) check(web site, written bool) error {
	for _, one := range v.all {
		a, err := must200(web, "/show", one.cookies)
		if err != nil {
			return err
		}
		value, err := strconv.ParseInt(string(a.body), 10, 64)
		if err != nil || len(a.body) != valueLength {
			return fmt.Errorf("the session has %q: %w", a.body, err)
		}
		if grown, asked := value > one.value, written && one.requests > one.seen; grown != asked {
			return fmt.Errorf("the session's value was %d and is %d, after %d requests", one.value, value, one.requests-one.seen)
		}
		one.seen, one.value = one.requests, value
	}
	return nil
}

// The floors read and write a session as one string.
func sessionKey(worker int) string { return "floor:" + strconv.Itoa(worker) }

func fillSessions(ctx context.Context, rdb *redis.Client) error {
	for i := range connections {
		if err := rdb.Set(ctx, sessionKey(i), strings.Repeat("x", sessionValues*valueLength), time.Hour).Err(); err != nil {
			return err
		}
	}
	return nil
}

func readSession(ctx context.Context, rdb redis.Cmdable, worker int) error {
	s, err := rdb.Get(ctx, sessionKey(worker)).Result()
	if err == nil && len(s) != sessionValues*valueLength {
		err = errNoValue
	}
	return err
}

func writeSession(ctx context.Context, rdb redis.Cmdable, worker int) error {
	key := sessionKey(worker)
	s, err := rdb.Get(ctx, key).Result()
	if err != nil {
		return err
	}
	return rdb.Set(ctx, key, s, time.Hour).Err()
}

var plainHandler = entrant{name: "handler without session", kind: report.Floor, local: true, open: func(string) (*opened, error) {
	web := httpSite{http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) })}
	return &opened{worker: func(int) (op, error) { return web.requests("/read", nil, len("ok")), nil }, close: func() {}}, nil
}}

func sessionScenarios() []scenario {
	loads := goroutines(1, 16, 128)
	return []scenario{
		{
			id: "session-read", title: "Session: read one value", headline: "ops", loads: loads,
			text: "A request with a session cookie, through the middleware, whose handler reads one of ten values of 100 bytes. " +
				"The floors read the ten values as one string. gofiber's middleware saves each session at the end of each request.",
			entrants: slices.Concat(sessionEntrants("/read", valueLength), raw("raw GET", fillSessions, readSession), []entrant{plainHandler}),
		},
		{
			id: "session-write", title: "Session: write one value", headline: "ops", loads: loads,
			text:     "As before, but the handler sets one of the ten values to one that it has not had. The floors read and write the session as one string.",
			entrants: slices.Concat(sessionEntrants("/write", valueLength), raw("raw GET and SET", fillSessions, writeSession)),
		},
		{
			id: "session-write-64k", title: "Session: write one value of a session of 64 KiB", headline: "ops", loads: goroutines(1, 128),
			text:     "As before; the nine values that are not written make the session 64 KiB large.",
			entrants: sessionEntrants("/write", bigLength),
		},
	}
}
