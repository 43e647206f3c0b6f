package responsecache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/responsecache/internal/fields"
)

// reply answers with a stored response. It returns false, and has sent nothing, if
// its body is not to be had: x.noBody says why.
func (x *exchange) reply(s *stored, e *cache.Entry, st status) bool {
	if s.isShort() && x.wantsAll() && !x.route.policy.Compress {
		x.replyAll(x.w, s, e, st, x.room[:])
		return true
	}
	h := http.Header{}
	for name, values := range s.headers() {
		h[name] = slices.Clone(values) // who gets them may change them
	}
	var ranges []fields.Range
	satisfiable, ranged := true, false // see ParseRange
	if s.status == http.StatusOK && x.r.Method == http.MethodGet && len(x.r.Header["Range"]) == 1 && fields.IfRange(x.r.Header, h, time.Now()) {
		ranges, satisfiable, ranged = fields.ParseRange(x.r.Header["Range"][0], s.length)
		satisfiable = satisfiable || !ranged
	}
	coding := ""
	if !ranged { // ranges are of the response as it is stored
		coding = x.coding(h, s.status, s.length)
	} else if x.route.policy.Compress {
		addVary(h, []string{"accept-encoding"})
	}
	code := s.status
	switch {
	case s.status == http.StatusOK && fields.NotModified(x.r.Header, h, time.Now()):
		code, ranges = http.StatusNotModified, nil
	case ranged && !satisfiable:
		code = http.StatusRequestedRangeNotSatisfiable
	case ranged:
		code = http.StatusPartialContent
	}
	var body io.ReadCloser
	if bodyAllowed(code) && satisfiable && x.r.Method != http.MethodHead && s.stream.ID != "" {
		offset := int64(0)
		if len(ranges) == 1 {
			offset = ranges[0].Start
		}
		if body, x.noBody = x.openHeld(s, offset); x.noBody != nil {
			return false
		}
		defer body.Close()
	}

	out := x.w.Header()
	for name, values := range h {
		plain, adds := strings.CutPrefix(name, added)
		switch {
		case adds && plain != "Vary":
			out[plain] = append(slices.Clip(out[plain]), values...)
		case plain == "Vary": // outer middleware may vary on more for this request
			addVary(out, fields.Members(values))
		default:
			out[name] = values
		}
	}
	x.cache.takeOff(out)
	out["Age"] = []string{seconds(s.age + e.Age)}
	x.addStatus(st)
	x.send(s, code, coding, ranges, body)
	return true
}

// bodyAllowed reports whether a response of that status can have a body.
func bodyAllowed(code int) bool {
	return code != http.StatusNoContent && code != http.StatusNotModified
}

// send sends the header and what the request wants of the body.
func (x *exchange) send(s *stored, code int, coding string, ranges []fields.Range, body io.ReadCloser) {
	h := x.w.Header()
	switch {
	case !bodyAllowed(code):
		if code == http.StatusNotModified {
			stripFor304(h)
		}
		x.w.WriteHeader(code)
	case code == http.StatusRequestedRangeNotSatisfiable && s.status == http.StatusOK:
		stripFor304(h)
		h.Set("Content-Range", fmt.Sprintf("bytes */%d", s.length))
		h.Set("Content-Length", "0")
		x.w.WriteHeader(code)
	case len(ranges) == 1:
		r := ranges[0]
		h.Set("Content-Range", contentRange(r, s.length))
		h.Set("Content-Length", strconv.FormatInt(r.Length, 10))
		x.w.WriteHeader(code)
		if body == nil {
			_, _ = x.w.Write(s.body[r.Start : r.Start+r.Length]) // a client that has gone
			return
		}
		x.copy(x.w, io.LimitReader(body, r.Length), r.Length)
	case len(ranges) > 1:
		x.sendParts(s, ranges, body)
	case coding != "" && s.stream.ID == "":
		coded, err := s.coded(h, coding)
		if err != nil {
			panic(err) // to memory: it cannot fail
		}
		x.w.WriteHeader(code)
		if x.r.Method != http.MethodHead {
			_, _ = x.w.Write(coded) // a client that has gone
		}
	case coding != "":
		x.w.WriteHeader(code)
		if x.r.Method != http.MethodHead {
			x.sendCoded(s, coding, body)
		}
	default:
		h.Set("Content-Length", strconv.FormatInt(s.length, 10))
		x.w.WriteHeader(code)
		switch {
		case x.r.Method == http.MethodHead:
		case body == nil:
			_, _ = x.w.Write(s.body) // a client that has gone
		default:
			x.copy(x.w, body, s.length)
		}
	}
}

