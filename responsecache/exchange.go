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
	"github.com/herdless/herdless/internal/nils"
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
	nils.MustWrap("responsecache: Handler", next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := asked{route: rt, cache: rt.cache, r: r}
		a.serve(r.Context(), w, next)
	})
}

// asked is a request, and what it asks for. Most requests need no more, and are
// answered without any of it on the heap: see asked.hit.
type asked struct {
	route *Route
	cache *Cache
	r     *http.Request

	came     time.Time // when the request did, if it wants anything in particular
	says     said
	wants    wants
	name     pageName
	known    *knownPage // what is remembered of it, or nil
	rule     rule       // of No-Vary-Search, under which the page was looked for
	page     string     // key of the page
	personal bool       // for all that is known, the response is for the sender only
	spot     spot       // where to look
}

// spot is a key under which a response may be found.
type spot struct {
	key    string
	reason string    // why the request goes to the handler if there is none
	index  varyIndex // that has led to it, or none
}

// exchange is a request on its way through the cache.
type exchange struct {
	asked
	engine *cache.Engine
	next   http.Handler
	w      http.ResponseWriter

	served bool // the handler ran and answered the client
	// background: there is no client.
	background bool

	first  fetcher
	copied *http.Request // for a refresh in the background,
	outer  http.Header   // with what others had set on the response
	stale  *staleReply   // what they make of the one that this client gets, if the refresh must know

	// What most exchanges need lies here: what was found, and the values of a header.
	decoded decoded
	room    [8]string

	held   io.ReadCloser // an open body, for the reply that may need it, or nil
	heldID string        // which body that is
	noBody error         // why a reply could not open one

	mu   sync.Mutex
	tags []string // that the handler has added
}

// inside is what a request is made in the course of: a refresh that has not come to
// its route yet, and the exchange that computes a page by this handler.
type inside struct {
	refresh *refresh
	leading *exchange
}

// insideKey is the context key of an *inside.
type insideKey struct{}

func insideOf(ctx context.Context) inside {
	if in, ok := ctx.Value(insideKey{}).(*inside); ok {
		return *in
	}
	return inside{}
}

func (in inside) context(ctx context.Context) context.Context {
	return context.WithValue(ctx, insideKey{}, &in)
}

// exchange returns the exchange of a request that is not answered at once.
func (a *asked) exchange(w http.ResponseWriter, next http.Handler) *exchange {
	return &exchange{asked: *a, engine: a.cache.engine, next: next, w: w}
}

func (a *asked) serve(ctx context.Context, w http.ResponseWriter, next http.Handler) {
	if isUnsafe(a.r.Method) {
		a.exchange(w, next).invalidate(ctx)
		return
	}
	a.wants = nothing
	if a.says = saidBy(a.r.Header); a.says&saysWants > 0 {
		if a.wants = parseWants(a.r.Header); a.wants != nothing {
			a.came = time.Now()
		}
	}
	if why := a.whyBypass(); why != "" {
		a.exchange(w, next).forward(why)
		return
	}
	a.findName()
	in := insideOf(ctx)
	if again := in.refresh; again != nil && again.engine == a.cache.engine && again.name == a.name {
		again.handle(a.exchange(w, next))
		return
	}
	if outer := in.leading; outer != nil && outer.engine == a.cache.engine && outer.name == a.name {
		// The same Cache computes the same page around this handler, and
		// would wait for itself. The inner policy is the more special one.
		outer.route = a.route
		next.ServeHTTP(w, a.r)
		return
	}
	if a.page == "" {
		a.page = a.name.key()
	}
	a.findRule(ctx)
	if a.says&saysCredentials > 0 || a.r.TLS != nil {
		a.personal = a.isPersonal()
	}
	a.spot = spot{key: a.page, reason: "uri-miss"}
	if a.hit(ctx, w) {
		a.remember()
		return
	}
	x := a.exchange(w, next)
	if a.r.Method == http.MethodHead || len(a.r.Header["Range"]) > 0 || a.wants.onlyIfCached || a.isPersonalPage() {
		x.fromStoreOnly(ctx)
		return
	}
	x.fromStoreOrHandler(ctx)
}

// findName finds the name of the page that is asked for, and the key if that is known.
func (a *asked) findName() {
	if a.route.policy.Key == nil {
		if p := a.cache.pages.get(a.r); p != nil {
			a.name, a.page, a.known = p.name, p.key, p
			return
		}
	}
	a.name = nameOf(a.r, a.route.policy.Key)
}

// remember remembers the name of a page that was hit.
func (a *asked) remember() {
	if a.known == nil && a.route.policy.Key == nil {
		a.cache.pages.set(a.r)
	}
}

// isPersonalPage reports that a response to such a request was not for sharing a
// moment ago.
func (a *asked) isPersonalPage() bool {
	if !a.personal {
		return false
	}
	_, known := a.cache.personal.get(a.page)
	return known
}

