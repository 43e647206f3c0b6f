package responsecache

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/herdless/herdless/responsecache/internal/fields"
)

// verdict says what may be done with a response, as far as its status and
// header tell.
type verdict struct {
	// store: it may be stored. Otherwise why says why not, for Cache-Status.
	store bool
	why   string
	// ttl is how much of its lifetime is left. It may be zero: then it is
	// stored only to be validated.
	ttl time.Duration
	// late is how stale it is already.
	late time.Duration
	// keep is how long it is kept after that.
	keep time.Duration
	// response has all of it but the body.
	response stored
	// vary are the request fields that it was selected by, lower case, sorted.
	vary []string
}

// response is what a handler has begun, as the cache looks at it.
type response struct {
	status int
	header http.Header   // as the handler left it, in canonical form
	own    http.Header   // without what others had set before
	took   time.Duration // from the request to the header
	came   time.Time     // when
}

// judge decides about a response to the request of x (RFC 9111 §3).
func (x *exchange) judge(resp *response) verdict {
	p, conforms := &x.route.policy, x.cache.profile == Conformance
	cc, targeted := x.directives(resp.header)
	h := resp.header
	v := verdict{response: stored{
		status: resp.status,
		public: p.Public || cc.Has("public") || cc.Has("s-maxage"),
		authOK: cc.Has("must-revalidate"),
		strict: cc.Has("must-revalidate") || cc.Has("proxy-revalidate") || cc.Has("s-maxage"),
		age:    initialAge(resp),
	}}
	s := &v.response
	s.authOK = s.authOK || s.public

	vary, ok := p.varyOf(h)
	v.vary = vary
	lifetime, explicit := x.lifetime(resp, cc, targeted)
	s.validate = cc.Has("no-cache") && !cc.Qualified("no-cache")
	switch {
	case !ok:
		return v.not("vary-star")
	case resp.status == http.StatusPartialContent || resp.status == http.StatusNotModified:
		return v.not("status")
	case cc.Has("must-understand") && !slices.Contains(understood, resp.status):
		return v.not("status")
	case cc.Has("no-store") && !cc.Has("must-understand"):
		return v.not("no-store")
	case cc.Has("private") && !cc.Qualified("private"):
		return v.not("private")
	case isEndless(h):
		return v.not("stream")
	case h.Get("Trailer") != "":
		return v.not("trailer")
	case len(h["Set-Cookie"]) > 0 && (!conforms || !explicit || len(h["Set-Cookie"]) != len(resp.own["Set-Cookie"])):
		return v.not("set-cookie")
	case len(x.r.Header["Authorization"]) > 0 && !s.authOK:
		return v.not("authorization")
	case hasCertificate(x.r) && !s.public:
		return v.not("credentials")
	case !conforms && hasCredentials(x.r) && !x.shares(s):
		return v.not("credentials")
	}
	if s.validate {
		lifetime = 0
	}
	v.ttl = max(0, lifetime-s.age)
	s.swr = tolerance(cc, "stale-while-revalidate", p.StaleWhileRevalidate)
	s.sie = tolerance(cc, "stale-if-error", p.StaleIfError)
	if s.strict || s.validate {
		s.swr, s.sie = 0, 0
	}
	validator := h.Get("Etag") != "" || h.Get("Last-Modified") != ""
	stated := explicit || s.validate || conforms && (cc.Has("public") || slices.Contains(heuristic, resp.status))
	v.keep = max(s.swr, s.sie)
	if validator || conforms {
		v.keep = max(v.keep, min(max(lifetime, minKept), maxKept))
	}
	v.late = max(0, s.age-lifetime)
	switch {
	case v.ttl > 0:
	case !stated:
		return v.not("no-lifetime")
	case !validator && (s.validate || v.late >= max(s.swr, s.sie)):
		return v.not("stale") // it is of no use
	}
	s.header = x.storable(resp, cc)
	if sizeOf(s.header) > maxHeader {
		return v.not("too-long")
	}
	v.store = true
	return v
}

// maxHeader is how many bytes of header fields are stored.
const maxHeader = 64 << 10

func sizeOf(h http.Header) int {
	size := 0
	for name, values := range h {
		if name == addedTags {
			continue // they are bounded as tags are
		}
		size += len(name)
		for _, value := range values {
			size += len(value) + len(": \r\n")
		}
	}
	return size
}

