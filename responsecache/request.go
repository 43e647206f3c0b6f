package responsecache

import (
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/responsecache/internal/fields"
)

// isUnsafe reports a method that may change something (RFC 9110 §9.2.1), known
// or not.
func isUnsafe(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, "QUERY", "PROPFIND", "REPORT", "SEARCH":
		return false
	}
	return true
}

// whyBypass returns the reason for which the cache stays out of a request, as
// the fwd parameter of Cache-Status names it (RFC 9211 §2.2), or "".
func (a *asked) whyBypass() string {
	r := a.r
	switch {
	case !a.route.policy.caches(r.Method):
		return "method"
	case r.ContentLength != 0: // the handler may look at the body, which no key names
		return "bypass"
	case a.says&saysBypass > 0 && (has(r.Header, "Upgrade") || has(r.Header, "If-Match") || has(r.Header, "If-Unmodified-Since")):
		return "bypass"
	case r.URL.Opaque != "": // as in "GET http:x HTTP/1.1"
		return "bypass"
	case a.wants.noStore:
		return "request"
	}
	return ""
}

// said is which of the fields that matter to the cache a request has: most requests
// have none, and to look for each costs more than to look at all that there are once.
type said uint8

const (
	saysWants       said = 1 << iota // Cache-Control, Pragma
	saysBypass                       // see whyBypass
	saysPart                         // not all of a response is wanted, or not in any case
	saysCredentials                  // Cookie, Authorization
)

func saidBy(h http.Header) (s said) {
	for name := range h {
		switch name {
		case "Cache-Control", "Pragma":
			s |= saysWants
		case "Upgrade", "If-Match", "If-Unmodified-Since":
			s |= saysBypass
		case "If-None-Match", "If-Modified-Since", "Range":
			s |= saysPart
		case "Cookie", "Authorization":
			s |= saysCredentials
		}
	}
	return s
}

// has reports a field that is not empty, given by its canonical name.
func has(h http.Header, name string) bool {
	values := h[name]
	return len(values) > 0 && values[0] != ""
}

// hasCredentials reports a request whose response may be for its sender only.
func hasCredentials(r *http.Request) bool {
	return len(r.Header["Cookie"]) > 0 || len(r.Header["Authorization"]) > 0 || hasCertificate(r)
}

func hasCertificate(r *http.Request) bool { return r.TLS != nil && len(r.TLS.PeerCertificates) > 0 }

// isPersonal reports a request whose response, for all that is known, is for its
// sender only.
func (a *asked) isPersonal() bool {
	if a.route.policy.Public {
		return false
	}
	if a.cache.profile == Conformance {
		return len(a.r.Header["Authorization"]) > 0 || hasCertificate(a.r)
	}
	return hasCredentials(a.r)
}

// shares reports whether the sender of the request may get a response that was
// made for another request.
func (a *asked) shares(s *stored) bool {
	switch {
	case s.public:
		return true
	case hasCertificate(a.r), a.cache.profile == Safe && len(a.r.Header["Cookie"]) > 0:
		return false
	}
	return s.authOK || len(a.r.Header["Authorization"]) == 0
}

// wants is what the Cache-Control of a request says (RFC 9111 §5.2.1).
type wants struct {
	noCache, noStore, onlyIfCached bool
	// Zero or more, or absent.
	maxAge, minFresh, maxStale time.Duration
}

const (
	absent    = time.Duration(-1)
	unbounded = time.Duration(math.MaxInt64)
)

// nothing is what most requests want in particular.
var nothing = wants{maxAge: absent, minFresh: absent, maxStale: absent}

func parseWants(h http.Header) wants {
	w := nothing
	values := h["Cache-Control"]
	if len(values) == 0 {
		// RFC 9111 §5.4.
		w.noCache = len(h["Pragma"]) > 0 && slices.Contains(fields.Members(h["Pragma"]), "no-cache")
		return w
	}
	cc := fields.ParseCacheControl(values)
	w.noCache, w.noStore, w.onlyIfCached = cc.Has("no-cache"), cc.Has("no-store"), cc.Has("only-if-cached")
	w.maxAge, w.minFresh, w.maxStale = stated(cc, "max-age"), stated(cc, "min-fresh"), stated(cc, "max-stale")
	if w.maxStale == 0 && isBare(values, "max-stale") {
		w.maxStale = unbounded
	}
	return w
}

// stated returns the seconds of a directive, or absent.
func stated(cc fields.Directives, name string) time.Duration {
	if d, ok := cc.Seconds(name); ok {
		return d
	}
	return absent
}

// isBare reports a directive without an argument.
func isBare(values []string, name string) bool { return slices.Contains(fields.Members(values), name) }

// lane names what the request wants of what is stored. Requests that want the same
// can share what one of them has found.
func (w *wants) lane() string {
	if !w.noCache && w.maxAge == absent && w.minFresh == absent && w.maxStale == absent {
		return ""
	}
	if w.noCache {
		return "no-cache"
	}
	return strings.Join([]string{seconds(w.maxAge), seconds(w.minFresh), seconds(w.maxStale)}, " ")
}

// fit says what to do with a stored response (RFC 9111 §4).
func (a *asked) fit(s *stored, e *cache.Entry) cache.Verdict {
	w := &a.wants
	switch {
	case s.validate:
		return cache.FallBack
	case w.noCache:
		return a.anew(s, e)
	case s.failing && e.TTL > 0 && w.maxAge == absent && w.minFresh == absent:
		return cache.Use
	}
	age, left := s.age+e.Age, s.left(e)
	young := w.maxAge == absent || age < w.maxAge
	if left > 0 {
		if young && left >= w.minFresh {
			return cache.Use
		}
		return a.anew(s, e)
	}
	stale := -left
	switch {
	case s.strict || !young || w.minFresh > 0:
		return cache.FallBack
	case stale <= w.maxStale:
		return cache.Use
	case s.swr > 0 && stale <= s.swr:
		return cache.UseAndRefresh
	}
	return cache.FallBack
}

// left is what is left of the lifetime of a stored response; if it is negative, for
// how long it has been stale.
func (s *stored) left(e *cache.Entry) time.Duration {
	if s.stale {
		return -s.late - e.Age
	}
	return e.TTL
}

// anew is the verdict on an entry that the request does not want: only one that was
// made since it came will do, by a handler that others have asked. That another
// version is found tells nothing: this process may have known an older one. Nor does it
// that the entry was stored since: its client had it before.
func (a *asked) anew(s *stored, e *cache.Entry) cache.Verdict {
	// By so much an age can be too small: the time that storing and reading take.
	const inexact = 100 * time.Millisecond
	if s.left(e) > 0 && s.age+e.Age+inexact < time.Since(a.came) {
		return cache.Use
	}
	return cache.FallBack
}

// canFallBack reports whether a stale response will do if the handler fails.
func (a *asked) canFallBack(s *stored, e *cache.Entry) bool {
	return !a.wants.noCache && a.outlivesFailure(s, e)
}

// outlivesFailure is canFallBack for a request that wants nothing in particular.
func (a *asked) outlivesFailure(s *stored, e *cache.Entry) bool {
	stale := max(0, -s.left(e))
	if s.strict || s.validate {
		return false
	}
	return stale <= s.sie && s.sie > 0 || a.cache.profile == Conformance
}
