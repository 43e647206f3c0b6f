package responsecache

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/internal/respwriter"
	"github.com/herdless/herdless/responsecache/internal/fields"
)

// invalidate lets the handler answer a request that may change the page, and
// removes the page if it succeeded (RFC 9111 §4.4), before the client learns
// that: its next request must not see the old one.
func (x *exchange) invalidate(ctx context.Context) {
	x.name = nameOf(x.r, x.route.policy.Key) // before the handler changes x.r.URL
	asked := time.Now()
	r := x.ownRequest()
	// The change has happened. Whether the client waits for the answer or not, the
	// old page must go.
	ctx = context.WithoutCancel(ctx)
	rec := &representation{x: x, asked: asked, outer: x.w.Header().Clone()}
	w := respwriter.New(x.w, func(code int) bool {
		h := x.w.Header()
		if code >= 200 && code < 400 {
			if err := x.removeChanged(ctx, canonical(h)); err != nil {
				x.cache.logger.ErrorContext(ctx, "responsecache: a page that was changed could not be removed", "path", x.r.URL.Path, "error", err)
			}
			rec.begin(ctx, code, h)
		}
		x.cache.takeOff(h)
		x.addStatus(status{fwd: "method"})
		return true
	})
	rec.Writer = w
	defer rec.finish(ctx) // also if the handler panics
	if x.r.Method == http.MethodPost {
		x.next.ServeHTTP(rec, r)
	} else {
		x.next.ServeHTTP(w, r)
	}
	sendHeader(w)
	rec.complete = true
}

// removeChanged removes what a successful unsafe request has changed: its page,
// those that Location and Content-Location name on the same origin, and the groups
// that the response names (RFC 9875 §3).
func (x *exchange) removeChanged(ctx context.Context, h http.Header) error {
	pages := []pageName{x.name}
	for _, field := range []string{"Location", "Content-Location"} {
		if name, ok := x.sameOrigin(h.Get(field)); ok && name != x.name {
			pages = append(pages, name)
		}
	}
	err := x.cache.purge(ctx, pages, false, false)
	if groups := fields.ParseGroups(h["Cache-Group-Invalidation"]); len(groups) > 0 && err == nil {
		err = x.engine.PurgeTags(ctx, groupTags(x.name.origin(), groups)...)
	}
	return err
}

// sameOrigin returns the name of the page that a reference leads to, if it is on the
// origin of the request.
func (x *exchange) sameOrigin(reference string) (pageName, bool) {
	ref, err := url.Parse(reference)
	if err != nil || reference == "" {
		return pageName{}, false
	}
	base, err := url.Parse(x.name.scheme + "://" + x.r.Host + x.name.path + x.name.query)
	if err != nil {
		return pageName{}, false
	}
	u := base.ResolveReference(ref)
	if u.Path == "" {
		u.Path = "/"
	}
	name := nameOfURL(u.Scheme, u.Host, u)
	name.extra = x.name.extra
	return name, name.origin() == x.name.origin()
}

// representation records the response to a POST that says that it is what a GET of
// the same URL would get: with a lifetime, and the URL in Content-Location (RFC 9110
// §9.3.3).
type representation struct {
	*respwriter.Writer
	x     *exchange
	asked time.Time
	outer http.Header

	verdict verdict
	header  http.Header
	came    time.Time
	length  string
	keep    bool
	sniffed string // the Content-Type that net/http has found out
	body    bytes.Buffer
	// complete: the handler has returned.
	complete bool
	// end ends the write of the page, or is nil: what purges it from the header on, while
	// the client reads the body, keeps the response out.
	end func(context.Context, cache.Entry) error
}

