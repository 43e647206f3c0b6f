package responsecache

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/andybalholm/brotli"
	"github.com/herdless/herdless/responsecache/internal/fields"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// codings are what a response can be served in, by preference.
var codings = []string{"br", "zstd", "gzip"}

// minCoded is the length from which a coding is worth it.
const minCoded = 512

// coding returns the content coding in which the client gets a response with the
// header h, or "" for none, and puts that into h. length is that of the body, or -1.
func (a *asked) coding(h http.Header, code int, length int64) string {
	if !a.route.policy.Compress || !isCompressible(h, code) {
		return ""
	}
	addVary(h, []string{"accept-encoding"})
	if length >= 0 && length < minCoded {
		return ""
	}
	coding, _ := fields.Negotiate(a.r.Header["Accept-Encoding"], codings)
	if coding == "identity" {
		return ""
	}
	h["Content-Encoding"] = []string{coding}
	delete(h, "Content-Length")
	if etag := h.Get("Etag"); etag != "" {
		// Another representation, so another tag (RFC 9110 §8.8.3.3).
		h["Etag"] = []string{fields.SuffixETag(etag, coding)}
	}
	return coding
}

// isCompressible reports whether a response may be compressed, and gains by it.
func isCompressible(h http.Header, code int) bool {
	if !bodyAllowed(code) || code == http.StatusPartialContent || len(h["Content-Encoding"]) > 0 || len(h["Content-Range"]) > 0 ||
		fields.ParseCacheControl(h["Cache-Control"]).Has("no-transform") {
		return false
	}
	typ, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	typ = strings.ToLower(strings.TrimSpace(typ))
	if main, sub, _ := strings.Cut(typ, "/"); main == "text" && sub != "event-stream" || strings.HasSuffix(sub, "+json") || strings.HasSuffix(sub, "+xml") {
		return true
	}
	return slices.Contains([]string{
		"application/json", "application/javascript", "application/xml", "application/wasm", "application/x-ndjson",
		"application/manifest+json", "font/ttf", "font/otf", "image/bmp", "image/x-icon",
	}, typ)
}

// coder is what the libraries have in common.
type coder interface {
	io.WriteCloser
	Flush() error
	Reset(w io.Writer)
}

var coders = map[string]*sync.Pool{
	"br": {New: func() any { return brotli.NewWriterLevel(nil, 4) }},
	"zstd": {New: func() any {
		// One goroutine, and a window that browsers are bound to accept (RFC 9659).
		w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20), zstd.WithEncoderLevel(zstd.SpeedDefault))
		if err != nil {
			panic(err) // the options are constants
		}
		return w
	}},
	"gzip": {New: func() any { return gzip.NewWriter(nil) }},
}

// encoder encodes what is written to it. It must be closed or abandoned.
type encoder struct {
	coder
	pool *sync.Pool
}

func newEncoder(coding string, w io.Writer) *encoder {
	pool := coders[coding]
	e := &encoder{coder: pool.Get().(coder), pool: pool}
	e.Reset(w)
	return e
}

// Close writes what is left.
func (e *encoder) Close() error {
	if e.coder == nil {
		return nil
	}
	err := e.coder.Close()
	e.abandon()
	return err
}

// abandon ends the encoding without an end that looks like one.
func (e *encoder) abandon() {
	if e.coder != nil {
		e.Reset(io.Discard)
		e.pool.Put(e.coder)
		e.coder = nil
	}
}

// forms are the forms in which a stored response was sent, as long as it stays in
// this process or several requests share it: the body in other codings, and what its
// header tells at the moment.
type forms struct {
	moment atomic.Pointer[moment]
	waited atomic.Pointer[moment] // for those who have waited for it

	mu       sync.Mutex
	byCoding map[string][]byte

	accepting sync.RWMutex
	byAccept  map[string]*stored // the response in a coding, by the Accept-Encoding that got it
}

const (
	maxForms       = 16
	maxFormsAccept = 256 // bytes
)

// form returns a short response in the coding that the request gets it in.
func (a *asked) form(s *stored) *stored {
	if !a.route.policy.Compress {
		return s
	}
	accept := ""
	lines := a.r.Header["Accept-Encoding"]
	if len(lines) > 0 {
		accept = lines[0]
	}
	kept := len(lines) <= 1 && len(accept) <= maxFormsAccept
	f := s.forms
	if kept {
		f.accepting.RLock()
		form, ok := f.byAccept[accept]
		f.accepting.RUnlock()
		if ok {
			return form
		}
	}
	form := a.newForm(s)
	if kept {
		f.accepting.Lock()
		defer f.accepting.Unlock()
		if f.byAccept == nil || len(f.byAccept) >= maxForms {
			f.byAccept = make(map[string]*stored)
		}
		f.byAccept[strings.Clone(accept)] = form
	}
	return form
}

func (a *asked) newForm(s *stored) *stored {
	form := *s
	form.forms = new(forms)
	h := s.headers() // a map of our own, whose values are replaced or copied
	coding := a.coding(h, s.status, s.length)
	if coding != "" {
		var err error
		if form.body, err = s.forms.get(coding, s.body); err != nil {
			panic(err) // to memory: it cannot fail
		}
	}
	form.head = &head{}
	for name, values := range h {
		plain, adds := strings.CutPrefix(name, added)
		form.head.fields = append(form.head.fields, field{plain, adds, values})
		form.head.values += len(values)
	}
	form.head.complete()
	return &form
}

// get returns the body in a coding.
func (f *forms) get(coding string, body []byte) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b, ok := f.byCoding[coding]; ok {
		return b, nil
	}
	var b bytes.Buffer
	e := newEncoder(coding, &b)
	defer e.abandon()
	if _, err := e.Write(body); err != nil {
		return nil, err
	}
	if err := e.Close(); err != nil {
		return nil, err
	}
	if f.byCoding == nil {
		f.byCoding = make(map[string][]byte)
	}
	f.byCoding[coding] = b.Bytes()
	return b.Bytes(), nil
}

// sendCoded sends a long body in a coding.
func (x *exchange) sendCoded(s *stored, coding string, body io.ReadCloser) {
	e := newEncoder(coding, x.w)
	defer e.abandon()
	x.copy(e, body, s.length)
	_ = e.Close() // a client that has gone
}

// coded returns the body of a short response in a coding, and sets its length.
func (s *stored) coded(h http.Header, coding string) ([]byte, error) {
	b, err := s.forms.get(coding, s.body)
	if err == nil {
		h["Content-Length"] = []string{strconv.Itoa(len(b))}
	}
	return b, err
}
