package responsecache

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/internal/reqbound"
	"github.com/herdless/herdless/internal/respwriter"
)

const (
	// hitForMiss is how long it is remembered that a page must not be shared,
	// so that requests for it do not queue; failureForMiss, that it could not
	// be served.
	hitForMiss     = 10 * time.Second
	failureForMiss = time.Second
)

// Handler caches the responses of next.
func (rt *Route) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := &exchange{route: rt, cache: rt.cache, engine: rt.cache.engine, next: next, w: w, r: r, came: time.Now()}
		if isUnsafe(r.Method) {
			x.invalidate(r.Context())
			return
		}
		x.serve(r.Context())
	})
}

// exchange is one request on its way through the cache.
type exchange struct {
	route  *Route
	cache  *Cache
	engine *cache.Engine
	next   http.Handler
	w      http.ResponseWriter
	r      *http.Request

	wants    wants
	name     pageName
	rule     rule   // of No-Vary-Search, under which the page was looked for
	page     string // key of the page
	personal bool   // for all that is known, the response is for the sender only
	served   bool   // the handler ran and answered the client
	// background: there is no client.
	background bool
	came       time.Time // when the request did

	copied *http.Request // for a refresh in the background

	held   io.ReadCloser // an open body, for the reply that may need it, or nil
	heldID string        // which body that is

	mu   sync.Mutex
	tags []string // that the handler has added
}

// leading is the context key of the exchange that computes a page.
type leading struct{}

func (x *exchange) serve(ctx context.Context) {
	x.wants = parseWants(x.r.Header)
	if why := x.whyBypass(); why != "" {
		x.forward(why)
		return
	}
	x.name = nameOf(x.r, x.route.policy.Key)
	if again, ok := ctx.Value(refreshing{}).(*refresh); ok && again.engine == x.engine && again.name == x.name {
		again.handle(x)
		return
	}
	x.page = x.name.key()
	if outer, ok := ctx.Value(leading{}).(*exchange); ok && outer.engine == x.engine && outer.name == x.name {
		// The same Cache computes the same page around this handler, and
		// would wait for itself. The inner policy is the more special one.
		outer.route = x.route
		x.next.ServeHTTP(x.w, x.r)
		return
	}
	x.findRule(ctx)
	x.personal = x.isPersonal()
	if _, known := x.cache.personal.get(x.page); x.r.Method == http.MethodHead || len(x.r.Header["Range"]) > 0 ||
		x.wants.onlyIfCached || x.personal && known {
		x.fromStoreOnly(ctx)
		return
	}
	x.fromStoreOrHandler(ctx)
}

// forward lets the handler answer, and stores nothing.
func (x *exchange) forward(why string) {
	w := respwriter.New(x.w, func(int) bool {
		x.takeOff(x.w.Header())
		x.addStatus(status{fwd: why})
		return true
	})
	x.next.ServeHTTP(w, x.r)
	w.Finish()
}

// fromStoreOnly answers from the store if it may, else by the handler without
// storing: the response to a HEAD has no body, that to a Range is a part, and that
// to a request with credentials is often for its sender only.
func (x *exchange) fromStoreOnly(ctx context.Context) {
	key, reason := x.page, "uri-miss"
	var index varyIndex
	for range 3 { // an alias, the page, its variant
		entry, ok, err := x.engine.Get(ctx, key)
		if err != nil || !ok {
			break
		}
		f, ok := read(key, entry)
		if !ok {
			break
		}
		if f.response == nil {
			key, reason = x.follow(f)
			index = f.index
			continue
		}
		s := f.response
		if !x.shares(s) {
			reason = "bypass"
			break
		}
		reason = "stale"
		fit := x.fit(s, entry)
		if fit == cache.Use && x.reply(s, entry, hit(s.left(entry))) { //nolint:contextcheck // the request has it
			return
		}
		if fit != cache.Use && x.r.Method == http.MethodGet && !x.personal && !x.wants.onlyIfCached {
			x.fromStoreOrHandler(ctx) // a part of what is there, when it is fresh again
			return
		}
		if fit == cache.UseAndRefresh && x.reply(s, entry, hit(s.left(entry))) { //nolint:contextcheck // the request has it
			return
		}
		if x.r.Method == http.MethodHead && !x.personal && !x.wants.onlyIfCached {
			x.forwardHead(ctx, key, index, reason)
			return
		}
		break
	}
	switch {
	case x.wants.onlyIfCached:
		x.addStatus(status{fwd: reason, detail: "only-if-cached"})
		http.Error(x.w, http.StatusText(http.StatusGatewayTimeout), http.StatusGatewayTimeout) // RFC 9111 §5.2.1.7
	default:
		x.forward(reason)
	}
}

