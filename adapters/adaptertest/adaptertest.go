// Package adaptertest is the suite of behaviours that every adapter of net/http
// middleware to another framework passes, and that plain http.ServeMux passes:
// behind an adapter, a middleware must see and be able to do what it would in
// front of a ServeMux.
//
// Every rule is a subtest, over HTTP/1.1 and HTTP/2, that quotes the rule when
// it fails. Most rules compare: the same application is asked with and without
// a middleware.
package adaptertest

import (
	"net/http"
	"testing"
)

// Adapter is what is tested.
type Adapter struct {
	// New builds an application of the framework with these routes, and mw
	// around all of them and around unknown routes, by way of the adapter. If
	// mw is nil, the application has no middleware at all, and none of the
	// adapter's code. Required.
	//
	// Where the framework answers a known path with another method by 405,
	// that must be on. Nothing else may recover from panics.
	New func(t *testing.T, mw func(http.Handler) http.Handler, routes []Route) http.Handler

	// Native are routes written with the framework's own helpers. New gets
	// them together with those of the suite. They must answer with a final
	// response, the same every time.
	Native []Route
}

// Route is one route of the application under test. Paths are plain, without
// wildcards.
type Route struct {
	Method, Path string
	// Handler is how the routes of the suite are written. An adapter mounts it
	// as the framework's own handler, and passes it the framework's own writer
	// and request.
	Handler http.HandlerFunc
	// Native is the framework's own handler, for routes in Adapter.Native;
	// Handler is then nil.
	Native any
}

// Run runs the suite.
func Run(t *testing.T, a Adapter) {
	t.Helper()
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			for _, rule := range rules {
				if rule.only != "" && rule.only != proto {
					continue
				}
				t.Run(rule.name, func(t *testing.T) {
					t.Helper()
					defer func() {
						if t.Failed() {
							t.Errorf("the rule is: %s", rule.text)
						}
					}()
					rule.check(t, &suite{Adapter: a, proto: proto})
				})
			}
		})
	}
}

// rule is one behaviour.
type rule struct {
	name, text string
	only       string // the protocol, if it makes sense in one alone
	check      func(t *testing.T, s *suite)
}

var rules = []rule{
	{
		"transparent",
		"a middleware that only looks on changes nothing: status, body and headers are those of the application without it",
		"", checkTransparent,
	},
	{
		"sees everything",
		"a middleware sees the status and every byte of the body that the client gets, in the end and before next returns",
		"", checkSeesEverything,
	},
	{
		"nothing stays nothing",
		"a response on which nothing was written stays so for the middleware",
		"", checkNothing,
	},
	{
		"last-moment headers",
		"headers that a middleware sets right before the first final header arrive at the client, however that header comes",
		"", checkHook,
	},
	{
		"replaced response",
		"a middleware can answer in the handler's place as late as at the handler's first final header",
		"", checkReplaced,
	},
	{
		"short circuit",
		"a middleware that does not call next is the only one that answers, on known and on unknown routes; if it writes nothing, that is an empty 200",
		"", checkShortCircuit,
	},
	{
		"swallowed response",
		"what the middleware does not pass on does not reach the client",
		"", checkSwallowed,
	},
	{
		"request",
		"the handler gets the request that the middleware passed on: its context, headers and body",
		"", checkRequest,
	},
	{
		"early hints",
		"informational responses pass through at once and are not the final header",
		"", checkEarlyHints,
	},
	{
		"streaming",
		"what a handler flushes reaches the client while the handler still runs, in the order written",
		"", checkStreaming,
	},
	{
		"hijack",
		"a handler can take the connection over, and the middleware acts first",
		"HTTP/1.1", checkHijack,
	},
	{
		"no hijack in HTTP/2",
		"where a connection cannot be taken over, the handler gets an error and can still answer",
		"HTTP/2.0", checkHijackRefused,
	},
	{
		"response controller",
		"http.ResponseController sets deadlines and full duplex from behind a middleware whose writer has Unwrap",
		"", checkController,
	},
	{
		"panic",
		"a panic of the handler passes through the middleware with its value, and a middleware may recover from it and answer",
		"", checkPanic,
	},
	{
		"abort",
		"http.ErrAbortHandler ends the response as an incomplete one",
		"", checkAbort,
	},
	{
		"second next",
		"a second call of next within the request answers as the first did, or 503",
		"", checkSecondNext,
	},
	{
		"late next",
		"a call of next after the request answers as it would have in time, or 503, and other requests do not notice",
		"", checkLateNext,
	},
	{
		"next that outlives the middleware",
		"a handler that still runs when its middleware has returned can finish, and other requests do not notice",
		"", checkOutlivingNext,
	},
}
