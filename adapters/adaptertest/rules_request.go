package adaptertest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
)

func checkRequest(t *testing.T, s *suite) {
	t.Run("context, headers and body", func(t *testing.T) {
		srv := s.serve(t, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r = r.Clone(context.WithValue(r.Context(), ctxKey{}, "value"))
				r.Header.Set("X-Middleware", "was here")
				next.ServeHTTP(w, r)
			})
		})
		equal(t, "body", `context value, header "was here", body "REQUEST BODY"`, srv.ask(t, "POST", "/request").body)
	})
	t.Run("replaced body", func(t *testing.T) {
		srv := s.serve(t, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.Body = io.NopCloser(strings.NewReader("another"))
				next.ServeHTTP(w, r)
			})
		})
		equal(t, "body", `context <nil>, header "", body "ANOTHER"`, srv.ask(t, "POST", "/request").body)
	})
	t.Run("limited body", func(t *testing.T) {
		srv := s.serve(t, func(next http.Handler) http.Handler { return http.MaxBytesHandler(next, 4) })
		equal(t, "status", http.StatusRequestEntityTooLarge, srv.ask(t, "POST", "/request").status)
	})
}

func checkEarlyHints(t *testing.T, s *suite) {
	for path, body := range map[string]string{"/hints": "page", "/hints-only": ""} {
		t.Run(path, func(t *testing.T) {
			o := newWatcher()
			srv := s.serve(t, o.middleware)
			var links []string
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
				Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
					links = append(links, h.Get("Link"))
					return nil
				},
			})
			client, err := srv.try(ctx, "GET", path)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "status", 200, client.status)
			equal(t, "body", body, client.body)
			if !slices.Equal(links, []string{"</style.css>; rel=preload"}) {
				t.Errorf("Link headers of the 1xx responses that the client got: %q", links)
			}
			if mw := o.last(t); !slices.Equal(mw.interim, []int{103}) {
				t.Errorf("1xx responses that the middleware saw: %v", mw.interim)
			}
		})
	}
}

func checkStreaming(t *testing.T, s *suite) {
	o := newWatcher()
	srv := s.serve(t, o.middleware)
	ctx, cancel := context.WithTimeout(t.Context(), patience/2) // less than the handler waits for
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", srv.URL+"/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatalf("no header while the handler runs: %v", err)
	}
	defer res.Body.Close()
	first := make([]byte, len("first "))
	if _, err := io.ReadFull(res.Body, first); err != nil {
		t.Fatalf("no first byte while the handler runs: %v", err)
	}
	close(srv.gate)
	rest, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "body", "first second", string(first)+string(rest))
	want := []string{"header 200", "write first ", "flush", "write second"}
	if got := o.last(t).events; !slices.Equal(want, got) {
		t.Errorf("the middleware saw %q, want %q", got, want)
	}
}

func checkHijack(t *testing.T, s *suite) {
	o := newWatcher()
	acted := make(chan int, 1)
	acting := hook(func(_ http.ResponseWriter, status int) bool { acted <- status; return true })
	srv := s.serve(t, func(next http.Handler) http.Handler { return o.middleware(acting(next)) })
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /hijack HTTP/1.1\r\nHost: x\r\n\r\n")
	got, err := io.ReadAll(bufio.NewReader(conn))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "what came over the connection", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhijacked", string(got))
	equal(t, "middleware saw the hijack", true, o.last(t).hijacked)
	equal(t, "status at the hook", http.StatusSwitchingProtocols, <-acted)
}

func checkHijackRefused(t *testing.T, s *suite) {
	srv := s.serve(t, hook(func(w http.ResponseWriter, status int) bool {
		w.Header().Set("X-Hook", fmt.Sprint(status))
		return true
	}))
	client := srv.ask(t, "GET", "/hijack")
	equal(t, "status", http.StatusNotImplemented, client.status)
	equal(t, "status at the hook", "501", client.header.Get("X-Hook"))
}

func checkController(t *testing.T, s *suite) {
	o := newWatcher()
	equal(t, "body", "error: <nil>", s.serve(t, o.middleware).ask(t, "GET", "/controller").body)
}

// replay calls next with a recorder.
func replay(next http.Handler, r *http.Request) answer {
	rec := httptest.NewRecorder()
	next.ServeHTTP(rec, r)
	return answer{status: rec.Code, body: rec.Body.String()}
}

// sameOr503 checks an answer to a call of next that a framework may refuse.
func sameOr503(t *testing.T, body string, got answer) {
	t.Helper()
	if got.status == http.StatusServiceUnavailable && got.body != body {
		return
	}
	equal(t, "status", 200, got.status)
	equal(t, "body", body, got.body)
}

func checkSecondNext(t *testing.T, s *suite) {
	answers := make(chan answer, 2)
	srv := s.serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			answers <- replay(next, r)
			answers <- replay(next, r)
		})
	})
	srv.ask(t, "GET", "/id?id=7")
	equal(t, "first", "id 7", (<-answers).body)
	sameOr503(t, "id 7", <-answers)
}

// crowd sends many requests at once and checks that each gets its own answer.
func crowd(t *testing.T, srv *server) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 10 {
				id := fmt.Sprintf("%d-%d", i, j)
				got, err := srv.try(t.Context(), "GET", "/id?id="+id)
				if err != nil {
					t.Error(err)
					return
				}
				equal(t, "body of another request", "id "+id, got.body)
			}
		})
	}
	wg.Wait()
}

func checkLateNext(t *testing.T, s *suite) {
	// next is called late, with or without having been called in time.
	for _, inTime := range []bool{true, false} {
		t.Run(fmt.Sprintf("called in time: %v", inTime), func(t *testing.T) {
			var mu sync.Mutex
			var late []func() answer
			srv := s.serve(t, func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Query().Has("late") {
						mu.Lock()
						late = append(late,
							func() answer { return replay(next, r.WithContext(context.WithoutCancel(r.Context()))) },
							func() answer { return replay(next, r.Clone(context.Background())) })
						mu.Unlock()
						if !inTime {
							_, _ = io.WriteString(w, "stale")
							return
						}
					}
					next.ServeHTTP(w, r)
				})
			})
			for range 10 {
				srv.ask(t, "GET", "/id?late&id=late")
			}
			mu.Lock()
			defer mu.Unlock()
			equal(t, "late calls", 20, len(late))
			var wg sync.WaitGroup
			for _, call := range late {
				wg.Go(func() { sameOr503(t, "id late", call()) })
			}
			crowd(t, srv)
			wg.Wait()
		})
	}
}

func checkOutlivingNext(t *testing.T, s *suite) {
	done := make(chan answer, 1)
	srv := s.serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/gated" {
				next.ServeHTTP(w, r)
				return
			}
			begun := make(chan struct{})
			go func() {
				close(begun)
				done <- replay(next, r.WithContext(context.WithoutCancel(r.Context())))
			}()
			<-begun
			_, _ = io.WriteString(w, "without waiting")
		})
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		got, err := srv.try(t.Context(), "GET", "/gated")
		if err != nil {
			t.Error(err)
		}
		equal(t, "body", "without waiting", got.body)
	})
	crowd(t, srv)
	close(srv.gate)
	wg.Wait()
	// The goroutine may have come too late, which is the rule "late next".
	sameOr503(t, "gated", <-done)
}
