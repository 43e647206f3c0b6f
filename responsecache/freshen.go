package responsecache

import (
	"net/http"

	"github.com/herdless/herdless/cache"
)

func (s *stored) hasValidator() bool {
	h := s.headers()
	return h.Get("Etag") != "" || h.Get("Last-Modified") != ""
}

// hold opens the body of the old response, if it is a long one, before the handler is
// asked whether it still holds. When the answer is there, a purge may have taken the
// body away, and a handler that cannot be run twice cannot be asked for another.
func (f *filling) hold() bool {
	x, body := f.x, f.old.stream
	if body.ID == "" {
		return true
	}
	r, err := x.engine.OpenBody(f.ctx, f.old.key, body)
	if err != nil {
		return false
	}
	x.held, x.heldID = r, body.ID
	return true
}

// isMatchedBy reports whether a 304 with the header h is about s (RFC 9111 §4.3.4).
func (s *stored) isMatchedBy(h http.Header) bool {
	old := s.headers()
	if etag := h.Get("Etag"); etag != "" {
		return weak(etag) == weak(old.Get("Etag"))
	}
	modified := h.Get("Last-Modified")
	return modified == "" || modified == old.Get("Last-Modified") || old.Get("Etag") != ""
}

func weak(etag string) string {
	if len(etag) > 2 && etag[:2] == "W/" {
		return etag[2:]
	}
	return etag
}

// freshen makes the old response fresh again by a 304 (RFC 9111 §4.3.4), and answers
// with it.
func (f *filling) freshen(rec *recorder) (cache.Entry, error) {
	s := f.updated(rec)
	v := &rec.verdict
	st := status{fwd: f.reason, fwdStatus: http.StatusNotModified, detail: v.why}
	if v.store {
		st.stored, st.ttl, st.hasTTL = true, v.ttl, true
	}
	e, ok := f.reply(s, &cache.Entry{TTL: v.ttl}, st, func(forAll bool) cache.Entry {
		if v.store && !forAll {
			*v = v.not("personal")
		}
		return f.storeUpdated(s, rec)
	})
	if !ok {
		// Its body has gone meanwhile. Nothing has been sent yet.
		f.old, f.validating, f.fallsBack = nil, false, false
		return f.run()
	}
	return e, nil
}

// reply answers with a stored response, and settles what outcome returns as soon as the
// client has begun to get it: a client that does not read must hold up nobody else. outcome
// learns whether nobody has marked the response as personal. It reports whether the body
// was to be had.
func (f *filling) reply(s *stored, e *cache.Entry, st status, outcome func(forAll bool) cache.Entry) (settled cache.Entry, ok bool) {
	w := &settling{watched: watched{ResponseWriter: f.x.w}}
	w.settle = func() {
		w.settle = nil
		settled = outcome(w.isForAll())
		f.loading.Settle(settled)
	}
	f.x.w = w
	defer func() { f.x.w = w.ResponseWriter }()
	if !f.x.reply(s, e, st) {
		return cache.Entry{}, false
	}
	if w.settle != nil { // there was no body
		w.settle()
	}
	return settled, true
}

// settling is a writer that settles a load when the first bytes of the body have been
// written: only then has middleware outside of the cache added all that it adds.
type settling struct {
	watched
	settle func() // nil once that is done
}

// Write implements http.ResponseWriter.
func (w *settling) Write(p []byte) (n int, err error) {
	if w.settle != nil {
		n, err = w.ResponseWriter.Write(p[:min(len(p), buffered)])
		w.settle()
		if err != nil || n == len(p) {
			return n, err
		}
	}
	m, err := w.ResponseWriter.Write(p[n:])
	return n + m, err
}

// buffered is how much of a body net/http takes at first without waiting for the client.
const buffered = 2 << 10

// updated returns the old response with the header fields that rec has got, and
// decides anew what may be done with it.
func (f *filling) updated(rec *recorder) *stored {
	setDate(rec.header, rec.came)
	rec.own["Date"] = rec.header["Date"]
	old := f.old.headers()
	resp := &response{
		status: f.old.status, header: merge(old, rec.header), own: merge(old, rec.own),
		took: rec.came.Sub(rec.asked), came: rec.came,
	}
	rec.verdict = f.x.judge(resp)
	rec.header = resp.header
	v := &rec.verdict
	if v.store && !f.place(rec) {
		*v = v.not("not-kept")
	}
	s := v.response
	s.forms = new(forms)
	if s.header == nil {
		s.header = resp.own
	}
	s.body, s.stream, s.length, s.key = f.old.body, f.old.stream, f.old.length, f.flight
	return &s
}

// storeUpdated returns what to store of an updated response.
func (f *filling) storeUpdated(s *stored, rec *recorder) cache.Entry {
	switch {
	case !rec.verdict.store:
		return f.notShared(s.status, rec.header, rec.verdict.why)
	case f.key != f.flight && s.stream.ID != "":
		return failed // its body is bound to the key: the next request makes it anew
	}
	return f.store(s, cache.Entry{Body: s.stream}, &rec.verdict, rec)
}

// merge returns the fields of a stored response, updated by those of a 304 (RFC 9111
// §3.2). What describes the stored bytes stays.
func merge(old, update http.Header) http.Header {
	h := old.Clone()
	for name, values := range update {
		switch name {
		case "Content-Length", "Content-Encoding", "Content-Range", "Content-Type":
		default:
			h[name] = values
		}
	}
	return h
}
