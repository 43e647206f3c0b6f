package responsecache

import (
	"context"
	"crypto/rand"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/internal/respwriter"
)

const (
	// hitForMiss is how long it is remembered that a page must not be shared,
	// so that requests for it do not queue; failureForMiss, that it could not
	// be served.
	hitForMiss     = 10 * time.Second
	failureForMiss = time.Second

	// indexTTL is how long the variants of a page are found at least. An
	// index is small, and outlives the variants.
	indexTTL = time.Hour
)

// Handler caches the responses of next.
func (rt *Route) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := &exchange{route: rt, engine: rt.cache.engine, next: next, w: w, r: r}
		if isUnsafe(r.Method) {
			x.invalidate(r.Context())
			return
		}
		if why := whyBypass(r); why != "" {
			x.forward(why)
			return
		}
		x.page = pageKey(r)
		if outer, ok := r.Context().Value(leading{}).(*exchange); ok && outer.engine == x.engine && outer.page == x.page {
			// The same Cache computes the same page around this handler, and
			// would wait for itself. The inner policy is the more special one.
			outer.route = rt
			next.ServeHTTP(w, r)
			return
		}
		if r.Method == http.MethodHead || hasCredentials(r) && !rt.policy.Public {
			x.fromStoreOnly(r.Context())
			return
		}
		x.fromStoreOrHandler(r.Context())
	})
}

// isUnsafe reports a method that may change something (RFC 9110 §9.2.1), known
// or not.
func isUnsafe(method string) bool {
	return !slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace}, method)
}

// whyBypass returns the reason for which the cache stays out of a request, as
// the fwd parameter of Cache-Status names it (RFC 9211 §2.2), or "".
func whyBypass(r *http.Request) string {
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		return "method"
	case parseCacheControl(r.Header).has("no-store"):
		return "request"
	case r.ContentLength != 0: // the handler may look at the body, which no key names
		return "bypass"
	case r.Header.Get("Upgrade") != "":
		return "bypass"
	case r.URL.Opaque != "": // as in "GET http:x HTTP/1.1"
		return "bypass"
	}
	for _, field := range []string{"Range", "If-Match", "If-Unmodified-Since", "If-Range"} {
		if r.Header.Get(field) != "" {
			return "bypass"
		}
	}
	return ""
}

// hasCredentials reports a request whose response may be for its sender only.
func hasCredentials(r *http.Request) bool {
	return len(r.Header["Cookie"]) > 0 || len(r.Header["Authorization"]) > 0 ||
		r.TLS != nil && len(r.TLS.PeerCertificates) > 0
}

// leading is the context key of the exchange that computes a page.
type leading struct{}

// exchange is one request on its way through the cache.
type exchange struct {
	route  *Route
	engine *cache.Engine
	next   http.Handler
	w      http.ResponseWriter
	r      *http.Request
	page   string // key of the page
	served bool   // the handler ran and answered the client
}

// forward lets the handler answer, and stores nothing.
func (x *exchange) forward(why string) {
	w := respwriter.New(x.w, func(int) bool {
		x.addStatus(fwd(why))
		return true
	})
	x.next.ServeHTTP(w, x.r)
	w.Finish()
}

// invalidate lets the handler answer a request that may change the page, and
// removes the page if it succeeded (RFC 9111 §4.4), before the client learns
// that: its next request must not see the old one.
func (x *exchange) invalidate(ctx context.Context) {
	page := pageKey(x.r) // before the handler changes x.r.URL
	w := respwriter.New(x.w, func(status int) bool {
		if status >= 200 && status < 400 {
			// The change has happened. Whether the client waits for the answer
			// or not, the old page must go.
			ctx := context.WithoutCancel(ctx)
			if err := x.engine.Purge(ctx, page); err != nil {
				x.route.cache.logger.ErrorContext(ctx, "responsecache: a page that was changed could not be removed", "path", x.r.URL.Path, "error", err)
			}
		}
		x.addStatus(fwd("method"))
		return true
	})
	x.next.ServeHTTP(w, x.r)
	w.Finish()
}

// fromStoreOnly answers from the store if it may, else by the handler without
// storing: the response to a HEAD has no body, and that to a request with
// credentials may be for its sender only.
func (x *exchange) fromStoreOnly(ctx context.Context) {
	key := x.page
	for range 2 { // the page, then perhaps its variant
		entry, ok, err := x.engine.Get(ctx, key)
		if err != nil || !ok || entry.TTL <= 0 || entry.Kind != cache.Value {
			break
		}
		if index, ok := decodeIndex(entry.Data); ok {
			key = variantKey(x.page, index, x.r.Header)
			continue
		}
		if s, ok := decodeStored(entry.Data); ok && (s.public || !hasCredentials(x.r)) {
			x.reply(s, entry, hit(entry))
			return
		}
		break
	}
	if x.r.Method == http.MethodHead {
		x.forward("miss")
		return
	}
	x.forward("bypass")
}

