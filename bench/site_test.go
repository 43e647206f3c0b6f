package bench

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/herdless/herdless/adapters/redisconn"
	"github.com/herdless/herdless/bench/internal/report"
	"github.com/redis/go-redis/v9"
	"github.com/valyala/fasthttp"
)

func init() { gin.SetMode(gin.ReleaseMode) }

// openRedis returns a client as herdless's documentation has it.
func openRedis(addr string) (*redis.Client, error) {
	rdb, err := redisconn.Open("redis://" + addr)
	if err != nil {
		return nil, err
	}
	return rdb.(*redis.Client), nil
}

// site is a web application that is driven without a network, or served on one.
type site interface {
	// do makes one request and returns the whole answer.
	do(path string, cookies []*http.Cookie) (answer, error)
	// requests returns requests for a path that cost as little as possible
	// besides the site's own work. Each must be answered with 200 and so many
	// bytes.
	requests(path string, cookies []*http.Cookie, length int) op
	// client returns a client that asks for a path, and tells the status and whether
	// the body is that one. It has all that it needs before it asks: of many that
	// ask at once on two cores, what they do themselves would be half of the time.
	client(path string, body []byte) func() (status int, same bool)
	// serve answers on a listener until it is closed.
	serve(l net.Listener) error
}

type answer struct {
	status  int
	cookies []*http.Cookie
	body    []byte
}

const origin = "http://example.com"

// httpSite is an http.Handler.
type httpSite struct{ http.Handler }

func newRequest(path string, cookies []*http.Cookie) *http.Request {
	r := httptest.NewRequest(http.MethodGet, path, nil) // to example.com
	for _, c := range cookies {
		r.AddCookie(c)
	}
	return r
}

func (s httpSite) do(path string, cookies []*http.Cookie) (answer, error) {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, newRequest(path, cookies))
	return answer{w.Code, w.Result().Cookies(), w.Body.Bytes()}, nil
}

func (s httpSite) requests(path string, cookies []*http.Cookie, length int) op {
	template := newRequest(path, cookies)
	r := new(http.Request)
	w := &sink{header: make(http.Header)}
	return func() error {
		*r = *template // some packages hang something on the request
		clear(w.header)
		w.status, w.length = 0, 0
		s.ServeHTTP(w, r)
		if w.status == 0 {
			w.status = http.StatusOK
		}
		if w.status != http.StatusOK || w.length != length {
			return fmt.Errorf("%s was answered with %d and %d bytes, not with 200 and %d", path, w.status, w.length, length)
		}
		return nil
	}
}

func (s httpSite) client(path string, body []byte) func() (int, bool) {
	r := newRequest(path, nil)
	w := &sink{header: make(http.Header), want: body}
	return func() (int, bool) {
		clear(w.header)
		w.status, w.length, w.differs = 0, 0, false
		s.ServeHTTP(w, r)
		return cmp.Or(w.status, http.StatusOK), !w.differs && w.length == len(body)
	}
}

func (s httpSite) serve(l net.Listener) error {
	server := &http.Server{Handler: s, ReadHeaderTimeout: time.Minute}
	if err := server.Serve(l); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return server.Close()
}

// sink is a ResponseWriter that costs as little as possible.
type sink struct {
	header         http.Header
	status, length int
	want           []byte // the body that is expected, if one is
	differs        bool
}

func (s *sink) Header() http.Header { return s.header }

func (s *sink) Write(p []byte) (int, error) {
	if s.want != nil {
		s.differs = s.differs || !bytes.HasPrefix(s.want[min(s.length, len(s.want)):], p)
	}
	s.length += len(p)
	return len(p), nil
}

func (s *sink) WriteString(p string) (int, error) {
	if s.want != nil {
		return s.Write([]byte(p))
	}
	s.length += len(p)
	return len(p), nil
}

// WriteHeader takes no notice of informational responses.
func (s *sink) WriteHeader(status int) {
	if s.status == 0 && status >= http.StatusOK {
		s.status = status
	}
}

// Flush is here because servers' writers have it.
func (s *sink) Flush() {}

// fastSite is a handler of fasthttp, which fiber stands on.
type fastSite struct{ handle fasthttp.RequestHandler }

func (s fastSite) prepare(path string, cookies []*http.Cookie) *fasthttp.RequestCtx {
	ctx := new(fasthttp.RequestCtx)
	ctx.Init(&fasthttp.Request{}, nil, nil)
	ctx.Request.Header.SetMethod(http.MethodGet)
	ctx.Request.SetRequestURI(origin + path)
	for _, c := range cookies {
		ctx.Request.Header.SetCookie(c.Name, c.Value)
	}
	return ctx
}

func (s fastSite) do(path string, cookies []*http.Cookie) (answer, error) {
	ctx := s.prepare(path, cookies)
	s.handle(ctx)
	a := answer{status: ctx.Response.StatusCode(), body: bytes.Clone(ctx.Response.Body())}
	for _, value := range ctx.Response.Header.Cookies() {
		c, err := http.ParseSetCookie(string(value))
		if err != nil {
			return a, err
		}
		a.cookies = append(a.cookies, c)
	}
	return a, nil
}

func (s fastSite) requests(path string, cookies []*http.Cookie, length int) op {
	ctx := s.prepare(path, cookies)
	return func() error {
		ctx.Response.Reset()
		ctx.ResetUserValues()
		s.handle(ctx)
		if status, n := ctx.Response.StatusCode(), len(ctx.Response.Body()); status != http.StatusOK || n != length {
			return fmt.Errorf("%s was answered with %d and %d bytes, not with 200 and %d", path, status, n, length)
		}
		return nil
	}
}

func (s fastSite) client(path string, body []byte) func() (int, bool) {
	ctx := s.prepare(path, nil)
	return func() (int, bool) {
		ctx.Response.Reset()
		ctx.ResetUserValues()
		s.handle(ctx)
		return ctx.Response.StatusCode(), bytes.Equal(ctx.Response.Body(), body)
	}
}

func (s fastSite) serve(l net.Listener) error {
	err := (&fasthttp.Server{Handler: s.handle}).Serve(l)
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// must200 makes one request and returns its answer, or an error if it failed.
func must200(s site, path string, cookies []*http.Cookie) (answer, error) {
	a, err := s.do(path, cookies)
	if err == nil && a.status != http.StatusOK {
		err = fmt.Errorf("%s was answered with %d: %.200s", path, a.status, a.body)
	}
	return a, err
}

// raw are two entrants that are a command and no more: each alone, and by
// go-redis's automatic pipelining. worker numbers the goroutine.
func raw(name string, prepare func(ctx context.Context, rdb *redis.Client) error, do func(ctx context.Context, rdb redis.Cmdable, worker int) error) []entrant {
	entrants := make([]entrant, 2)
	for i, piped := range []bool{false, true} {
		entrants[i] = entrant{name: name, kind: report.Floor, open: func(addr string) (*opened, error) {
			rdb := newClient(addr)
			if err := prepare(context.Background(), rdb); err != nil {
				return nil, err
			}
			var client redis.Cmdable = rdb
			if piped {
				p, err := rdb.AutoPipeline()
				if err != nil {
					return nil, err
				}
				client = p
			}
			return &opened{
				worker: func(i int) (op, error) {
					return func() error { return do(context.Background(), client, i) }, nil
				},
				close: func() { _ = rdb.Close() },
			}, nil
		}}
	}
	entrants[1].name += ", automatic pipelining"
	return entrants
}