// isEndless reports a body of a type that has no end, events or the pictures of a
// camera: who came later would get old ones, and nobody would tell the handler that
// all clients have gone.
func isEndless(h http.Header) bool {
	typ, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	typ = strings.ToLower(strings.TrimSpace(typ))
	return typ == "text/event-stream" || typ == "multipart/x-mixed-replace"
}

// What a validator is good for after the lifetime.
const (
	minKept = 10 * time.Minute
	maxKept = 24 * time.Hour
)

func (v verdict) not(why string) verdict {
	v.store, v.why, v.ttl = false, why, 0
	return v
}

// directives returns what tells the cache what to do: the first targeted field that
// is valid (RFC 9213 §2.2), or Cache-Control.
func (x *exchange) directives(h http.Header) (cc fields.Directives, targeted bool) {
	for _, name := range x.cache.targets {
		if values := h[name]; len(values) > 0 {
			if d, ok := fields.ParseTargeted(values); ok {
				return d, true
			}
		}
	}
	return fields.ParseCacheControl(h["Cache-Control"]), false
}

// understood are the statuses whose caching requirements this cache implements
// (RFC 9111 §5.2.2.3). 206 is not among them: a part is never stored.
var understood = []int{
	http.StatusOK, http.StatusNonAuthoritativeInfo, http.StatusNoContent, http.StatusMultipleChoices, http.StatusMovedPermanently,
	http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect, http.StatusNotFound,
	http.StatusMethodNotAllowed, http.StatusGone, http.StatusRequestURITooLong, http.StatusNotImplemented,
}

// heuristic are the statuses that may be stored without a stated lifetime (RFC 9110
// §15.1), but for 206.
var heuristic = []int{
	http.StatusOK, http.StatusNonAuthoritativeInfo, http.StatusNoContent, http.StatusMultipleChoices, http.StatusMovedPermanently,
	http.StatusPermanentRedirect, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusGone, http.StatusRequestURITooLong,
	http.StatusNotImplemented,
}

// maxHeuristic bounds a lifetime that nobody has stated.
const maxHeuristic = 24 * time.Hour

// lifetime returns the freshness lifetime (RFC 9111 §4.2.1), and whether the
// response or the policy states one. Of the two the shorter counts.
func (x *exchange) lifetime(resp *response, cc fields.Directives, targeted bool) (time.Duration, bool) {
	p := &x.route.policy
	lifetime, explicit := explicitLifetime(resp, cc, targeted)
	switch {
	case explicit && p.TTL > 0:
		return min(lifetime, p.TTL+initialAge(resp)), true
	case explicit:
		return lifetime, true
	case slices.Contains(p.statuses(), resp.status):
		return p.TTL + initialAge(resp), true
	case x.cache.profile != Conformance || !slices.Contains(heuristic, resp.status) && !cc.Has("public"):
		return 0, false
	}
	modified, ok := fields.ParseDate(resp.header.Get("Last-Modified"), resp.came)
	if !ok {
		return 0, false
	}
	return min(max(0, date(resp).Sub(modified))/10, maxHeuristic), false
}

// explicitLifetime is the lifetime for shared caches that the response states.
func explicitLifetime(resp *response, cc fields.Directives, targeted bool) (time.Duration, bool) {
	for _, name := range []string{"s-maxage", "max-age"} {
		if d, ok := cc.Seconds(name); ok {
			return d, true
		}
	}
	expires := resp.header["Expires"]
	if len(expires) == 0 || targeted {
		return 0, false
	}
	end, ok := fields.ParseDate(expires[0], resp.came)
	if !ok || len(expires) > 1 {
		return 0, true // invalid: already expired (RFC 9111 §5.3)
	}
	return max(0, end.Sub(date(resp))), true
}

// date is when the response was made: its Date, or when it came.
func date(resp *response) time.Time {
	if d, ok := fields.ParseDate(resp.header.Get("Date"), resp.came); ok {
		return d
	}
	return resp.came
}

