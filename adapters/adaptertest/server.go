package adaptertest

import (
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// patience is how long anything may take before it counts as stuck.
const patience = 20 * time.Second

// suite is one run over one protocol.
type suite struct {
	Adapter
	proto string
}

// server is the application behind a real server.
type server struct {
	*httptest.Server
	gate chan struct{}
}

// serve starts the application with mw around it, or without any.
func (s *suite) serve(t *testing.T, mw func(http.Handler) http.Handler) *server {
	t.Helper()
	gate := make(chan struct{})
	routes := append(plainRoutes(), specialRoutes(gate)...)
	srv := httptest.NewUnstartedServer(s.New(t, mw, append(routes, s.Native...)))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	if s.proto == "HTTP/2.0" {
		srv.EnableHTTP2 = true
		srv.StartTLS()
	} else {
		srv.Start()
	}
	srv.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	srv.Client().Timeout = 2 * patience
	t.Cleanup(srv.Close)
	return &server{srv, gate}
}

// answer is what the client got.
type answer struct {
	status int
	header http.Header
	body   string
	length int64
}

// ask sends a request and reads the whole answer.
func (srv *server) ask(t *testing.T, method, path string) answer {
	t.Helper()
	got, err := srv.try(context.Background(), method, path)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return got
}

func (srv *server) try(ctx context.Context, method, path string) (answer, error) {
	var body io.Reader
	if method == http.MethodPost {
		body = strings.NewReader("request body")
	}
	req, err := http.NewRequestWithContext(ctx, method, srv.URL+path, body)
	if err != nil {
		return answer{}, err
	}
	res, err := srv.Client().Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	res.Header.Del("Date")
	return answer{res.StatusCode, res.Header, string(got), res.ContentLength}, err
}

// requests are those requests whose answers are the same every time.
func (s *suite) requests() []Route {
	return append(append(plainRoutes(), s.Native...),
		Route{Method: "GET", Path: "/no/such/route"},
		Route{Method: "POST", Path: "/no/such/route"},
		Route{Method: "DELETE", Path: "/write"}, // known, but with another method
	)
}

// each runs f for each of the requests as a subtest.
func (s *suite) each(t *testing.T, f func(t *testing.T, method, path string)) {
	t.Helper()
	for _, r := range s.requests() {
		t.Run(r.Method+" "+r.Path, func(t *testing.T) { f(t, r.Method, r.Path) })
	}
}

func equal[T comparable](t *testing.T, what string, want, got T) {
	t.Helper()
	if want != got {
		t.Errorf("%s: want %s, got %s", what, shorten(want), shorten(got))
	}
}
