package adaptertest

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"testing"

	"github.com/herdless/herdless/internal/respwriter"
)

func shorten(v any) string {
	s := fmt.Sprintf("%q", fmt.Sprint(v))
	if len(s) > 120 {
		s = s[:120] + "…"
	}
	return s
}

func checkTransparent(t *testing.T, s *suite) {
	bare, watched := s.serve(t, nil), s.serve(t, newWatcher().middleware)
	s.each(t, func(t *testing.T, method, path string) {
		sameAnswer(t, bare.ask(t, method, path), watched.ask(t, method, path))
	})
	t.Run("GET /silent", func(t *testing.T) {
		sameAnswer(t, bare.ask(t, "GET", "/silent"), watched.ask(t, "GET", "/silent"))
	})
	for _, path := range []string{"/write", "/length", "/no/such/route"} {
		t.Run("HEAD "+path, func(t *testing.T) {
			sameAnswer(t, bare.ask(t, "HEAD", path), watched.ask(t, "HEAD", path))
		})
	}
}

func sameAnswer(t *testing.T, want, got answer) {
	t.Helper()
	equal(t, "status", want.status, got.status)
	equal(t, "body", want.body, got.body)
	equal(t, "Content-Length", want.length, got.length)
	if !maps.EqualFunc(want.header, got.header, slices.Equal) {
		t.Errorf("headers: want %v, got %v", want.header, got.header)
	}
}

func checkSeesEverything(t *testing.T, s *suite) {
	o := newWatcher()
	srv := s.serve(t, o.middleware)
	s.each(t, func(t *testing.T, method, path string) {
		client := srv.ask(t, method, path)
		mw := o.last(t)
		equal(t, "status", client.status, mw.status)
		equal(t, "body", client.body, mw.body.String())
	})
}

func checkNothing(t *testing.T, s *suite) {
	o := newWatcher()
	client := s.serve(t, o.middleware).ask(t, "GET", "/silent")
	mw := o.last(t)
	equal(t, "status that the middleware saw", 0, mw.status)
	equal(t, "what the middleware saw", 0, len(mw.events))
	equal(t, "status that the client got", 200, client.status)
	equal(t, "header of the handler", "silent", client.header.Get("X-Handler"))
}

// hook is a middleware that acts right before the first final header.
func hook(act func(w http.ResponseWriter, status int) bool) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rw := respwriter.New(w, func(status int) bool { return act(w, status) })
			next.ServeHTTP(rw, r)
			rw.Finish()
		})
	}
}

func checkHook(t *testing.T, s *suite) {
	srv := s.serve(t, hook(func(w http.ResponseWriter, status int) bool {
		w.Header().Set("X-Hook", fmt.Sprint(status))
		return true
	}))
	check := func(t *testing.T, method, path string) {
		client := srv.ask(t, method, path)
		equal(t, "header that the hook set", fmt.Sprint(client.status), client.header.Get("X-Hook"))
	}
	s.each(t, check)
	for _, path := range []string{"/silent", "/hints", "/hints-only"} {
		t.Run("GET "+path, func(t *testing.T) { check(t, "GET", path) })
	}
}

func checkReplaced(t *testing.T, s *suite) {
	srv := s.serve(t, hook(func(w http.ResponseWriter, _ int) bool {
		clear(w.Header())
		w.WriteHeader(http.StatusBadGateway)
		_, _ = io.WriteString(w, "replaced")
		return false
	}))
	check := func(t *testing.T, method, path string) {
		client := srv.ask(t, method, path)
		equal(t, "status", http.StatusBadGateway, client.status)
		equal(t, "body", "replaced", client.body)
		equal(t, "header of the handler", "", client.header.Get("X-Handler"))
	}
	s.each(t, check)
	for _, path := range []string{"/silent", "/hints"} {
		t.Run("GET "+path, func(t *testing.T) { check(t, "GET", path) })
	}
}

func checkShortCircuit(t *testing.T, s *suite) {
	answers := map[string]struct {
		handler http.HandlerFunc
		status  int
		body    string
	}{
		"status and body": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, "who are you?")
		}, 401, "who are you?"},
		"body":   {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "from the cache") }, 200, "from the cache"},
		"status": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }, 404, ""},
		"first status counts": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			w.WriteHeader(http.StatusOK)
		}, 403, ""},
		"flush":   {func(w http.ResponseWriter, _ *http.Request) { _ = http.NewResponseController(w).Flush() }, 200, ""},
		"nothing": {func(http.ResponseWriter, *http.Request) {}, 200, ""},
	}
	for name, a := range answers {
		srv := s.serve(t, func(http.Handler) http.Handler { return a.handler })
		for _, path := range []string{"/panic", "/no/such/route"} {
			t.Run(name+" for "+path, func(t *testing.T) {
				client := srv.ask(t, "GET", path)
				equal(t, "status", a.status, client.status)
				equal(t, "body", a.body, client.body)
			})
		}
	}
}

// nowhere is a writer that keeps everything to itself.
type nowhere struct{ header http.Header }

func (n nowhere) Header() http.Header         { return n.header }
func (n nowhere) WriteHeader(int)             {}
func (n nowhere) Write(p []byte) (int, error) { return len(p), nil }

func checkSwallowed(t *testing.T, s *suite) {
	srv := s.serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(nowhere{make(http.Header)}, r)
			if r.URL.Query().Has("answer") {
				_, _ = io.WriteString(w, "instead")
			}
		})
	})
	for _, path := range []string{"/write", "/created", "/no/such/route"} {
		t.Run(path, func(t *testing.T) {
			client := srv.ask(t, "GET", path)
			equal(t, "status", 200, client.status)
			equal(t, "body", "", client.body)
			client = srv.ask(t, "GET", path+"?answer")
			equal(t, "status", 200, client.status)
			equal(t, "body", "instead", client.body)
		})
	}
}

// recovering is a middleware that makes a 500 of a panic.
func recovering(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				http.Error(w, fmt.Sprintf("recovered: %v", v), http.StatusInternalServerError)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

func checkPanic(t *testing.T, s *suite) {
	o := newWatcher()
	srv := s.serve(t, func(next http.Handler) http.Handler { return recovering(o.middleware(next)) })
	client := srv.ask(t, "GET", "/panic")
	equal(t, "status", 500, client.status)
	equal(t, "body", "recovered: the handler's value\n", client.body)
	mw := o.last(t)
	equal(t, "panic that the middleware saw", any("the handler's value"), mw.panicked)
	equal(t, "status that it saw", 0, mw.status)
}

func checkAbort(t *testing.T, s *suite) {
	for _, path := range []string{"/abort", "/abort-midway"} {
		t.Run(path, func(t *testing.T) {
			o := newWatcher()
			client, err := s.serve(t, o.middleware).try(t.Context(), "GET", path)
			if err == nil {
				t.Errorf("the client took this for a complete response: %+v", client)
			}
			mw := o.last(t)
			if err, _ := mw.panicked.(error); !errors.Is(err, http.ErrAbortHandler) {
				t.Errorf("the middleware saw the panic %v", mw.panicked)
			}
		})
	}
}