// initialAge is the age that the response had already when it came (RFC 9111
// §4.2.3).
func initialAge(resp *response) time.Duration {
	apparent := resp.came.Truncate(time.Second).Sub(date(resp).Truncate(time.Second))
	value, _, _ := strings.Cut(strings.Join(resp.header["Age"], ","), ",")
	age, _ := fields.ParseCacheControl([]string{"age=" + strings.TrimSpace(value)}).Seconds("age")
	if strings.ContainsAny(value, "\"=") {
		age = 0
	}
	return max(0, apparent, age+resp.took)
}

// tolerance is for how long a response may be used stale: as it says, or as the
// policy does.
func tolerance(cc fields.Directives, name string, policy time.Duration) time.Duration {
	if d, ok := cc.Seconds(name); ok {
		return d
	}
	return policy
}

// varyOf returns the names in the response's Vary fields together with the
// policy's, or false if the response varies on more than request fields.
func (p *Policy) varyOf(h http.Header) ([]string, bool) {
	names := append(slices.Clone(p.Vary), fields.Members(h["Vary"])...)
	if slices.Contains(names, "*") {
		return nil, false
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if p.Compress {
		// The handler is never told what the client accepts.
		names = slices.DeleteFunc(names, func(name string) bool { return name == "accept-encoding" })
	}
	return names, true
}

// notStored are the fields that belong to one connection or one delivery (RFC
// 9111 §3.1, RFC 9110 §7.6.1), or that are made anew for each.
var notStored = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Authorization", "Proxy-Connection",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Age", "Content-Length",
}

// storable returns the fields that may be stored.
func (x *exchange) storable(resp *response, cc fields.Directives) http.Header {
	drop := append(fields.Members(resp.header["Connection"]), fields.Members(cc.Fields("private"))...)
	drop = append(drop, fields.Members(cc.Fields("no-cache"))...)
	kept := make(http.Header, len(resp.own))
	for name, values := range resp.own {
		plain := strings.TrimPrefix(name, added)
		if !slices.Contains(notStored, plain) && !slices.Contains(drop, strings.ToLower(plain)) {
			kept[name] = values
		}
	}
	return kept
}

// added stands before the name of a field whose values are to be added to those
// that the response has, instead of replacing them. It cannot be part of a name.
const added = ":"

// difference returns the fields of h that the handler has set: those that differ
// from outer, which others have set for this one request.
func difference(h, outer http.Header) http.Header {
	own := make(http.Header, len(h))
	for name, values := range h {
		was, there := outer[name]
		if there && slices.Equal(values, was) {
			continue
		}
		if len(was) > 0 && len(values) > len(was) && slices.Equal(values[:len(was)], was) {
			own[added+name] = values[len(was):] // the handler has added to what others had set
			continue
		}
		own[name] = values
	}
	return own
}

// isPersonal reports fields that middleware around the cache has put on a response
// at the last moment, and that say that it must not be shared.
func isPersonal(before, after http.Header) bool { return marksOf(before).arePersonalBy(marksOf(after)) }

// marks are the fields that say so.
type marks struct {
	cookies int
	control []string
}

func marksOf(h http.Header) (m marks) {
	for name, values := range h {
		switch http.CanonicalHeaderKey(name) {
		case "Set-Cookie":
			m.cookies += len(values)
		case "Cache-Control":
			m.control = append(m.control, values...)
		}
	}
	return m
}

func (m marks) arePersonalBy(after marks) bool {
	if after.cookies > m.cookies {
		return true
	}
	if slices.Equal(m.control, after.control) {
		return false
	}
	cc := fields.ParseCacheControl(after.control)
	return cc.Has("no-store") || cc.Has("private") || cc.Has("no-cache")
}

// watched is a writer that sees what middleware around the cache adds at the last moment.
type watched struct {
	http.ResponseWriter
	before marks // as the cache has left them
	sent   bool  // the header has gone out
}

// WriteHeader implements http.ResponseWriter.
func (w *watched) WriteHeader(code int) {
	before := marksOf(w.Header())
	w.ResponseWriter.WriteHeader(code)
	if code >= 200 {
		w.before, w.sent = before, true
	}
}

// Unwrap returns the wrapped writer, for http.ResponseController.
func (w *watched) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// isForAll reports a response that has gone out, and that nobody has marked as personal.
func (w *watched) isForAll() bool {
	return w.sent && !w.before.arePersonalBy(marksOf(w.Header()))
}
