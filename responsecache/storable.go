package responsecache

import (
	"net/http"
	"slices"
	"time"
)

// verdict says what may be done with a response, as far as its status and
// headers tell.
type verdict struct {
	// ttl is how long the response may be served from the store; zero: it
	// must not be stored.
	ttl time.Duration
	// public reports that it may be served to requests with credentials.
	public bool
	// vary are the request fields that it was selected by, lower case, sorted.
	vary []string
}

// judge decides about the response that a handler has begun. h are its headers
// as the handler left them; final are those that went out, with what outer
// middleware added at the last moment, such as a session cookie.
func (p *Policy) judge(status int, h, final http.Header) verdict {
	cc := parseCacheControl(h)
	v := verdict{public: p.Public || cc.has("public") || cc.has("s-maxage")}
	vary, ok := p.varyOf(h)
	if !ok || isPersonal(h) || isPersonal(final) || h.Get("Trailer") != "" {
		return v
	}
	v.vary = vary
	v.ttl = p.freshness(status, cc, h)
	return v
}

// isPersonal reports headers of a response that must not be shared, whoever
// added them.
func isPersonal(h http.Header) bool {
	if _, ok := h["Set-Cookie"]; ok {
		return true
	}
	cc := parseCacheControl(h)
	// private and no-cache may name fields, and then concern only those;
	// leaving the whole response alone is always right (RFC 9111 §5.2.2.4).
	return cc.has("no-store") || cc.has("private") || cc.has("no-cache")
}

// understood are the statuses that a response may be stored with if it says
// itself that it is fresh. A 206 is a part, a 304 is an answer to a condition.
var understood = []int{
	http.StatusOK, http.StatusNonAuthoritativeInfo, http.StatusMultipleChoices, http.StatusMovedPermanently,
	http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect, http.StatusNotFound, http.StatusGone,
}

// freshness returns the freshness lifetime that is left (RFC 9111 §4.2). What
// the response says and what the policy says both hold: the shorter counts.
func (p *Policy) freshness(status int, cc directives, h http.Header) time.Duration {
	explicit, ok := explicitLifetime(cc, h)
	switch {
	case !ok && !slices.Contains(p.statuses(), status):
		return 0
	case !ok:
		return p.TTL
	case !slices.Contains(understood, status) && !slices.Contains(p.statuses(), status):
		return 0
	}
	explicit -= initialAge(h)
	if p.TTL > 0 {
		explicit = min(explicit, p.TTL)
	}
	return max(0, explicit)
}

// explicitLifetime is the lifetime for shared caches that the response states
// (RFC 9111 §4.2.1).
func explicitLifetime(cc directives, h http.Header) (time.Duration, bool) {
	for _, name := range []string{"s-maxage", "max-age"} {
		if d, ok := cc.seconds(name); ok {
			return d, true
		}
	}
	expires := h.Values("Expires")
	if len(expires) == 0 {
		return 0, false
	}
	end, err := http.ParseTime(expires[0])
	if err != nil || len(expires) > 1 {
		return 0, true // invalid: already expired (RFC 9111 §5.3)
	}
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		date = time.Now()
	}
	return max(0, end.Sub(date)), true
}

// initialAge is the age that the response had already when it came (RFC 9111
// §4.2.3).
func initialAge(h http.Header) time.Duration {
	age, _ := directives{"age": h.Get("Age")}.seconds("age")
	return age
}

// varyOf returns the names in the response's Vary fields together with the
// policy's, or false if the response varies on more than request fields.
func (p *Policy) varyOf(h http.Header) ([]string, bool) {
	names := append(slices.Clone(p.Vary), members(h.Values("Vary"))...)
	if slices.Contains(names, "*") {
		return nil, false
	}
	slices.Sort(names)
	return slices.Compact(names), true
}
