package ginadapter

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"

	"github.com/gin-gonic/gin"
)

// writer is c.Writer behind a middleware: gin's manners, over the writer that
// the middleware passed on. Like gin's own it keeps the status back until there
// is a body, so that it can be set more than once, and it has no ReadFrom:
// io.Copy writes.
type writer struct {
	w      http.ResponseWriter // the middleware's
	r      *http.Request       // the middleware's
	status int
	first  int  // status from the start: 404 or 405 for unknown routes
	size   int  // of the body, notWritten as long as there is no header
	chosen bool // the status was set, or is not what a silent handler sends
	sent   bool // the header was passed on
}

var _ gin.ResponseWriter = (*writer)(nil)

// notWritten is what gin's Size says before the header is written.
const notWritten = -1

// newWriter continues from the state of the writer in front, where gin has set
// the status of unknown routes.
func newWriter(w http.ResponseWriter, r *http.Request, status, size int) *writer {
	return &writer{w: w, r: r, status: status, first: status, size: size, chosen: status != http.StatusOK}
}

func (w *writer) Header() http.Header { return w.w.Header() }

func (w *writer) WriteHeader(status int) {
	switch {
	case status <= 0: // gin's "leave it as it is"
	case w.Written(): // too late, as in gin
		if w.sent && status != w.status {
			w.w.WriteHeader(status) // so that a middleware hears that the response is not what it seems
		}
	case informational(status):
		w.w.WriteHeader(status)
	default:
		w.status, w.chosen = status, true
	}
}

func (w *writer) WriteHeaderNow() {
	if w.sent {
		return
	}
	w.sent = true
	if w.size == notWritten {
		w.size = 0
	}
	w.w.WriteHeader(w.status)
}

func (w *writer) Write(p []byte) (int, error) {
	w.WriteHeaderNow()
	n, err := w.w.Write(p)
	w.size += n
	return n, err
}

func (w *writer) WriteString(s string) (int, error) {
	w.WriteHeaderNow()
	n, err := io.WriteString(w.w, s)
	w.size += n
	return n, err
}

func (w *writer) Status() int { return w.status }

func (w *writer) Size() int { return w.size }

func (w *writer) Written() bool { return w.size != notWritten }

func (w *writer) Flush() { _ = w.FlushError() }

// FlushError is Flush for http.ResponseController.
func (w *writer) FlushError() error {
	w.WriteHeaderNow()
	return http.NewResponseController(w.w).Flush()
}

// Hijack takes the connection over. Where that fails it leaves no trace, and
// the handler can still answer.
func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buf, err := http.NewResponseController(w.w).Hijack()
	if err == nil {
		w.sent = true
		w.size = max(w.size, 0)
	}
	return conn, buf, err
}

// CloseNotify is what gin's Stream waits for. Where the server's writer has
// none (a test's recorder, a cache's buffer), the end of the request's context
// takes its place.
func (w *writer) CloseNotify() <-chan bool {
	//nolint:staticcheck // deprecated, but gin.ResponseWriter asks for it
	if n, ok := innermost(w.w).(http.CloseNotifier); ok {
		return n.CloseNotify()
	}
	gone := make(chan bool, 1)
	context.AfterFunc(w.r.Context(), func() { gone <- true })
	return gone
}

// Pusher returns the server's, or nil if there is none, as gin's own does.
func (w *writer) Pusher() http.Pusher {
	p, _ := innermost(w.w).(http.Pusher)
	return p
}

// Unwrap leads http.ResponseController to the middleware's writer.
func (w *writer) Unwrap() http.ResponseWriter { return w.w }
