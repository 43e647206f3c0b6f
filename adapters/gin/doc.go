// Package ginadapter brings net/http middleware to gin: sessions, response
// caches and rate limits of this module, and any other.
//
//	r := gin.New()
//	r.Use(gin.Logger(), gin.Recovery())
//	r.Use(ginadapter.Wrap(sessions.Handler))
//	r.GET("/", func(c *gin.Context) {
//		s := ginadapter.Session(c)
//		…
//	})
//
// # Contexts
//
// Whatever takes a context gets c.Request.Context(), never c: the keys of sessions,
// responsecache.AddTags, idempotency.Attempt, cache.Namespace.Get, lock.Locker.Do and
// all others. c is a context, too, so it compiles. But it hides what the middleware has
// put into that of the request (unless the engine's ContextWithFallback is set), and
// does not end with it. And it serves another request once the handler has returned,
// while a load or a refresh in the background still looks into it.
//
// # What the middleware sees
//
// A middleware under Wrap sees what it would see of a plain net/http handler:
//
//   - The status and every byte of the body, by whichever of gin's helpers they
//     come, and before the client gets them. A status without a body (c.Status,
//     c.AbortWithStatus) it sees before next returns.
//   - Unknown routes and methods, with gin's default bodies, if it is on the
//     engine (Engine.Use): gin runs no group's handlers for them.
//   - Informational responses (c.Status(103) with a Link header), which gin
//     alone never sends.
//   - Flush, Hijack, and through http.ResponseController deadlines and full
//     duplex. Hijack over HTTP/2 is an error, where gin alone panics.
//   - Panics, which pass through it in both directions: to a recovering
//     middleware, or to gin.Recovery in front. http.ErrAbortHandler is one.
//   - The route, such as "GET /users/:id", in Request.Pattern.
//   - That nothing was written, if the handlers set no status and wrote nothing.
//
// It may replace the request: c.Request is the new one behind it and the old
// one in front. It may replace the writer, answer in the handlers' place, or
// not call next, which ends gin's chain. gin middleware in front, such as
// gin.Logger, finds the true status and size in c.Writer.
//
// # Order
//
// gin middleware that writes its answer after c.Next, such as a common error
// handler, belongs behind Wrap: the middleware has seen the end of the response
// by then. gin.Recovery and loggers belong in front.
//
// # Limits
//
// gin runs a chain of handlers once, and its Context serves another request
// afterwards. So next runs once, and only during the request. Any other call (a
// second try, a refresh in the background, a request that was not made from the
// one that the middleware got) answers 503 Service Unavailable on the writer
// that it was handed, and touches nothing of gin. A response cache is told so: with
// responsecache.Options.Refresh set to the engine it refreshes stale pages in the
// background, from the top of the router; without it one request in the cluster
// waits for the new page while the others get the stale one.
//
// A next that still runs in another goroutine when the middleware returns is
// waited for. A middleware that gives up on slow handlers, like
// http.TimeoutHandler, is therefore only as quick as they are.
//
// For both kinds there is the other way, since an engine is an http.Handler: put
// the middleware around it, http.ListenAndServe(addr, mw(engine)). Then gin
// starts anew for each call of next, and the middleware also sees gin's
// redirects (RedirectTrailingSlash), for which gin runs no handlers. What gin
// alone does not pass on, 1xx responses, is lost that way.
//
// Engine.HandleContext starts gin anew below the middleware: what comes of it is
// seen by the middleware of the second run only. The route, its parameters and a
// query that gin has parsed already are decided before a middleware can replace
// the request. A header that a handler sets after c.AbortWithStatus or
// c.Writer.WriteHeaderNow, and before any body, is still sent. A 1xx is dropped where a gin middleware in front has replaced
// c.Writer by a writer without Unwrap. c.Writer has no ReadFrom, as in gin
// alone.
package ginadapter
