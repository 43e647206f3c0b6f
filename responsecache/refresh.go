package responsecache

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/herdless/herdless/cache"
)

// refresh is the making of a page in the background, on its way to the route's
// handler.
type refresh struct {
	engine *cache.Engine
	name   pageName
	load   func(at *exchange) (cache.Entry, error)

	mu    sync.Mutex // held while the handler runs
	over  bool       // nobody wants the outcome any more
	entry cache.Entry
	err   error
}

// handle runs the handler of the route that the refresh has come to.
func (r *refresh) handle(at *exchange) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.over {
		r.err = errNotFinished // if it panics
		r.entry, r.err = r.load(at)
	}
}

// outcome ends the refresh. Options.Refresh may have returned before the handler, as
// http.TimeoutHandler does, which runs on with what belongs to the load: that ends
// when both have.
func (r *refresh) outcome() (cache.Entry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	return r.entry, r.err
}

var errNotFinished = errors.New("responsecache: the handler has not finished the page in the background")

var errNotReached = errors.New("responsecache: Options.Refresh did not lead a refresh to the route of its page")

// loadInBackground computes what is under the key of a spot where there is no client.
func (x *exchange) loadInBackground(ctx context.Context, l *cache.Loading, at spot) (entry cache.Entry, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("responsecache: the handler panicked: %v", p)
			if p != http.ErrAbortHandler { //nolint:errorlint // as net/http compares it
				x.cache.logger.ErrorContext(ctx, "responsecache: the handler panicked in the background",
					"path", x.copied.URL.Path, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			}
		}
	}()
	if x.stale != nil && !x.stale.isForAllAtLast(ctx) {
		return cache.Entry{Kind: cache.Uncacheable}, nil // another client's request may do
	}
	at.reason = "stale"
	again := &exchange{
		asked:  asked{route: x.route, cache: x.cache, wants: parseWants(nil), name: x.name, rule: x.rule, page: x.page},
		engine: x.engine, next: x.next, w: &nowhere{header: http.Header{}},
		background: true,
	}
	if x.cache.refresh == nil && x.outer != nil { // else the middleware outside runs as well
		again.w = &nowhere{header: x.outer.Clone()}
	}
	r := x.copied.WithContext(ctx)
	for _, name := range []string{"Cache-Control", "Pragma", "If-None-Match", "If-Modified-Since"} {
		r.Header.Del(name)
	}
	if x.cache.refresh == nil {
		again.r = r
		return again.load(ctx, l, at)
	}
	job := &refresh{engine: x.engine, name: x.name, err: errNotReached, load: func(to *exchange) (cache.Entry, error) { //nolint:contextcheck // the request has it
		again.route, again.next, again.w, again.r = to.route, to.next, to.w, to.r
		return again.load(to.r.Context(), l, at)
	}}
	defer func() { _, _ = job.outcome() }() // if it panics, too
	x.cache.refresh.ServeHTTP(again.w, r.WithContext(inside{refresh: job, leading: insideOf(ctx).leading}.context(ctx)))
	if entry, err = job.outcome(); errors.Is(err, errNotReached) {
		x.cache.logger.WarnContext(ctx, err.Error(), "path", r.URL.Path)
	}
	return entry, err
}

// staleReply is the writer of a stale response that is made anew in the background. What
// middleware outside of the cache adds to it at the last moment tells whether its client's
// request may make a page for all: in the background they do not see the response.
type staleReply struct {
	watched
	forAll atomic.Bool // for all that is known
	ended  chan struct{}
	over   bool
}

// WriteHeader implements http.ResponseWriter.
func (w *staleReply) WriteHeader(code int) {
	w.watched.WriteHeader(code)
	w.forAll.Store(w.isForAll())
}

// Write implements http.ResponseWriter.
func (w *staleReply) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.end()
	return n, err
}

// end lets the refresh go on: with the first bytes of the body, or at the end of the
// exchange, the header has gone out even where the writer has kept it back.
func (w *staleReply) end() {
	if w == nil || w.over {
		return
	}
	w.over = true
	w.forAll.Store(w.isForAll())
	close(w.ended)
}

// patienceForReply is how long a refresh waits for a client that takes its time: it is at
// the body then, and the header has long gone out.
const patienceForReply = time.Second

// isForAllAtLast reports, when that is known, whether nobody has marked the response as personal.
func (w *staleReply) isForAllAtLast(ctx context.Context) bool {
	timer := time.NewTimer(patienceForReply)
	defer timer.Stop()
	select {
	case <-w.ended:
	case <-timer.C:
	case <-ctx.Done():
	}
	return w.forAll.Load()
}

// nowhere is the client of a page that is made in the background.
type nowhere struct{ header http.Header }

func (w *nowhere) Header() http.Header         { return w.header }
func (w *nowhere) WriteHeader(int)             {}
func (w *nowhere) Write(p []byte) (int, error) { return len(p), nil }

// Flush implements http.Flusher.
func (w *nowhere) Flush() {}
