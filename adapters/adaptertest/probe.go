package adaptertest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// seen is what a middleware saw of one response by the time next returned.
type seen struct {
	interim  []int
	status   int // of the final header, 0 if none came
	body     bytes.Buffer
	events   []string // header, write and flush in their order
	hijacked bool
	panicked any
}

// watcher is a middleware that looks on.
type watcher struct {
	mu  sync.Mutex
	all []*seen
	new chan struct{}
}

func newWatcher() *watcher { return &watcher{new: make(chan struct{}, 1000)} }

func (o *watcher) middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := new(seen)
		defer func() {
			s.panicked = recover()
			o.mu.Lock()
			o.all = append(o.all, s)
			o.mu.Unlock()
			o.new <- struct{}{}
			if s.panicked != nil {
				panic(s.panicked)
			}
		}()
		next.ServeHTTP(&watchingWriter{w, s}, r)
	})
}

// last waits for the one response that was not asked for yet.
func (o *watcher) last(t *testing.T) *seen {
	t.Helper()
	select {
	case <-o.new:
	case <-time.After(patience):
		t.Fatal("the middleware has not returned")
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all[len(o.all)-1]
}

// watchingWriter has every way out that net/http's writer has, so that each of
// them is seen.
type watchingWriter struct {
	w http.ResponseWriter
	s *seen
}

func (w *watchingWriter) Header() http.Header { return w.w.Header() }

func (w *watchingWriter) WriteHeader(status int) {
	if status < 200 && status != http.StatusSwitchingProtocols {
		w.s.interim = append(w.s.interim, status)
	} else {
		w.header(status)
	}
	w.w.WriteHeader(status)
}

func (w *watchingWriter) header(status int) {
	if w.s.status == 0 {
		w.s.status = status
		w.s.events = append(w.s.events, fmt.Sprintf("header %d", status))
	}
}

func (w *watchingWriter) Write(p []byte) (int, error) {
	w.header(http.StatusOK)
	w.s.body.Write(p)
	w.s.events = append(w.s.events, "write "+string(p))
	return w.w.Write(p)
}

func (w *watchingWriter) WriteString(p string) (int, error) {
	w.header(http.StatusOK)
	w.s.body.WriteString(p)
	w.s.events = append(w.s.events, "write "+p)
	return io.WriteString(w.w, p)
}

func (w *watchingWriter) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{w}, r)
}

func (w *watchingWriter) FlushError() error {
	w.header(http.StatusOK)
	w.s.events = append(w.s.events, "flush")
	return http.NewResponseController(w.w).Flush()
}

func (w *watchingWriter) Flush() { _ = w.FlushError() }

func (w *watchingWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.s.hijacked = true
	return http.NewResponseController(w.w).Hijack()
}

func (w *watchingWriter) Unwrap() http.ResponseWriter { return w.w }