// begin decides whether the response is recorded. Its header is about to be sent.
func (rec *representation) begin(ctx context.Context, code int, sent http.Header) {
	x, h := rec.x, canonical(sent)
	name, ok := x.sameOrigin(h.Get("Content-Location"))
	if x.route.policy.Compress && h.Get("Content-Encoding") != "" {
		return // in a coding that this client accepts, and others may not
	}
	if !ok || x.r.Method != http.MethodPost || name.key() != x.name.key() || parseWants(x.r.Header).noStore {
		return
	}
	rec.came = time.Now()
	setDate(sent, rec.came)
	setDate(h, rec.came)
	rec.header, rec.length = h, h.Get("Content-Length")
	resp := &response{status: code, header: h, own: difference(h, rec.outer), took: rec.came.Sub(rec.asked), came: rec.came}
	resp.own["Date"] = h["Date"] // also if it is of middleware outside of the cache
	cc, targeted := x.directives(h)
	_, explicit := explicitLifetime(resp, cc, targeted)
	rec.verdict = x.judge(resp)
	if !explicit || !rec.verdict.store || rec.verdict.ttl <= 0 || len(rec.verdict.vary) > 0 || code != http.StatusOK {
		return
	}
	var err error
	rec.end, err = x.engine.BeginWrite(ctx, x.name.key())
	rec.keep = err == nil // it has been logged
}

// WriteHeader implements http.ResponseWriter.
func (rec *representation) WriteHeader(code int) {
	if begun := rec.Status(); begun != 0 && begun != code {
		rec.keep = false // it wants to take back what it has begun
	}
	rec.Writer.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (rec *representation) Write(p []byte) (int, error) {
	if rec.Status() == 0 {
		setType(rec.x.w.Header(), p)
	} else if rec.keep && rec.body.Len() == 0 {
		rec.sniffed = typeOf(rec.header, p)
	}
	n, err := rec.Writer.Write(p)
	rec.keep = rec.keep && err == nil
	rec.record(p[:n])
	return n, err
}

// WriteString implements io.StringWriter.
func (rec *representation) WriteString(s string) (int, error) { return rec.Write([]byte(s)) }

// ReadFrom implements io.ReaderFrom.
func (rec *representation) ReadFrom(r io.Reader) (int64, error) {
	if rec.Status() != 0 && !rec.keep {
		return rec.Writer.ReadFrom(r)
	}
	return io.Copy(onlyWriter{rec}, r)
}

// Hijack implements http.Hijacker. The response is not stored.
func (rec *representation) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	rec.keep = false
	return rec.Writer.Hijack()
}

func (rec *representation) record(p []byte) {
	if !rec.keep {
		return
	}
	if int64(rec.body.Len()+len(p)) > rec.x.route.maxBody {
		rec.keep = false
		return
	}
	rec.body.Write(p)
}

// finish stores what was recorded, unless somebody has stored something newer.
func (rec *representation) finish(ctx context.Context) {
	if rec.end == nil {
		return
	}
	x := rec.x
	if err := rec.end(ctx, rec.entry(ctx)); err != nil {
		x.cache.logger.ErrorContext(ctx, "responsecache: the response to a POST could not be stored", "path", x.r.URL.Path, "error", err)
	}
}

// entry returns what is to be stored. It has no TTL if nothing is.
func (rec *representation) entry(ctx context.Context) (none cache.Entry) {
	x := rec.x
	// Middleware outside of the cache may have added a session's cookie since.
	if !rec.keep || !rec.complete || isPersonal(rec.header, canonical(x.w.Header())) || rec.length != "" && rec.length != strconv.Itoa(rec.body.Len()) {
		return none
	}
	if hasTrailer(x.w.Header()) {
		return none
	}
	// A GET since the header has found what came of the POST, and maybe more. What it has
	// stored stays for writtenOver.
	_, found, err := x.engine.Get(ctx, x.name.key())
	took := time.Since(rec.came)
	if found || err != nil || took >= writtenOver {
		return none
	}
	s := rec.verdict.response
	if rec.sniffed != "" {
		s.header = s.header.Clone()
		s.header["Content-Type"] = []string{rec.sniffed}
	}
	s.age += took
	s.body = rec.body.Bytes()
	e := cache.Entry{Kind: cache.Value, Data: s.encode(), TTL: rec.verdict.ttl - took, StaleFor: rec.verdict.keep, Tags: x.tagsOf(rec.header)}
	if len(e.Tags) > maxTags {
		return none
	}
	return e
}

// writtenOver is for how long a page stays that is made while it is being written (see
// cache.Engine.BeginWrite).
const writtenOver = time.Second
