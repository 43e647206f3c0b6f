package adaptertest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// ctxKey is the key of the context value that a middleware hands in.
type ctxKey struct{}

// big is more than any buffer on the way holds.
var big = strings.Repeat("0123456789abcdef", 16<<10)

// plainRoutes answer with one final response each, the same every time: the
// rules that compare ask all of them.
func plainRoutes() []Route {
	get := func(path string, h http.HandlerFunc) Route {
		return Route{Method: http.MethodGet, Path: path, Handler: h}
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	return []Route{
		get("/write", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Handler", "write")
			_, _ = w.Write([]byte("hello"))
		}),
		get("/write-string", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.(io.StringWriter).WriteString("hello")
		}),
		get("/writes", func(w http.ResponseWriter, _ *http.Request) {
			for i := range 100 {
				fmt.Fprintf(w, "line %d\n", i)
				_, _ = io.WriteString(w, "and a string\n")
			}
		}),
		get("/write-nothing", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(nil) }),
		get("/copy", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.Copy(w, struct{ io.Reader }{strings.NewReader(big)})
		}),
		get("/copy-nothing", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.Copy(w, struct{ io.Reader }{strings.NewReader("")})
			w.WriteHeader(http.StatusNotFound)
		}),
		get("/content", func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "page.txt", time.Unix(1e9, 0), strings.NewReader(big))
		}),
		get("/created", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusCreated)
			_, _ = w.Write([]byte(`{"id":1}`))
		}),
		get("/no-content", status(http.StatusNoContent)),
		get("/not-modified", status(http.StatusNotModified)),
		get("/empty-404", status(http.StatusNotFound)),
		get("/empty-500", status(http.StatusInternalServerError)),
		get("/header-and-status", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(http.StatusSeeOther)
		}),
		get("/error", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "short and stout", http.StatusTeapot)
		}),
		get("/redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		}),
		get("/two-cookies", func(w http.ResponseWriter, _ *http.Request) {
			http.SetCookie(w, &http.Cookie{Name: "a", Value: "1"})
			http.SetCookie(w, &http.Cookie{Name: "b", Value: "2"})
			_, _ = io.WriteString(w, "cookies")
		}),
		get("/length", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "5")
			_, _ = io.WriteString(w, "hello")
		}),
		get("/flush-first", func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, "after")
		}),
		get("/flush-only", func(w http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(w).Flush()
		}),
		get("/status-twice", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusAccepted)
			_, _ = io.WriteString(w, "accepted")
			w.WriteHeader(http.StatusInternalServerError)
		}),
	}
}

// silentRoute writes nothing at all.
var silentRoute = Route{Method: http.MethodGet, Path: "/silent", Handler: func(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("X-Handler", "silent")
}}

// specialRoutes are asked by one rule each. gate, where they use it, holds the
// handler until the test closes it.
func specialRoutes(gate <-chan struct{}) []Route {
	route := func(method, path string, h http.HandlerFunc) Route {
		return Route{Method: method, Path: path, Handler: h}
	}
	return []Route{
		silentRoute,
		route("GET", "/id", func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "id "+r.URL.Query().Get("id"))
		}),
		route("GET", "/hints", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "</style.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			_, _ = io.WriteString(w, "page")
		}),
		route("GET", "/hints-only", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "</style.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
		}),
		route("GET", "/stream", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "first ")
			w.(http.Flusher).Flush()
			wait(gate)
			_, _ = io.WriteString(w, "second")
		}),
		route("GET", "/gated", func(w http.ResponseWriter, _ *http.Request) {
			wait(gate)
			_, _ = io.WriteString(w, "gated")
		}),
		route("GET", "/hijack", func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				http.Error(w, "cannot hijack", http.StatusNotImplemented)
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhijacked")
			_ = conn.Close()
		}),
		route("GET", "/controller", func(w http.ResponseWriter, _ *http.Request) {
			rc := http.NewResponseController(w)
			err := errors.Join(rc.SetReadDeadline(time.Now().Add(time.Minute)),
				rc.SetWriteDeadline(time.Now().Add(time.Minute)), rc.EnableFullDuplex())
			fmt.Fprintf(w, "error: %v", err)
		}),
		route("GET", "/panic", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Handler", "panic")
			panic("the handler's value")
		}),
		route("GET", "/abort", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }),
		route("GET", "/abort-midway", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "half")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}),
		route("POST", "/request", func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if tooBig := new(http.MaxBytesError); errors.As(err, &tooBig) {
				http.Error(w, "too big", http.StatusRequestEntityTooLarge)
				return
			}
			fmt.Fprintf(w, "context %v, header %q, body %q",
				r.Context().Value(ctxKey{}), r.Header.Get("X-Middleware"), bytes.ToUpper(body))
		}),
	}
}

// wait waits for the gate, or gives up, so that a broken adapter fails and does
// not hang.
func wait(gate <-chan struct{}) {
	select {
	case <-gate:
	case <-time.After(patience):
	}
}
