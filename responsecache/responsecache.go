package responsecache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/internal/nils"
)

// Cache is a shared HTTP cache (RFC 9111) for handlers. It is safe for
// concurrent use.
type Cache struct {
	engine   *cache.Engine
	name     string // as a member of Cache-Status
	profile  Profile
	targets  []string // the targeted fields, by priority
	maxBody  int
	refresh  http.Handler // nil: the wrapped handler
	logger   *slog.Logger
	keyed    atomic.Bool            // a route has a Policy.Key
	ruled    atomic.Bool            // a response had a No-Vary-Search rule
	rules    memory[pathName, rule] // of No-Vary-Search
	pages    *knownPages
	personal memory[string, struct{}] // keys of pages whose responses to requests with credentials are not for sharing
}

// Options are the options of a Cache. The zero value of a field means its
// default.
type Options struct {
	// Locker lets one server of all that share the store compute a page; a
	// *lock.Locker is one. Exactly those servers that share the store are to
	// share it. Nil: the servers do not know of one another, and each computes
	// for itself.
	Locker cache.Locker

	// Profile says how far to go where RFC 9111 leaves a choice. Default Safe.
	Profile Profile

	// Name names this cache in the Cache-Status field (RFC 9211 §2) of every
	// response but those on hijacked connections, in visible ASCII characters
	// and blanks. Its parameter "stored" says that the header allows storing;
	// a body that turns out too long or unfinished is not stored all the same.
	// Default "herdless".
	Name string

	// Targeted is the name of the targeted field (RFC 9213) that is for this
	// cache alone, and is taken off on the way out. It counts before
	// CDN-Cache-Control, and that before Cache-Control. Default
	// "Herdless-Cache-Control".
	Targeted string

	// MaxBody is the length in bytes up to which a body is stored. Longer
	// ones pass through. Bodies of more than 256 KiB are kept in parts and never
	// as a whole in memory, if the store is a cache.BodyStore. Default 1 MiB.
	MaxBody int

	// Refresh serves the requests by which stale pages are made anew in the
	// background. They are copies of those that found the pages stale, and must
	// reach the same route, whose handler then runs. Nil: the handler that the
	// route wraps is called directly, unless middleware outside has marked the stale
	// response as personal (Set-Cookie, private, no-store). Where that is impossible, as in gin, set
	// it to the router; without it one request in the cluster makes the page
	// anew and waits for it, while the others get the stale one.
	Refresh http.Handler

	// LeaseTTL, WaitTimeout, StoreTimeout and Observe are those of
	// cache.Options.
	LeaseTTL     time.Duration
	WaitTimeout  time.Duration
	StoreTimeout time.Duration
	Observe      func(context.Context, cache.Event)

	// Logger gets a line when the store or the locker fails. Default
	// slog.Default().
	Logger *slog.Logger
}

const (
	defaultName     = "herdless"
	defaultTargeted = "Herdless-Cache-Control"
	defaultMaxBody  = 1 << 20
)

// New returns a Cache on store. Nil options mean the defaults. All that is
// wrong with the arguments is reported in one error.
func New(store cache.Store, o *Options) (*Cache, error) {
	if o == nil {
		o = &Options{}
	}
	c := &Cache{
		name: defaultName, profile: o.Profile, targets: []string{defaultTargeted, "Cdn-Cache-Control"},
		maxBody: defaultMaxBody, refresh: o.Refresh, logger: o.Logger, pages: newKnownPages(),
	}
	if c.logger == nil {
		c.logger = slog.Default()
	}
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("responsecache: Options."+format, args...))
	}
	if o.Profile > Conformance {
		fault("Profile is %d, it must be Safe or Conformance", o.Profile)
	}
	if o.Name != "" {
		c.name = o.Name
	}
	if strings.ContainsFunc(c.name, func(r rune) bool { return r < ' ' || r > '~' }) {
		fault("Name %q has characters other than visible ASCII and blanks", c.name)
	}
	c.name = bareItem(c.name)
	if o.Targeted != "" {
		c.targets[0] = http.CanonicalHeaderKey(o.Targeted)
	}
	if strings.ContainsFunc(c.targets[0], isNotTchar) {
		fault("Targeted %q is not the name of a field", o.Targeted)
	}
	if o.MaxBody != 0 {
		c.maxBody = o.MaxBody
	}
	if o.Refresh != nil && nils.Is(o.Refresh) {
		fault("Refresh is a nil %T; leave it out, or pass the router", o.Refresh)
	}
	if c.maxBody < 0 {
		fault("MaxBody is %d, it must not be negative", c.maxBody)
	}
	var err error
	c.engine, err = cache.New(store, &cache.Options{
		Locker:       o.Locker,
		LeaseTTL:     o.LeaseTTL,
		WaitTimeout:  o.WaitTimeout,
		StoreTimeout: o.StoreTimeout,
		Observe:      o.Observe,
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

func isNotTchar(r rune) bool {
	return r > '~' || r <= ' ' || strings.ContainsRune("\"(),/:;<=>?@[\\]{}", r)
}

// Stats are the figures of the engine under the cache.
func (c *Cache) Stats() cache.Stats { return c.engine.Stats() }
