package responsecache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/herdless/herdless/cache"
)

// Cache is a shared HTTP cache (RFC 9111) for handlers. It is safe for
// concurrent use.
type Cache struct {
	engine  *cache.Engine
	name    string // as a member of Cache-Status
	maxBody int
	logger  *slog.Logger
}

// Options are the options of a Cache. The zero value of a field means its
// default.
type Options struct {
	// Locker lets one server of all that share the store compute a page; a
	// *lock.Locker is one. Exactly those servers that share the store are to
	// share it. Nil: the servers do not know of one another, and each computes
	// for itself.
	Locker cache.Locker

	// Name names this cache in the Cache-Status field (RFC 9211 §2) of every
	// response but those on hijacked connections, in visible ASCII characters
	// and blanks. Its parameter "stored" says that the header allows storing;
	// a body that turns out too long or unfinished is not stored all the same.
	// Default "herdless".
	Name string

	// MaxBody is the length in bytes up to which a body is stored. Longer
	// ones pass through. Default 1 MiB.
	MaxBody int

	// LeaseTTL, WaitTimeout and StoreTimeout are those of cache.Options.
	LeaseTTL     time.Duration
	WaitTimeout  time.Duration
	StoreTimeout time.Duration

	// Logger gets a line when the store or the locker fails. Default
	// slog.Default().
	Logger *slog.Logger
}

const (
	defaultName    = "herdless"
	defaultMaxBody = 1 << 20
)

// New returns a Cache on store. Nil options mean the defaults. All that is
// wrong with the arguments is reported in one error.
func New(store cache.Store, o *Options) (*Cache, error) {
	if o == nil {
		o = &Options{}
	}
	c := &Cache{name: defaultName, maxBody: defaultMaxBody, logger: o.Logger}
	if c.logger == nil {
		c.logger = slog.Default()
	}
	var faults []error
	if o.Name != "" {
		c.name = o.Name
	}
	if strings.ContainsFunc(c.name, func(r rune) bool { return r < ' ' || r > '~' }) {
		faults = append(faults, fmt.Errorf("responsecache: Options.Name %q has characters other than visible ASCII and blanks", c.name))
	}
	c.name = bareItem(c.name)
	if o.MaxBody != 0 {
		c.maxBody = o.MaxBody
	}
	if c.maxBody < 0 {
		faults = append(faults, fmt.Errorf("responsecache: Options.MaxBody is %d, it must not be negative", c.maxBody))
	}
	var err error
	c.engine, err = cache.New(store, &cache.Options{
		Locker:       o.Locker,
		LeaseTTL:     o.LeaseTTL,
		WaitTimeout:  o.WaitTimeout,
		StoreTimeout: o.StoreTimeout,
		Logger:       c.logger,
	})
	if err != nil {
		faults = append(faults, fmt.Errorf("responsecache: %w", err))
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return c, nil
}

// Policy says how the responses of a route are cached. What the handler says in
// its response headers always holds as well, if it allows less.
type Policy struct {
	// TTL is how long a response is fresh, in whole seconds at best. Zero:
	// only responses that state their own lifetime are stored. If the
	// response states one, the shorter of the two counts.
	TTL time.Duration

	// Public says that the handler answers everybody alike, whatever cookies
	// or Authorization they send, as if each response were declared
	// Cache-Control: public. Requests with credentials share only such
	// responses. Never set it for a page that shows who is logged in.
	Public bool

	// Vary names request fields that the handler's responses depend on, in
	// addition to those in their Vary fields.
	Vary []string

	// Statuses are those that TTL holds for. Nil means 200 only. 206 and 304
	// are never stored.
	Statuses []int
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

func (p *Policy) validate() error {
	var faults []error
	if p.TTL < 0 {
		faults = append(faults, fmt.Errorf("responsecache: Policy.TTL is %v, it must not be negative", p.TTL))
	}
	for _, name := range p.Vary {
		if name == "" || strings.ContainsAny(name, "*, \t\r\n") {
			faults = append(faults, fmt.Errorf("responsecache: Policy.Vary contains %q, which is not the name of a request field", name))
		}
	}
	for _, status := range p.Statuses {
		if status < 200 || status > 999 || status == http.StatusPartialContent || status == http.StatusNotModified {
			faults = append(faults, fmt.Errorf("responsecache: Policy.Statuses contains %d, which cannot be stored", status))
		}
	}
	return errors.Join(faults...)
}

// Route is a Cache with a Policy. It is safe for concurrent use.
type Route struct {
	cache  *Cache
	policy Policy
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
		p.Vary[i] = token(name)
	}
	p.Statuses = slices.Clone(p.Statuses)
	return &Route{cache: c, policy: p}
}

// Handler caches the responses of next that state their own lifetime.
func (c *Cache) Handler(next http.Handler) http.Handler {
	return c.With(Policy{}).Handler(next)
}

// Purge removes the page at rawURL with all its variants, on all servers. A
// computation of it that has begun is not stored any more. rawURL is the
// absolute URL as this server sees it: behind a proxy that ends TLS, that is
// http:// and the Host that the proxy sends on, not what the browser shows.
// Spelling counts: a port, the order of a query, percent-encoding as the clients
// write them. A URL under which nothing is stored is no error.
func (c *Cache) Purge(ctx context.Context, rawURL string) error {
	key, err := parsePage(rawURL)
	if err != nil {
		return err
	}
	if err := c.engine.Purge(ctx, key); err != nil {
		return fmt.Errorf("responsecache: purge of %s: %w", rawURL, err)
	}
	return nil
}