func contentRange(r fields.Range, size int64) string {
	return fmt.Sprintf("bytes %d-%d/%d", r.Start, r.Start+r.Length-1, size)
}

// sendParts sends several ranges (RFC 9110 §14.6).
func (x *exchange) sendParts(s *stored, ranges []fields.Range, body io.ReadCloser) {
	h := x.w.Header()
	typ := h.Get("Content-Type")
	parts := multipart.NewWriter(x.w)
	h.Set("Content-Type", "multipart/byteranges; boundary="+parts.Boundary())
	x.w.WriteHeader(http.StatusPartialContent)
	at := int64(0)
	for _, r := range ranges {
		header := textproto.MIMEHeader{"Content-Range": {contentRange(r, s.length)}}
		if typ != "" {
			header.Set("Content-Type", typ)
		}
		w, err := parts.CreatePart(header)
		if err != nil {
			return // the client has gone
		}
		if s.stream.ID == "" {
			_, _ = w.Write(s.body[r.Start : r.Start+r.Length])
			continue
		}
		if r.Start < at {
			if body, err = x.openAt(x.r.Context(), s.key, s.stream, r.Start); err != nil {
				panic(http.ErrAbortHandler)
			}
			defer body.Close()
		} else if err := skip(body, at, r.Start); err != nil {
			panic(http.ErrAbortHandler)
		}
		at = r.Start + r.Length
		x.copy(w, io.LimitReader(body, r.Length), r.Length)
	}
	_ = parts.Close()
}

// copy copies size bytes of a body to the client. If the store fails meanwhile the
// connection is given up: what has been sent must not look like all.
func (x *exchange) copy(w io.Writer, r io.Reader, size int64) {
	c := &copier{w: w}
	n, err := copyTo(c, r)
	if c.failed { // a client that has gone
		return
	}
	if err != nil || n != size {
		panic(http.ErrAbortHandler)
	}
}

// copyTo copies a body, without a buffer in between if it can write itself.
func copyTo(w io.Writer, r io.Reader) (int64, error) {
	if self, ok := r.(io.WriterTo); ok {
		return self.WriteTo(w)
	}
	buf := copyBuffers.Get().(*[64 << 10]byte)
	defer copyBuffers.Put(buf)
	return io.CopyBuffer(w, r, buf[:])
}

// copyBuffers are for those who copy bodies piece by piece.
var copyBuffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// copier is a writer that remembers whether it was the one that failed, and that
// hides everything but Write.
type copier struct {
	w      io.Writer
	failed bool
}

func (c *copier) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.failed = c.failed || err != nil
	return n, err
}

// openAt opens a stored body at an offset.
func (x *exchange) openAt(ctx context.Context, key string, body cache.Body, offset int64) (io.ReadCloser, error) {
	r, err := x.engine.OpenBody(ctx, key, body)
	if err != nil {
		return nil, err
	}
	return from(r, offset)
}

// openHeld is openAt, and takes the body that is held if it is that.
func (x *exchange) openHeld(s *stored, offset int64) (io.ReadCloser, error) {
	if r := x.held; r != nil && x.heldID == s.stream.ID {
		x.held = nil
		return from(r, offset)
	}
	return x.openAt(x.r.Context(), s.key, s.stream, offset)
}

// from returns r, which has not been read yet, from offset on.
func from(r io.ReadCloser, offset int64) (io.ReadCloser, error) {
	if err := skip(r, 0, offset); err != nil {
		_ = r.Close()
		return nil, err
	}
	return r, nil
}

// skip goes on from one offset of a body to another one, without reading what lies
// between them if that can be.
func skip(r io.Reader, from, to int64) error {
	if from == to {
		return nil
	}
	if s, ok := r.(io.Seeker); ok {
		_, err := s.Seek(to, io.SeekStart)
		return err
	}
	_, err := io.CopyN(io.Discard, r, to-from)
	return err
}

