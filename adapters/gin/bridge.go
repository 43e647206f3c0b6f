package ginadapter

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/gin-gonic/gin"
)

// errOver is what a middleware gets for writing after it has returned.
var errOver = errors.New("ginadapter: write after the end of the request")

// bridge is the writer that a middleware gets: gin's writer in front of it,
// with the manners of net/http's.
//
// It keeps the header back as gin does, until there is a body or the request
// ends. gin middleware in front counts on that: gzip, for one, decides about
// its headers at the first write.
type bridge struct {
	out    gin.ResponseWriter
	wrote  bool        // the status of the final header is decided
	closed atomic.Bool // the request is over, out may be another request's
}

func (b *bridge) Header() http.Header {
	if b.closed.Load() {
		return make(http.Header)
	}
	return b.out.Header()
}

// WriteHeader decides the status; as in net/http the first one stays.
func (b *bridge) WriteHeader(status int) {
	if b.closed.Load() || b.wrote {
		return
	}
	switch {
	case status < 100 || status > 999:
		panic(fmt.Sprintf("ginadapter: invalid WriteHeader code %v", status))
	case informational(status):
		if !b.out.Written() {
			writeInformational(b.out, status)
		}
	default:
		b.setStatus(status)
	}
}

func (b *bridge) setStatus(status int) {
	b.wrote = true
	if b.out.Written() {
		return
	}
	b.out.WriteHeader(status)
	if outer, ok := b.out.(*writer); ok {
		// That of another middleware of net/http's, which may have something to add before
		// the header goes out, and this one may want to know what: a cache around which
		// there is a session does.
		outer.WriteHeaderNow()
	}
}

// begin decides the status for output that comes without one. gin's own may be
// a 404 from the start; net/http's is 200.
func (b *bridge) begin() error {
	if b.closed.Load() {
		return errOver
	}
	if !b.wrote {
		b.setStatus(http.StatusOK)
	}
	return nil
}

func (b *bridge) Write(p []byte) (int, error) {
	if err := b.begin(); err != nil {
		return 0, err
	}
	return b.out.Write(p)
}

func (b *bridge) WriteString(s string) (int, error) {
	if err := b.begin(); err != nil {
		return 0, err
	}
	return b.out.WriteString(s)
}

func (b *bridge) Flush() { _ = b.FlushError() }

func (b *bridge) FlushError() error {
	if err := b.begin(); err != nil {
		return err
	}
	return http.NewResponseController(b.out).Flush()
}

// Hijack asks first, because gin's own writer panics where the connection
// cannot be taken over (HTTP/2).
func (b *bridge) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if b.closed.Load() || !canHijack(b.out) {
		return nil, nil, fmt.Errorf("ginadapter: hijack: %w", http.ErrNotSupported)
	}
	return b.out.Hijack()
}

// Unwrap leads http.ResponseController to the server's writer.
func (b *bridge) Unwrap() http.ResponseWriter {
	if b.closed.Load() {
		return nil
	}
	return b.out
}

// informational reports whether a header of this status is followed by another
// one.
func informational(status int) bool {
	return status >= 100 && status < 200 && status != http.StatusSwitchingProtocols
}

// writeInformational sends a 1xx past gin's writer, which takes it for the
// final status. A gin writer that does not show what it wraps stands in the
// way; then the 1xx is dropped, as every 1xx may be.
func writeInformational(w http.ResponseWriter, status int) {
	for w != nil {
		if _, isGin := w.(gin.ResponseWriter); !isGin {
			w.WriteHeader(status)
			return
		}
		w = unwrap(w)
	}
}

// unwrap returns the writer that w wraps, or nil if it shows none.
func unwrap(w http.ResponseWriter) http.ResponseWriter {
	if u, ok := w.(interface{ Unwrap() http.ResponseWriter }); ok {
		return u.Unwrap()
	}
	return nil
}

// innermost follows Unwrap to its end, the server's own writer if all on the
// way show what they wrap. What that one can do is what can be done: the others
// have gin's methods whether or not they work.
func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		next := unwrap(w)
		if next == nil {
			return w
		}
		w = next
	}
}

func canHijack(w http.ResponseWriter) bool {
	_, ok := innermost(w).(http.Hijacker)
	return ok
}
