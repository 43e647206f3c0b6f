package ginadapter

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/herdless/herdless/internal/reqbound"
	"github.com/herdless/herdless/internal/reqcopy"
)

// Wrap makes a gin handler of any net/http middleware. The handlers behind it
// in gin's chain are the middleware's next.
//
// mw is applied once, now, and its handler serves every request, as with
// net/http; Wrap panics if mw is nil or returns nil. The result is safe for
// concurrent use if the middleware is, and may be used in several places.
//
// The middleware finds the method and gin's route, such as "GET /items/:id", in
// Request.Pattern, if one has matched, as it finds those of an http.ServeMux after
// next.
//
// Behind the middleware, c.Request is the request that it passed on, and
// c.Writer writes to the writer that it passed on. In front of it, both are
// what they were before, and c.Writer tells the status and size of what was
// really sent. A middleware that does not call next ends the chain, as c.Abort
// does. See the package documentation for the limits.
func Wrap(mw func(http.Handler) http.Handler) gin.HandlerFunc {
	if mw == nil {
		panic("ginadapter: Wrap: the middleware is nil")
	}
	key := new(exchangeKey)
	h := mw(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x, _ := r.Context().Value(key).(*exchange)
		if x == nil || !x.begin() {
			refuse(w)
			return
		}
		defer x.running.Done()
		x.next(w, r)
	}))
	if h == nil {
		panic("ginadapter: Wrap: the middleware returned a nil handler")
	}
	return func(c *gin.Context) {
		x := &exchange{c: c, request: c.Request, status: c.Writer.Status(), size: c.Writer.Size()}
		x.bridge.out = c.Writer
		x.running.Add(1)
		defer func() { // when nobody else uses c any more
			switch p := recover(); p {
			case nil:
			case http.ErrAbortHandler:
				// gin.Recovery takes that for a connection that is dead, and would let the
				// response end as if it were whole.
				_ = http.NewResponseController(c.Writer).SetWriteDeadline(time.Unix(1, 0))
				panic(p)
			default:
				panic(p)
			}
		}()
		// An end by panic must wait for a running next, too.
		defer x.close()
		ctx := reqbound.Mark(context.WithValue(c.Request.Context(), key, x))
		r := c.Request.WithContext(ctx)
		if route := c.FullPath(); route != "" {
			r.Pattern = r.Method + " " + route // as http.ServeMux names its own
		}
		h.ServeHTTP(&x.bridge, r)
		x.close()
		x.settle()
	}
}

// exchangeKey is the type of the context keys under which next finds its
// exchange. Each Wrap has a key of its own, a pointer, so that nested ones
// never take each other's; it must not be of size zero, or two pointers might
// be equal.
type exchangeKey struct{ _ byte }

// exchange is one request on its way through one Wrap. Whatever outlives the
// request may hold on to it: it lets nobody through to the gin.Context any more.
//
// gin puts a Context back into a pool when the request is over, and another
// request takes it out. A next that came later, or ran on, would run that other
// request's handlers and write to that other client:
//
//	request A: Wrap's handler returns     → gin pools the Context
//	request B: takes the Context, runs    (client B)
//	A's middleware, in the background:    next → c.Next, c.Writer of B
//
// So state moves from open to taken or over by compare-and-swap, only once, and
// close waits for the next that has won it.
type exchange struct {
	c       *gin.Context
	request *http.Request // as it was in front of the middleware
	bridge  bridge        // the writer that the middleware gets

	// gin's state at the beginning. next may run in another goroutine than the
	// middleware's own writes and must not ask the writer in front.
	status, size int

	state   atomic.Int32
	running sync.WaitGroup // counts 1 until next has returned, if state is taken

	// Written by next, and read after close has waited for it.
	completed bool // next returned without a panic
	sent      bool // it passed a header to the middleware's writer
	lazy      bool // that header was a status that gin would still hold back
}

const (
	open  = iota // next may still be called
	taken        // next was called
	over         // next was not called, and never will be
)

// begin reports whether the caller may run next.
func (x *exchange) begin() bool { return x.state.CompareAndSwap(open, taken) }

// close ends the exchange. After it no other goroutine touches the Context.
func (x *exchange) close() {
	if !x.state.CompareAndSwap(open, over) && x.state.Load() == taken {
		x.running.Wait()
	}
	x.bridge.closed.Store(true)
}

// next runs the rest of gin's chain with the middleware's writer and request.
func (x *exchange) next(w http.ResponseWriter, r *http.Request) {
	c, path := x.c, x.c.FullPath()
	inner := newWriter(w, r, x.status, x.size)
	defer func() {
		reqcopy.Return(x.request, c.Request)
		c.Writer, c.Request = x.bridge.out, x.request
	}()
	c.Writer, c.Request = inner, r
	c.Next()
	// Engine.HandleContext routes anew and writes past the middleware.
	if c.FullPath() == path {
		x.lazy = finishChain(c, inner)
	}
	x.sent = inner.sent
	x.completed = true
}

// settle says to gin what the middleware left unsaid.
func (x *exchange) settle() {
	c, b := x.c, &x.bridge
	if !x.completed {
		// It did not call next, or recovered from next's panic. In both cases
		// gin must not run the rest of the chain.
		c.Abort()
	}
	if b.out.Written() {
		return
	}
	switch {
	case b.wrote && !x.lazy:
		// A header that was sent must stay what it is: gin middleware in front
		// would take it for unwritten, and gin add its body to an empty 404.
		b.out.WriteHeaderNow()
	case !b.wrote && (!x.completed || x.sent) && b.out.Status() != http.StatusOK:
		// The middleware answered nothing at all: an empty 200 in net/http,
		// also where gin's status is 404 from the start.
		b.out.WriteHeader(http.StatusOK)
	}
}

// refuse answers a next that has no gin chain to run.
func refuse(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, "gin runs a handler chain once and within its request only", http.StatusServiceUnavailable)
}