// letGo closes the body that is held, if nobody has wanted it.
func (x *exchange) letGo() {
	if x.held != nil {
		_ = x.held.Close()
		x.held = nil
	}
}

// readAlong answers with a response that another request of this process is making.
// It returns false, and has sent nothing, if that is not for this request, or cannot
// be had from its beginning any more; with over, something else can be had now.
func (x *exchange) readAlong(l *live, reason string) (done, over bool) {
	s := l.response
	if !x.shares(s) || x.name.pageUnder(l.rule) != l.page || len(l.vary) > 0 && x.selects(varyIndex{names: l.vary}) != l.selected {
		return false, false
	}
	if !x.wantsLive(l) {
		return false, l.isSettledWithin(liveGrace, x.r.Context().Done())
	}
	r, over := l.join()
	if r == nil {
		return false, over
	}
	defer r.leave()
	h := x.w.Header()
	for name, values := range s.headers() {
		plain, adds := strings.CutPrefix(name, added)
		switch {
		case plain == "Vary":
			addVary(h, fields.Members(values))
		case adds:
			h[plain] = append(slices.Clip(h[plain]), values...)
		default:
			h[plain] = slices.Clone(values) // others read along, too
		}
	}
	x.cache.takeOff(h)
	if s.age > 0 {
		h["Age"] = []string{seconds(s.age)}
	}
	x.addStatus(status{fwd: reason, collapsed: true})
	coding := x.coding(h, s.status, s.length)
	if s.status == http.StatusOK && fields.NotModified(x.r.Header, h, time.Now()) {
		stripFor304(h)
		x.w.WriteHeader(http.StatusNotModified)
		return true, false
	}
	var out io.Writer = x.w
	if coding != "" {
		enc := newEncoder(coding, x.w)
		defer func() { enc.abandon() }()
		out = enc
	} else if s.length >= 0 {
		h.Set("Content-Length", strconv.FormatInt(s.length, 10))
	}
	x.w.WriteHeader(s.status)
	x.pump(out, r)
	if enc, ok := out.(*encoder); ok {
		_ = enc.Close()
	}
	return true, false
}

// wantsLive reports whether the request wants a response that is being made: if the handler
// was asked for it before the request came, it is like one that is stored.
func (x *exchange) wantsLive(l *live) bool {
	if x.wants == nothing || !l.asked.Before(x.came) {
		return true
	}
	passed := time.Since(l.came)
	return x.fit(l.response, &cache.Entry{TTL: l.ttl - passed, Age: passed}) == cache.Use
}

// isSettledWithin waits for what becomes of the response, so that those who want another one
// can have one for all. It reports whether that is settled in time.
func (l *live) isSettledWithin(patience time.Duration, cancel <-chan struct{}) bool {
	l.awaited.Store(true)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-l.settled:
		return true
	case <-timer.C:
	case <-cancel:
	}
	return false
}

// pump copies what a reader gets to the client.
func (x *exchange) pump(out io.Writer, r *reader) {
	controller := http.NewResponseController(x.w)
	for {
		p, flush, err := r.next(x.r.Context().Done())
		switch {
		case errors.Is(err, io.EOF):
			return
		case errors.Is(err, errBehind):
			x.catchUp(out, r)
			return
		case err != nil:
			// What has been sent must not look like all.
			panic(http.ErrAbortHandler)
		}
		if len(p) > 0 {
			if _, err := out.Write(p); err != nil {
				return // the client has gone
			}
		}
		if flush {
			if enc, ok := out.(*encoder); ok {
				_ = enc.Flush()
			}
			_ = controller.Flush()
		}
	}
}

// catchUp sends the rest to a client that was too slow to read along, from the store
// when all of it is there.
func (x *exchange) catchUp(out io.Writer, r *reader) {
	rest, offset := r.waitForEnd(x.r.Context().Done())
	if rest == nil {
		panic(http.ErrAbortHandler)
	}
	body, err := rest(offset)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer body.Close()
	x.copy(out, body, r.live.end-offset)
}
