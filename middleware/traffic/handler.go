package traffic

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/herdless/herdless/internal/nils"
	"github.com/herdless/herdless/internal/respwriter"
)

// Handler returns a handler that counts what next serves. It belongs outside of
// everything whose answers should count; see the package documentation.
//
// A handler that panics is counted with the status that it has sent, or 500.
func (r *Recorder) Handler(next http.Handler) http.Handler {
	nils.MustWrap("traffic: Recorder.Handler", next)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		began := time.Now()
		rec := newWriter(w)
		h := Hit{}
		if r.opts.Path != nil {
			h.Path = r.opts.Path(req)
		} else {
			h.Path = req.URL.Path
		}
		returned := false
		defer func() { // no recover: the panic goes on with its stack
			r.served(rec, req, &h, began, returned)
		}()
		next.ServeHTTP(rec, req)
		returned = true
	})
}

// served counts a request that is over.
func (r *Recorder) served(rec *writer, req *http.Request, h *Hit, began time.Time, returned bool) {
	now := time.Now()
	h.Latency = now.Sub(began)
	if h.Status = rec.Status(); h.Status == 0 {
		h.Status = http.StatusOK
		if !returned {
			h.Status = http.StatusInternalServerError
		}
	}
	if req.Method != http.MethodHead { // net/http takes a body, and drops it
		h.Bytes = rec.bytes
	}
	if lines := rec.Header()["Cache-Status"]; len(lines) > 0 {
		h.Cache = cacheStatus(lines[len(lines)-1])
	}
	h.Route = rec.route
	*rec = writer{Writer: respwriter.Watch(gone{})}
	switch {
	case r.opts.Route != nil:
		h.Route = r.opts.Route(req)
	case req.Method == http.MethodConnect && h.Status/100 == 3:
		// The pattern is the path then, with a slash: what a client makes up.
		h.Route = ""
	case h.Route == "":
		h.Route = req.Pattern
	}
	if r.opts.Visitor != nil {
		h.Visitor = r.opts.Visitor(req)
	}
	if h.Visitor == "" {
		if r.opts.Addr == nil {
			h.Addr = peer(req.RemoteAddr)
		} else if addr, err := r.opts.Addr(req); err == nil { // who has no address is no visitor
			h.Addr = addr
		}
	}
	r.record(h, now)
}

// SetRoute says which route a request has, to the Recorder outside, for routers
// that do not set Request.Pattern. w may be wrapped by middleware in between, as
// long as its writers have Unwrap. Without a Recorder it does nothing.
func SetRoute(w http.ResponseWriter, route string) {
	for w != nil {
		if rec, ok := w.(*writer); ok {
			rec.route = route
			return
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return
		}
		w = u.Unwrap()
	}
}

// Routed returns a handler that tells the Recorder outside which pattern of mux has
// matched. It is of use where middleware between the Recorder and an http.ServeMux
// replaces the request: the ServeMux writes the pattern into the request that it gets,
// and the Recorder has another one. That of this module hands the pattern back.
func Routed(mux http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if r.Pattern != "" {
				SetRoute(w, r.Pattern)
			}
		}()
		mux.ServeHTTP(w, r)
	})
}

// writer is what the handler gets as its ResponseWriter.
type writer struct {
	respwriter.Writer
	bytes int64
	route string
}

func (w *writer) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.bytes += int64(n)
	return n, err
}

func (w *writer) WriteString(s string) (int, error) {
	n, err := w.Writer.WriteString(s)
	w.bytes += int64(n)
	return n, err
}

func (w *writer) ReadFrom(r io.Reader) (int64, error) {
	n, err := w.Writer.ReadFrom(r)
	w.bytes += n
	return n, err
}

// gone is what a handler writes to after it has returned, which is an error of the
// program.
type gone struct{}

func (gone) Header() http.Header       { return http.Header{} }
func (gone) Write([]byte) (int, error) { return 0, errGone }
func (gone) WriteHeader(int)           {}

var errGone = errors.New("traffic: a write to a response after its handler has returned")

// writers makes writers. They are cut from slabs, so that there is one allocation in
// a few dozen requests, and none is used twice: what a handler writes after it has
// returned must never reach another client. A request that goes on for long keeps all
// of its slab, so a writer lets go of its response when that is over.
var writers = sync.Pool{New: func() any { return new(slab) }}

type slab struct {
	used    int
	writers [32]writer
}

func newWriter(w http.ResponseWriter) *writer {
	s, _ := writers.Get().(*slab)
	rec := &s.writers[s.used]
	if s.used++; s.used < len(s.writers) {
		writers.Put(s)
	}
	rec.Writer = respwriter.Watch(w)
	return rec
}

// cacheStatus says what the last cache of a Cache-Status field (RFC 9211) did: that
// is the one nearest to the client.
func cacheStatus(field string) CacheStatus {
	last, quoted := 0, false
	for i := 0; i < len(field); i++ {
		switch c := field[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			last = i + 1
		}
	}
	quoted = false
	rest := field[last:]
	for i := 0; i < len(rest); i++ {
		switch c := rest[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == ';' && !quoted:
			if name := strings.TrimLeft(rest[i+1:], " "); strings.HasPrefix(name, "hit") && ends(name[len("hit"):]) {
				return CacheHit
			}
		}
	}
	return CacheMiss
}

// ends reports whether a parameter's name ends here, and is true.
func ends(rest string) bool {
	rest = strings.TrimLeft(rest, " ")
	return rest == "" || rest[0] == ';' || rest == "=?1" || strings.HasPrefix(rest, "=?1;")
}
