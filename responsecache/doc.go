// Package responsecache is a shared HTTP cache for handlers: wrap one, and what
// it answers is stored, and served to everybody it may be served to, by all
// servers that share the store.
//
//	pages, err := responsecache.New(rediscache.New(rdb, nil), &responsecache.Options{Locker: locker})
//	mux.Handle("/catalogue", pages.With(responsecache.Policy{TTL: time.Minute, Public: true}).Handler(catalogue))
//
// A page that is not in the store is computed once, however many requests for
// it come at once to however many servers; the others wait for it and get the
// same response.
//
// # What is stored
//
// The response to a GET is stored if it says for how long it is fresh
// (s-maxage, max-age or Expires, RFC 9111 §4.2.1), or if the route's Policy
// says so, whichever is less. It is never stored if it
//
//   - says no-store, private or no-cache, varies on *, or sets a cookie,
//   - answers a request with credentials on a route without Policy.Public (see
//     below),
//   - is partial (206), has a trailer, is longer than Options.MaxBody,
//   - is unfinished: the handler panicked, wrote less than its Content-Length,
//     hijacked the connection, or wrote nothing at all.
//
// A response that must not be stored is not shared with those who wait for it
// either: as soon as its header says so, each of them gets its own.
//
// # What is removed
//
// A request by a method that may change something (POST, PUT, DELETE, PATCH, or
// any that is not known) and that succeeds removes the page of its URL (RFC 9111
// §4.4), just before its header goes out. So a handler changes first and answers
// then; and the route must get those requests, too: register it without a
// method, as above. [Cache.Purge] removes any other page.
//
// # Requests with credentials
//
// A request that carries a Cookie or an Authorization field may get a response
// that is meant for its sender only. Such requests share a response only if it
// is declared public: by the handler (Cache-Control public or s-maxage), or for
// a whole route by Policy.Public. Only with Policy.Public do they also fill the
// store and wait for one another; otherwise they find what a request without
// credentials has stored, or else run the handler, each for itself.
//
// # Several variants
//
// A response with a Vary field is stored for the values that the request had in
// those fields (RFC 9111 §4.1). A purge of the URL removes all variants.
//
// # What names a page
//
// The scheme (https if the request came by TLS), the Host field, and the path
// and query as the client sent them, also under http.StripPrefix. If middleware
// outside of the cache has rewritten the URL in another way, that is part of the
// name, and Purge, which knows only the client's URL, does not reach the page.
//
// All of this is as this server sees it: behind a proxy that ends TLS, the scheme
// is http. A handler whose answer depends on X-Forwarded-Proto or
// X-Forwarded-Host names it in Policy.Vary.
//
// # Where it stands in a chain
//
// The cache may stand outside or inside of the session middleware, but outside
// is where hits are cheapest. A response whose handler touched the session is
// private and therefore not stored. Fields that are set on the response before
// the cache is reached belong to the middleware that sets them: they are not
// stored, and hits do not replay them.
//
// # What happens in trouble
//
// With the store out of reach, requests are served by the handler, at most once
// at a time for the same page in each process. See package cache.
package responsecache