// fromStoreOrHandler answers from the store, or by the handler, or by what the
// handler answers another one who asked for the same.
func (x *exchange) fromStoreOrHandler(ctx context.Context) {
	key, reason := x.page, "uri-miss"
	var index varyIndex
	waited := false
	for range 2 { // the page, then perhaps its variant
		res, err := x.engine.Do(ctx, key, x.load(index, reason))
		switch {
		case x.served:
			return
		case err != nil: // the request's context has ended
			x.w.Header().Set("Retry-After", "1")
			http.Error(x.w, http.StatusText(http.StatusServiceUnavailable), http.StatusServiceUnavailable)
			return
		case res.Entry.Kind != cache.Value:
			x.forward(reason)
			return
		}
		waited = waited || res.Source == cache.Waited
		if found, ok := decodeIndex(res.Entry.Data); ok && key == x.page {
			index = found
			key, reason = variantKey(x.page, index, x.r.Header), "vary-miss"
			continue
		}
		s, ok := decodeStored(res.Entry.Data)
		switch {
		case !ok:
			x.forward(reason) // written by another version
		case waited:
			x.reply(s, res.Entry, fwd(reason)+"; collapsed")
		default:
			x.reply(s, res.Entry, hit(res.Entry))
		}
		return
	}
	x.forward(reason)
}

// load returns the computation of the page, or with an index of its variant: it
// lets the handler answer this client, and returns what may be stored of that.
func (x *exchange) load(index varyIndex, reason string) cache.Load {
	return func(ctx context.Context, l *cache.Loading) (cache.Entry, error) {
		x.served = true
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		r := x.r.WithContext(context.WithValue(ctx, leading{}, x))
		// The response must be the whole page, whatever this client has.
		r.Header = r.Header.Clone()
		r.Header.Del("If-None-Match")
		r.Header.Del("If-Modified-Since")

		rec := newRecorder(x, reason)
		rec.unshareable = func() { //nolint:contextcheck // the client's context is the point
			// Nobody else waits for this response any more, so that it ends
			// with its client.
			l.Settle(notShared(rec.status))
			context.AfterFunc(x.r.Context(), cancel)
		}
		x.next.ServeHTTP(rec, r)
		if rec.status == 0 {
			x.addStatus(fwd(reason))
		}
		return x.entry(ctx, l, rec, index), nil
	}
}

// entry returns what to store of a recorded response, under the page's key or
// with an index under its variant's.
func (x *exchange) entry(ctx context.Context, l *cache.Loading, rec *recorder, index varyIndex) cache.Entry {
	s, v, ok := rec.recorded()
	switch {
	case rec.isShort():
		return failed
	case !ok:
		return notShared(rec.status)
	}
	// It has been getting older since its header went out.
	took := time.Since(rec.began)
	s.age += took
	if v.ttl -= took; v.ttl <= 0 {
		return failed
	}
	response := cache.Entry{Kind: cache.Value, Data: s.encode(), TTL: v.ttl}
	switch {
	case index.generation != "":
		for _, name := range v.vary {
			if !slices.Contains(index.names, name) {
				// It was selected by more than the index says. The next
				// request for the page makes a new index.
				_ = x.engine.Purge(ctx, x.page)
				return failed
			}
		}
		return response
	case len(v.vary) > 0 && !l.Kept():
		return failed
	case len(v.vary) > 0:
		index = varyIndex{generation: rand.Text(), names: v.vary}
		// Nobody can know of the variant before the index is stored, and that
		// is refused if the page was purged meanwhile.
		if err := x.engine.Add(ctx, variantKey(x.page, index, x.r.Header), response); err != nil {
			return failed
		}
		return cache.Entry{Kind: cache.Value, Data: index.encode(), TTL: max(indexTTL, v.ttl)}
	default:
		return response
	}
}

// failed is the outcome for those who wait for a response that did not come to a
// good end.
var failed = cache.Entry{Kind: cache.Uncacheable, TTL: failureForMiss}

// notShared is the outcome for those who wait for a response of that status that
// turned out not to be for sharing. An error, of the client's too, says something
// about that one request and little about the page.
func notShared(status int) cache.Entry {
	if status == 0 || status >= 400 {
		return failed
	}
	return cache.Entry{Kind: cache.Uncacheable, TTL: hitForMiss}
}

// reply sends a stored response.
func (x *exchange) reply(s *stored, entry cache.Entry, status string) {
	h := x.w.Header()
	for name, values := range s.header {
		plain, adds := strings.CutPrefix(name, added)
		switch {
		case adds:
			h[plain] = append(slices.Clip(h[plain]), values...)
		case name == "Vary": // outer middleware may vary on more for this request
			addVary(h, members(values))
		default:
			h[name] = values
		}
	}
	h.Set("Age", seconds(s.age+entry.Age))
	x.addStatus(status)
	if s.hasBody() {
		h.Set("Content-Length", decimal(len(s.body)))
	}
	x.w.WriteHeader(s.status)
	if x.r.Method != http.MethodHead && s.hasBody() {
		_, _ = x.w.Write(s.body) // a client that has gone
	}
}

// hasBody reports whether the status allows a body.
func (s *stored) hasBody() bool { return s.status != http.StatusNoContent }
