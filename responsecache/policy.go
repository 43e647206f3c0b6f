package responsecache

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/herdless/herdless/internal/durations"
)

// Profile says how far a Cache goes where RFC 9111 leaves it a choice.
type Profile uint8

const (
	// Safe, the default, leaves out what goes wrong where handlers are not
	// written with a shared cache in mind.
	Safe Profile = iota

	// Conformance is what a shared cache may do by RFC 9111, such as one in
	// front of origins that know of it. Unlike Safe it
	//
	//   - stores responses that say nothing of their lifetime for a tenth of
	//     the time since their Last-Modified (§4.2.2), a day at most, and those
	//     with a validator only to ask for each use whether they still hold;
	//   - stores responses with Set-Cookie that have a lifetime of their own
	//     (§7.3);
	//   - takes a Cookie in a request for an ordinary field, which matters
	//     only if a response varies on it;
	//   - takes request fields that a response varies on for lists, whose white
	//     space and lines do not count (§4.1); Safe does so for Accept and the
	//     like, whose syntax it knows;
	//   - serves a stale response if the handler fails and the response does
	//     not forbid that (§4.2.4), also without stale-if-error;
	//   - stores what a request with Authorization has brought if the response
	//     permits it (§3.5), as Safe does, without waiting for a request
	//     without it.
	Conformance
)

// Policy says how the responses of a route are cached. What the handler says in
// its response headers always holds as well, if it allows less. The zero value of
// a field means that the response alone decides, or the default named there.
type Policy struct {
	// TTL is how long a response is fresh that states no lifetime, in whole
	// seconds at best. If it states one, the shorter of the two counts. Zero:
	// only responses that state their own lifetime are stored.
	TTL time.Duration

	// StaleWhileRevalidate is for how long after its lifetime a response that
	// does not say so itself is served, while one server makes a new one in the
	// background (RFC 5861 §3).
	StaleWhileRevalidate time.Duration

	// StaleIfError is for how long after its lifetime a response that does not
	// say so itself is served if making a new one fails (RFC 5861 §4).
	StaleIfError time.Duration

	// IsError says which responses are failures, for stale-if-error. A panic
	// always is. It must be safe for concurrent use. Nil: 502, 503 and 504.
	IsError func(status int, h http.Header) bool

	// Public says that the handler answers everybody alike, whatever cookies
	// or Authorization they send, as if each response were declared
	// Cache-Control: public. Requests with credentials share only such
	// responses. Never set it for a page that shows who is logged in.
	Public bool

	// Vary names request fields that the handler's responses depend on, in
	// addition to those in their Vary fields.
	Vary []string

	// Key returns what names the page besides its URL, such as a tenant that
	// middleware has found out. Requests with different results never share. It
	// must be safe for concurrent use. Nil: nothing.
	Key func(*http.Request) string

	// Tags are given to each response, besides those that the handler gives by
	// AddTags or its Surrogate-Key and Cache-Tag fields.
	Tags []string

	// Methods are those that are cached: of GET and HEAD. Nil means both.
	Methods []string

	// Statuses are those that TTL holds for. Nil means 200 only. 206 and 304
	// are never stored.
	Statuses []int

	// MaxBody is the length in bytes up to which a body is stored. Default that
	// of the Options.
	MaxBody int

	// Compress stores a response once, without a content coding, and serves it
	// in br, zstd or gzip to those who accept it. The handler is asked for no
	// coding. Responses that have one already, or are of a type that gains
	// nothing, are left as they are.
	Compress bool
}

func (p *Policy) statuses() []int {
	if p.TTL <= 0 {
		return nil
	}
	if p.Statuses == nil {
		return []int{http.StatusOK}
	}
	return p.Statuses
}

func (p *Policy) caches(method string) bool {
	if p.Methods == nil {
		return method == http.MethodGet || method == http.MethodHead
	}
	return slices.Contains(p.Methods, method)
}

func (p *Policy) isError(status int, h http.Header) bool {
	if p.IsError != nil {
		return p.IsError(status, h)
	}
	return status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout
}

func (p *Policy) validate() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("responsecache: Policy."+format, args...))
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"TTL", p.TTL},
		{"StaleWhileRevalidate", p.StaleWhileRevalidate},
		{"StaleIfError", p.StaleIfError},
	} {
		if d.value < 0 {
			fault("%s is %v, it must not be negative", d.name, d.value)
		}
		if short := durations.Fault(d.value); short != "" {
			fault("%s %s", d.name, short)
		}
	}
	if p.MaxBody < 0 {
		fault("MaxBody is %d, it must not be negative", p.MaxBody)
	}
	for _, name := range p.Vary {
		if name == "" || strings.ContainsAny(name, "*, \t\r\n") {
			fault("Vary contains %q, which is not the name of a request field", name)
		}
	}
	for _, method := range p.Methods {
		if method != http.MethodGet && method != http.MethodHead {
			fault("Methods contains %q; only GET and HEAD can be cached", method)
		}
	}
	for _, status := range p.Statuses {
		if status < 200 || status > 999 || status == http.StatusPartialContent || status == http.StatusNotModified {
			fault("Statuses contains %d, which cannot be stored", status)
		}
	}
	return errors.Join(faults...)
}

// Route is a Cache with a Policy. It is safe for concurrent use.
type Route struct {
	cache   *Cache
	policy  Policy
	maxBody int64
}

// With returns the cache for a route with the policy p. It panics if p is
// invalid, which is a mistake in the program, as http.ServeMux.Handle does for
// an invalid pattern.
func (c *Cache) With(p Policy) *Route {
	if err := p.validate(); err != nil {
		panic(err.Error())
	}
	p.Vary = slices.Clone(p.Vary)
	for i, name := range p.Vary {
		p.Vary[i] = strings.ToLower(name)
	}
	p.Statuses = slices.Clone(p.Statuses)
	p.Methods = slices.Clone(p.Methods)
	p.Tags = slices.Clone(p.Tags)
	rt := &Route{cache: c, policy: p, maxBody: int64(c.maxBody)}
	if p.MaxBody > 0 {
		rt.maxBody = int64(p.MaxBody)
	}
	if p.Key != nil {
		c.keyed.Store(true)
	}
	return rt
}

// Handler caches the responses of next that state their own lifetime.
func (c *Cache) Handler(next http.Handler) http.Handler {
	return c.With(Policy{}).Handler(next)
}
