// Package responsecache is a shared HTTP cache after RFC 9111 for handlers: wrap one,
// and what it answers is stored, and served to everybody it may be served to, by all
// servers that share the store.
//
//	pages, err := responsecache.New(rediscache.New(rdb, nil), &responsecache.Options{Locker: locker})
//	mux.Handle("/catalogue", pages.With(responsecache.Policy{TTL: time.Minute, Public: true}).Handler(catalogue))
//
// A page that is not in the store is computed once, however many requests for
// it come at once to however many servers; the others wait for it and get the
// same response. Those on the same server read along while it is made, once the
// handler has flushed or written 64 KiB.
//
// # What is stored
//
// The response to a GET is stored if it says for how long it is fresh (s-maxage,
// max-age or Expires, RFC 9111 §4.2.1; Herdless-Cache-Control or CDN-Cache-Control
// before them, RFC 9213), whatever its status, or if the route's Policy says so.
// Where both say so, less counts. With an ETag or a Last-Modified it is also stored
// if it is to be validated for each use (no-cache, max-age=0). It is never stored if it
//
//   - says no-store or private, varies on *, or sets a cookie,
//   - answers a request with credentials and is not declared public (see below),
//   - is partial (206), or of a type without an end (text/event-stream,
//     multipart/x-mixed-replace), or has a trailer,
//   - is longer than Policy.MaxBody, or has more than 64 KiB of header fields,
//   - is unfinished: the handler panicked, wrote less than its Content-Length,
//     hijacked the connection, or wrote nothing at all.
//
// Fields that private or no-cache name, and those that belong to one connection, are
// left out. A response that must not be stored is not shared with those who wait for
// it either: as soon as its header says so, each of them gets its own, and for ten
// seconds nobody waits for that page any more.
//
// The response to a POST is stored for GET if it has a lifetime and names its own URL
// in Content-Location (RFC 9110 §9.3.3), unless the page is purged, changed or made anew
// before its body is complete. A purge between the beginning of the handler and its
// header is not noticed: it must not answer with what it has read before others' changes.
//
// # How it is used
//
// HEAD, conditions (If-None-Match, If-Modified-Since) and ranges are answered from
// what a GET has stored. The request's own Cache-Control is obeyed: no-cache, no-store,
// max-age, min-fresh, max-stale, only-if-cached. A page that is stale is validated: the
// handler gets the validators that it came with and may answer 304. A handler that
// looks at neither just answers with a new page.
//
// Within stale-while-revalidate nobody waits for that: the stale page is served while
// one server in the cluster makes a new one in the background. Within stale-if-error a
// stale page is served instead of a 502, 503, 504 or a panic of the handler (RFC 5861);
// the handler is then asked about once a second.
//
// Cache-Status says of each response what has happened (RFC 9211): a hit, why it went to
// the handler, whether it is stored, whether it was waited for.
//
// # Profiles
//
// By default a Cache is [Safe]: it takes nothing for shareable that a handler has not
// declared so. [Conformance] is for origins that know of shared caches, and does all
// that RFC 9111 permits; its documentation lists the differences.
//
// # What is removed
//
// A request by a method that may change something (POST, PUT, DELETE, PATCH, or
// any that is not known) and that succeeds removes the page of its URL, those that its
// response names in Location and Content-Location on the same origin (RFC 9111 §4.4),
// and the groups in Cache-Group-Invalidation (RFC 9875), just before its header goes
// out. So a handler changes first and answers then; and the route must get those
// requests, too: register it without a method, as above.
//
// [Cache.Purge] removes any other page, and [Cache.PurgeTags] all pages with a tag. A
// response gets tags by [Policy], by [AddTags], or by the fields Surrogate-Key and
// Cache-Tag, which are taken off on the way out. The soft forms make pages stale
// instead. A page whose making began before a purge is not stored any more.
// [Cache.PurgeHandler] does it over HTTP.
//
// # Requests with credentials
//
// A request that carries a Cookie, an Authorization field or a client's certificate may
// get a response that is meant for its sender only. Such requests share a response only
// if it is declared public: by the handler (Cache-Control public or s-maxage; for
// Authorization alone must-revalidate will do, RFC 9111 §3.5), or for a whole route by
// Policy.Public. They fill the store with such a response, too, but wait for one another
// only with Policy.Public.
//
// # Several variants
//
// A response with a Vary field is stored for the values that the request had in
// those fields (RFC 9111 §4.1), up to 256 variants of a page; then old ones make room
// for new ones. A purge of the URL removes all variants. With Policy.Compress one stored
// response serves br, zstd, gzip and those who accept none.
//
// # What names a page
//
// The scheme (https if the request came by TLS), the Host field, and the path
// and query as the client sent them, also under http.StripPrefix; and what Policy.Key
// adds. A response with No-Vary-Search says which parts of the query do not matter. If
// middleware outside of the cache has rewritten the URL in another way, that is part of
// the name, and Purge, which knows only the client's URL, does not reach the page.
//
// All of this is as this server sees it: behind a proxy that ends TLS, the scheme
// is http. A handler whose answer depends on X-Forwarded-Proto or
// X-Forwarded-Host names it in Policy.Vary.
//
// # Long bodies
//
// Bodies of more than 256 KiB are stored in parts as they are written, and streamed from
// them, so that none is in memory as a whole: of one that is being made and read along,
// the last 8 MiB are. Beyond these the handler goes no faster than the slowest reader,
// as long as that one takes anything within a second, and 128 KiB in each after the
// first five. Else it gets the rest from the store, or if the body turns out not to be
// stored, its connection breaks. Server-sent events, websockets and whatever else has no end pass through: a
// body that turns out too long is not stored, and its writer is not held up. A handler
// whose client has gone while its response is recorded goes on for the others; after a
// minute without any, its context ends.
//
// # Where it stands in a chain
//
// The cache may stand outside or inside of the session middleware, but outside
// is where hits are cheapest. A response whose handler touched the session is
// private and therefore not stored. (A writer between the two that holds back the header
// until the cache has returned, such as http.TimeoutHandler's, hides that: it belongs
// outside of both.) Fields that are set on the response before
// the cache is reached belong to the middleware that sets them: they are not
// stored, and hits do not replay them.
//
// A refresh in the background runs the wrapped handler with a copy of the request that
// found the page stale, after that has ended, and with its cookies and its context. If
// middleware outside has marked that client's stale response as personal, the page
// waits for another client. In gin, where handlers run within their request only, see
// Options.Refresh.
//
// # What happens in trouble
//
// With the store out of reach, requests are served by the handler, at most once
// at a time for the same page in each process. See package cache.
//
// # What it does not do
//
// Partial responses (206) are passed through, not stored and put together. A handler's
// own 103 (Early Hints) reaches the one who made it run, not those who wait or hit.
package responsecache