// follow returns the key that an alias or an index leads to.
func (x *exchange) follow(f *found) (key, reason string) {
	if f.isAlias() {
		x.take(f.alias.rule)
		return x.page, "uri-miss"
	}
	return variantKey(x.page, f.index, x.selects(f.index)), "vary-miss"
}

func (x *exchange) selects(index varyIndex) string {
	return index.selects(x.r.Header, x.cache.profile == Conformance)
}

// fromStoreOrHandler answers from the store, or by the handler, or by what the
// handler answers another one who asked for the same.
func (x *exchange) fromStoreOrHandler(ctx context.Context) {
	key, reason := x.page, "uri-miss"
	var index varyIndex
	collapsed := false
	for range 4 { // an alias, the page, its variant, and one more
		res, err := x.engine.Fetch(ctx, cache.Fetch{
			Key:     key,
			Lane:    x.wants.lane(),
			NoWait:  x.personal,
			Judge:   func(e cache.Entry) cache.Verdict { return x.verdict(key, e) }, //nolint:contextcheck // the request has it
			Load:    x.load(key, index, reason),
			Refresh: x.refresher(key, index), //nolint:contextcheck // the request has it
		})
		switch {
		case x.served:
			return
		case errors.Is(err, cache.ErrHeld):
			x.forward(reason)
			return
		case err != nil: // the request's context has ended
			x.w.Header().Set("Retry-After", "1")
			http.Error(x.w, http.StatusText(http.StatusServiceUnavailable), http.StatusServiceUnavailable)
			return
		}
		collapsed = collapsed || res.Source == cache.Waited
		if l, ok := res.Entry.Memo.Load().(*live); ok {
			switch done, over := x.readAlong(l, reason); {
			case done:
				return
			case over:
				continue
			}
			x.forward(reason)
			return
		}
		f, ok := read(key, res.Entry)
		if !ok { // not for sharing, or written by another version
			x.forward(reason)
			return
		}
		if f.response == nil {
			key, reason = x.follow(f)
			index = f.index
			continue
		}
		st := hit(f.response.left(res.Entry))
		if collapsed {
			st = status{fwd: reason, collapsed: true}
		}
		switch {
		case !x.shares(f.response):
			x.forward("bypass")
			return
		case f.response.failing && !x.canFallBack(f.response, res.Entry):
			x.forward(reason) // it has waited for a better one
			return
		}
		if x.reply(f.response, res.Entry, st) { //nolint:contextcheck // the request has it
			return
		}
		// Its body is gone.
		if err := x.engine.Purge(ctx, key); err != nil {
			break
		}
	}
	x.forward(reason)
}

// verdict says what to do with an entry that is found under key.
func (x *exchange) verdict(key string, e cache.Entry) cache.Verdict {
	if e.Kind == cache.Uncacheable && e.TTL > 0 {
		return cache.Use // and run the handler
	}
	f, ok := read(key, e)
	switch {
	case !ok:
		return cache.Reject
	case f.response == nil, !x.shares(f.response): // the latter run the handler
		return cache.Use
	}
	v := x.fit(f.response, e)
	if v == cache.UseAndRefresh && x.copied == nil && !x.refreshesInline() {
		// Now: when the request is over, others may change it.
		x.copied = x.r.Clone(context.WithoutCancel(x.r.Context()))
	}
	return v
}

// refreshesInline reports that the handler runs within its request only, and nobody
// has said how to get to it otherwise.
func (x *exchange) refreshesInline() bool {
	return x.cache.refresh == nil && reqbound.Is(x.r.Context())
}

// addTags adds tags to the response that is being made.
func (x *exchange) addTags(tags []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.tags = append(x.tags, tags...)
}

func (x *exchange) addedTags() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.tags)
}
