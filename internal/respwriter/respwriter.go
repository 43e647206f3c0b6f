// Package respwriter wraps an http.ResponseWriter so that a middleware gets to
// act at the last moment at which headers can still be set.
package respwriter

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

// ErrReplaced is what a handler gets for writing to a response that the
// middleware has answered in its place.
var ErrReplaced = errors.New("respwriter: the response was replaced by a middleware")

// BeforeHeader is called before the first final header of a response goes out,
// with the status that the handler chose. It may set headers. If it returns
// false it has written a response of its own to the wrapped writer (never to
// the Writer), and everything that the handler writes is refused with
// ErrReplaced.
//
// No final header passes before it has returned, and once it has, it is not
// called again. If it panics, the response has not begun: a handler that
// recovers and then writes an error page meets the hook once more.
type BeforeHeader func(status int) (proceed bool)

// BeforeHeader implements Hook.
func (f BeforeHeader) BeforeHeader(status int) bool { return f(status) }

// Hook is a BeforeHeader with what it needs, for who has that in one piece of memory.
type Hook interface {
	BeforeHeader(status int) (proceed bool)
}

// Writer is a ResponseWriter with a hook before the first final header, however
// that header comes: by Write, WriteString, WriteHeader, Flush, ReadFrom or
// Hijack. Informational responses (1xx but 101) pass through and do not count.
// For a handler that writes nothing at all, whoever made the Writer calls
// Finish.
//
// It implements http.Flusher, http.Hijacker, io.ReaderFrom and io.StringWriter
// whatever the wrapped writer does, and passes the rest on to it through
// http.ResponseController (deadlines, full duplex). It leaves out http.Pusher,
// because browsers have dropped server push, and http.CloseNotifier, which the
// request's context replaces. Like every ResponseWriter it is not safe for
// concurrent use.
type Writer struct {
	w       http.ResponseWriter
	before  Hook
	status  int // of the final header, 0 as long as there is none
	refused bool
}

// New wraps w. before must not be nil.
func New(w http.ResponseWriter, before BeforeHeader) *Writer {
	return &Writer{w: w, before: before}
}

// With returns a Writer with a hook that must not be nil. It is a value, so that it can
// be a part of something larger; it must not be copied once it is in use.
func With(w http.ResponseWriter, hook Hook) Writer { return Writer{w: w, before: hook} }

// Watch is With without a hook, for who only wants to know the status.
func Watch(w http.ResponseWriter) Writer { return Writer{w: w} }

// Status returns the status that the handler chose for the final header, or 0
// if it has not come to that yet. A hijacked connection counts as 101, and
// after Finish a handler that wrote nothing as 200.
func (w *Writer) Status() int { return w.status }

// Refused reports whether the hook answered in the handler's place.
func (w *Writer) Refused() bool { return w.refused }

// Finish runs the hook for a handler that returned without writing anything;
// net/http will send an empty 200. After anything else it does nothing. It must
// not be called for a handler that panicked.
func (w *Writer) Finish() { w.begin(http.StatusOK) }

// begin runs the hook if it has not run, and reports whether the handler's
// output may pass.
func (w *Writer) begin(status int) bool {
	if w.status == 0 {
		w.runHook(status)
	}
	return !w.refused
}

func (w *Writer) runHook(status int) {
	if w.before == nil {
		w.status = status
		return
	}
	// While the hook runs, output to the Writer itself is refused, so that a
	// hook that mixes up the two writers cannot send the header too early.
	w.status, w.refused = status, true
	returned := false
	defer func() {
		if !returned {
			w.status, w.refused = 0, false
		}
	}()
	w.refused = !w.before.BeforeHeader(status)
	returned = true
}

// Header returns the wrapped writer's headers.
func (w *Writer) Header() http.Header { return w.w.Header() }

// WriteHeader sends the header, after the hook if status is a final one. Like
// net/http's it panics for a status that is none, and the wrapped writer gets
// to complain about a second final header.
func (w *Writer) WriteHeader(status int) {
	switch {
	case status < 100 || status > 999:
		// The wrapped writer might let it pass; the hook must not see it.
		panic(fmt.Sprintf("respwriter: invalid WriteHeader code %v", status))
	case status < 200 && status != http.StatusSwitchingProtocols:
		if !w.refused {
			w.w.WriteHeader(status)
		}
	case w.begin(status):
		w.w.WriteHeader(status)
	}
}

// Write writes to the body.
func (w *Writer) Write(p []byte) (int, error) {
	if !w.begin(http.StatusOK) {
		return 0, ErrReplaced
	}
	return w.w.Write(p)
}

// WriteString writes to the body without copying where the wrapped writer can.
func (w *Writer) WriteString(s string) (int, error) {
	if !w.begin(http.StatusOK) {
		return 0, ErrReplaced
	}
	return io.WriteString(w.w, s)
}

// firstRead is how much ReadFrom copies by itself before it hands over.
const firstRead = 512

// ReadFrom copies r to the body, by the wrapped writer's own ReadFrom where it
// has one (sendfile).
//
// As in net/http, the header waits for the first bytes: after a reader that is
// empty or fails at once, the handler can still choose another status.
func (w *Writer) ReadFrom(r io.Reader) (n int64, err error) {
	if w.status == 0 {
		n, err = io.Copy(onlyWriter{w}, io.LimitReader(r, firstRead))
		if err != nil || n < firstRead {
			return n, err
		}
	}
	if w.refused {
		return n, ErrReplaced
	}
	rest, err := io.Copy(w.w, r)
	return n + rest, err
}

// onlyWriter hides ReadFrom from io.Copy, which would call it forever.
type onlyWriter struct{ io.Writer }

// Flush sends what is buffered, the header first.
func (w *Writer) Flush() { _ = w.FlushError() }

// FlushError is Flush for http.ResponseController.
func (w *Writer) FlushError() error {
	if !w.begin(http.StatusOK) {
		return ErrReplaced
	}
	return http.NewResponseController(w.w).Flush()
}

// Hijack takes the connection over. The hook runs first, with status 101,
// unless the connection cannot be taken over at all, as in HTTP/2: then the
// handler gets http.ErrNotSupported and can still answer.
func (w *Writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if !canHijack(w.w) {
		return nil, nil, fmt.Errorf("respwriter: hijack: %w", http.ErrNotSupported)
	}
	if !w.begin(http.StatusSwitchingProtocols) {
		return nil, nil, ErrReplaced
	}
	return http.NewResponseController(w.w).Hijack()
}

// canHijack asks the innermost writer, the server's own: the ones around it
// often have the method whether or not it works.
func canHijack(w http.ResponseWriter) bool {
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			_, ok := w.(http.Hijacker)
			return ok
		}
		w = u.Unwrap()
	}
}

// Unwrap returns the wrapped writer, for http.ResponseController.
func (w *Writer) Unwrap() http.ResponseWriter { return w.w }