// forward lets the handler answer, and stores nothing.
func (x *exchange) forward(why string) {
	w := respwriter.New(x.w, func(int) bool {
		h := x.w.Header()
		addVary(h, x.route.policy.Vary)
		x.cache.takeOff(h)
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
	reason := x.spot.reason
	for range 3 { // an alias, the page, its variant
		key := x.spot.key
		entry, ok, err := x.engine.Get(ctx, key)
		if err != nil || !ok {
			break
		}
		f, ok := x.read(key, &entry)
		if !ok {
			break
		}
		if f.response == nil {
			x.follow(f)
			reason = x.spot.reason
			continue
		}
		s := f.response
		if !x.shares(s) {
			reason = "bypass"
			break
		}
		reason = "stale"
		fit := x.fit(s, &entry)
		if fit == cache.Use && x.reply(s, &entry, hit(s.left(&entry))) { //nolint:contextcheck // the request has it
			return
		}
		if fit != cache.Use && x.r.Method == http.MethodGet && !x.personal && !x.wants.onlyIfCached {
			x.fromStoreOrHandler(ctx) // a part of what is there, when it is fresh again
			return
		}
		if fit == cache.UseAndRefresh && x.reply(s, &entry, hit(s.left(&entry))) { //nolint:contextcheck // the request has it
			return
		}
		if x.r.Method == http.MethodHead && !x.personal && !x.wants.onlyIfCached {
			x.forwardHead(ctx, key, x.spot.index, reason)
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

// follow goes to the spot that an alias or an index leads to.
func (a *asked) follow(f *found) {
	if f.isAlias() {
		a.take(f.alias.rule)
		a.spot = spot{key: a.page, reason: "uri-miss"}
		return
	}
	a.spot = spot{key: a.variant(f.index), reason: "vary-miss", index: f.index}
}

// variant is the key of the variant of the page that the request selects.
func (a *asked) variant(index varyIndex) string {
	var buf [256]byte
	// A cache of another profile may share the store.
	raw, ok := index.known.fields(append(buf[:0], byte(a.cache.profile)), a.r.Header)
	if ok {
		if key, ok := index.known.get(raw, a.page); ok {
			return key
		}
	}
	key := variantKey(a.page, index, a.selects(index))
	if ok {
		index.known.set(raw, a.page, key)
	}
	return key
}

func (a *asked) selects(index varyIndex) string {
	return index.selects(a.r.Header, a.cache.profile == Conformance)
}

// fromStoreOrHandler answers from the store, or by the handler, or by what the
// handler answers another one who asked for the same.
func (x *exchange) fromStoreOrHandler(ctx context.Context) {
	defer func() { x.stale.end() }() // whatever the client has got: the refresh waits for it
	reason := x.spot.reason
	collapsed := false
	for range 4 { // an alias, the page, its variant, and one more
		key, by := x.spot.key, x.fetcher()
		res, err := x.engine.Fetch(ctx, cache.Fetch{
			Key: key, Lane: x.wants.lane(), NoWait: x.personal, By: by, Room: &by.room,
			Inline: x.refreshesInline(), //nolint:contextcheck // the request has it
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
		f, ok := x.read(key, &res.Entry)
		if !ok { // not for sharing, or written by another version
			x.forward(reason)
			return
		}
		if f.response == nil {
			x.follow(f)
			reason = x.spot.reason
			continue
		}
		st := hit(f.response.left(&res.Entry))
		if collapsed {
			st = status{fwd: reason, collapsed: true}
		}
		switch {
		case !x.shares(f.response):
			x.forward("bypass")
			return
		case f.response.failing && !x.canFallBack(f.response, &res.Entry):
			x.forward(reason) // it has waited for a better one
			return
		}
		if x.reply(f.response, &res.Entry, st) { //nolint:contextcheck // the request has it
			x.remember()
			return
		}
		if !errors.Is(x.noBody, cache.ErrNoBody) {
			break // the client has left, or the store is slow: others may have it
		}
		if err := x.engine.Purge(ctx, key); err != nil {
			break
		}
	}
	x.forward(reason)
}

// read decodes an entry that was found under key. The first one that does not stay in this
// process is a part of the exchange.
func (x *exchange) read(key string, e *cache.Entry) (*found, bool) {
	if e.Local || x.decoded.response != nil {
		return readKnown(key, e, x.known, nil)
	}
	return readKnown(key, e, x.known, &x.decoded)
}

// verdict says what to do with an entry that is found under key.
func (x *exchange) verdict(key string, e cache.Entry) cache.Verdict {
	if e.Kind == cache.Uncacheable && e.TTL > 0 {
		return cache.Use // and run the handler
	}
	f, ok := x.read(key, &e)
	switch {
	case !ok:
		return cache.Reject
	case f.response == nil, !x.shares(f.response): // the latter run the handler
		return cache.Use
	}
	v := x.fit(f.response, &e)
	if v == cache.UseAndRefresh && x.copied == nil && !x.refreshesInline() {
		// Now: when the request is over, others may change it.
		x.copied = x.r.Clone(context.WithoutCancel(x.r.Context()))
		x.outer = x.w.Header().Clone()
		delete(x.outer, "Set-Cookie") // that is for this client
		if x.cache.refresh == nil {
			x.stale = &staleReply{watched: watched{ResponseWriter: x.w}, ended: make(chan struct{})}
			x.w = x.stale
		}
	}
	return v
}

// refreshesInline reports that the handler runs within its request only, and nobody
// has said how to get to it otherwise.
func (x *exchange) refreshesInline() bool {
	return x.cache.refresh == nil && reqbound.Is(x.r.Context())
}

// ownRequest returns the request for the handler, which may change it. What the exchange
// keeps is a copy of what that has got: who has sent it, and to whom.
func (x *exchange) ownRequest() *http.Request {
	r, kept := x.r, *x.r
	kept.Header = r.Header.Clone()
	x.r = &kept
	return r
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
