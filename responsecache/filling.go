package responsecache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/internal/reqcopy"
	"github.com/herdless/herdless/responsecache/internal/fields"
)

// indexTTL is how long the variants of a page are found at least. An index is
// small, and outlives the variants.
const indexTTL = time.Hour

// filling is the making of a response on behalf of all who want it.
type filling struct {
	x       *exchange
	loading *cache.Loading
	ctx     context.Context //nolint:containedctx // of the load, which it lives as long as
	cancel  context.CancelFunc
	flight  string    // the key that is being filled
	index   varyIndex // under which that is a variant, or none
	reason  string    // why the request went to the handler

	// old is what the response is to replace, or nil, as it was when it was found.
	// fallsBack: it will do if the handler fails. validating: the handler is asked
	// whether it still holds.
	old        *stored
	oldEntry   cache.Entry
	found      time.Time
	fallsBack  bool
	validating bool

	// Where the response goes, decided when its header is there.
	key     string    // of the response
	page    string    // of the page that it is of
	rule    rule      // by which that is found
	variant varyIndex // under which it is a variant, or none
	live    *live     // that others may be reading along, or nil
}

// load computes what is under the key of a spot: it lets the handler answer this
// client, and returns what may be stored of that.
func (x *exchange) load(ctx context.Context, l *cache.Loading, at spot) (cache.Entry, error) {
	x.served = true
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := &filling{x: x, loading: l, ctx: ctx, cancel: cancel, flight: at.key, index: at.index, reason: at.reason}
	if e, ok := l.Stale(); ok {
		if found, ok := read(at.key, &e); ok && found.response != nil {
			f.old, f.oldEntry, f.found = found.response, e, time.Now()
			f.fallsBack = x.canFallBack(f.old, &e)
			f.reason = "stale"
			if f.old.left(&e) > 0 && !f.old.validate {
				f.reason = "request"
			}
		}
	}
	defer func() {
		if f.live != nil {
			close(f.live.settled)
		}
	}()
	e, err := f.run() //nolint:contextcheck // the filling has it
	if err == nil && f.live != nil && f.live.awaited.Load() {
		l.Settle(e) // before they are told
	}
	return e, err
}

func (f *filling) run() (cache.Entry, error) {
	f.validating = f.old != nil && f.old.hasValidator() && f.hold()
	defer f.x.letGo()
	for {
		rec := f.handle()
		switch {
		case rec.outcome == failure:
			return f.fallBack(rec), nil
		case rec.outcome == givenUp:
			f.loading.Settle(f.broken())
			return cache.Entry{}, errBroken
		case rec.outcome == passed:
			return f.outcome(rec), nil
		case f.old.isMatchedBy(rec.header):
			return f.freshen(rec)
		}
		f.validating = false // it speaks of another response: ask again, for all of it
	}
}

// handle lets the handler answer.
func (f *filling) handle() (rec *recorder) {
	x := f.x
	rec = newRecorder(x, f)
	returned := false
	defer func() {
		if returned {
			return
		}
		rec.end(errBroken)
		// A handler that gives up the connection on purpose gets its way.
		if rec.outcome == failure || (rec.status == 0 || rec.outcome == notModified) && f.hides() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler { //nolint:errorlint // as net/http compares it
					f.loading.Settle(f.backoff())
					panic(p)
				}
				x.cache.logger.ErrorContext(f.ctx, "responsecache: the handler panicked, a stale response hides it",
					"path", x.r.URL.Path, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				rec.restore()
				rec.outcome, rec.status = failure, http.StatusInternalServerError
				return
			}
		}
		if x.background {
			f.loading.Settle(cache.Entry{Kind: cache.Uncacheable}) // the stale response may still do
			return
		}
		f.loading.Settle(f.broken())
	}()
	f.ask(rec)
	returned = true
	return rec
}

// ask runs the handler. If it gives up the connection on purpose when the client has
// got a 304, it is the page that has broken: that response is whole, and the client
// may have sent its next request already.
func (f *filling) ask(rec *recorder) {
	defer func() {
		if !rec.has304 {
			return
		}
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			rec.outcome = givenUp
			rec.end(errBroken)
		default:
			panic(p)
		}
	}()
	r := f.request()
	defer reqcopy.Return(f.x.r, r)
	f.x.next.ServeHTTP(rec, r)
}

// request returns the request that the handler gets: for the whole page, whatever
// this client has of it.
func (f *filling) request() *http.Request {
	x := f.x
	in := inside{refresh: insideOf(f.ctx).refresh, leading: x}
	if again := in.refresh; again != nil && again.engine == x.engine && again.name == x.name {
		in.refresh = nil // it has come to its page: what is within must not take it for its own
	}
	r := x.r.WithContext(in.context(f.ctx))
	r.Header = r.Header.Clone()
	fields.Combine(r.Header)
	for _, name := range []string{"If-None-Match", "If-Modified-Since", "If-Range", "Range"} {
		r.Header.Del(name)
	}
	if x.route.policy.Compress {
		r.Header.Del("Accept-Encoding")
	}
	if f.validating {
		old := f.old.headers()
		if etag := old.Get("Etag"); etag != "" {
			r.Header.Set("If-None-Match", etag)
		}
		if modified := old.Get("Last-Modified"); modified != "" {
			r.Header.Set("If-Modified-Since", modified)
		}
	}
	return r
}

// unshareable says that nobody else gets this response. Nobody waits for it any
// more then, so that it ends with its client.
func (f *filling) unshareable(code int, h http.Header, why string) {
	x := f.x
	if x.personal {
		x.cache.personal.set(x.page, struct{}{}, hitForMiss)
	}
	f.loading.Settle(f.notShared(code, h, why))
	switch {
	case x.background:
		f.cancel()
	case f.live == nil:
		context.AfterFunc(x.r.Context(), f.cancel)
	default:
		context.AfterFunc(x.r.Context(), func() { f.live.whenUnread(f.cancel) })
	}
}

// oldNow is the entry of the old response as it is now: the handler takes its time.
func (f *filling) oldNow() *cache.Entry {
	e, passed := f.oldEntry, time.Since(f.found)
	e.TTL -= passed
	e.Age += passed
	return &e
}

// hides reports whether the client gets the old response in place of a failure.
func (f *filling) hides() bool { return f.fallsBack && f.x.canFallBack(f.old, f.oldNow()) }

// unreadFor is for how long a response is made for the store alone. A body that has
// no end would never be there.
const unreadFor = time.Minute

// endWithoutReaders ends the response some time after its client has gone, if nobody
// else reads it. It returns what keeps it from that, for when the handler is done.
func (f *filling) endWithoutReaders(l *live) (stop func() bool) {
	return context.AfterFunc(f.x.r.Context(), func() {
		timer := time.NewTimer(unreadFor)
		defer timer.Stop()
		select {
		case <-f.ctx.Done():
		case <-timer.C:
			l.seal()
			l.whenUnread(f.cancel)
		}
	})
}

// failed is the outcome for those who wait for a response that did not come to a
// good end.
var failed = cache.Entry{Kind: cache.Uncacheable, TTL: failureForMiss}

// failed is the outcome for those who wait for a response that came to no good. What
// there is and is fresh stays: no client who did not want it can take it from the
// others. Those of this process who wait do not want it either: each goes its own
// way, or they would run the handler one after the other.
func (f *filling) failed() cache.Entry {
	if f.oldIsFresh() {
		f.loading.Share(failed)
		return cache.Entry{Kind: cache.Uncacheable}
	}
	return failed
}

func (f *filling) oldIsFresh() bool {
	return f.old != nil && f.old.left(f.oldNow()) > 0 && !f.old.validate
}

// broken is the outcome if the handler has failed and this client has not got a stale
// response in place of that, be it that it does not want one. Others may.
func (f *filling) broken() cache.Entry {
	if f.old != nil && f.x.outlivesFailure(f.old, f.oldNow()) {
		return f.backoff()
	}
	return f.failed()
}

// notShared is the outcome for those who wait for a response that turned out not to
// be for sharing. An error, of the client's too, says something about that one
// request and little about the page, and so does what a client gets that did not want
// the page that there is.
func (f *filling) notShared(code int, h http.Header, why string) cache.Entry {
	switch {
	case f.x.personal, // nobody waits, and what others get is another matter
		f.x.background && code >= 500: // the stale response may still do
		return cache.Entry{Kind: cache.Uncacheable}
	case f.x.route.policy.isError(code, h):
		return f.broken()
	case code == 0 || code >= 400 || why == "store", f.oldIsFresh():
		return f.failed()
	}
	return cache.Entry{Kind: cache.Uncacheable, TTL: hitForMiss}
}

// place decides under which keys the response goes, and reports whether it can.
func (f *filling) place(rec *recorder) bool {
	x, v := f.x, &rec.verdict
	f.rule = parseRule(rec.header)
	if f.rule.text != "" {
		x.cache.ruled.Store(true)
	}
	f.page, f.variant = x.page, f.index
	if f.rule.text == "" && x.rule.text != "" && rec.status >= 400 {
		return false // an error says nothing of the path, whose rule would not lead here
	}
	if f.rule != x.rule {
		f.page, f.variant = x.name.pageUnder(f.rule), varyIndex{}
	}
	f.key = f.page
	if f.page == x.page && f.index.generation == "" {
		f.key = f.flight
	}
	switch {
	case f.variant.generation != "":
		for _, name := range v.vary {
			if !slices.Contains(f.variant.names, name) {
				// It was selected by more than the index says: that is history.
				f.variant = varyIndex{generation: rand.Text(), names: v.vary}
				break
			}
		}
	case len(v.vary) > 0:
		f.variant = varyIndex{generation: rand.Text(), names: v.vary}
	}
	if f.variant.generation != "" {
		f.key = variantKey(f.page, f.variant, x.selects(f.variant))
	}
	return f.key == f.flight || f.loading.Kept()
}

// outcome returns what to store of a response that has gone to the client.
func (f *filling) outcome(rec *recorder) cache.Entry {
	if rec.status == 0 {
		h := f.x.w.Header()
		addVary(h, f.x.route.policy.Vary)
		f.x.cache.takeOff(h)
		f.x.addStatus(status{fwd: f.reason})
	}
	if !rec.end(nil) {
		switch {
		case rec.status == 0:
			return f.failed()
		case rec.isShort() && rec.coding != nil && rec.gone == nil && !f.x.background:
			// net/http does not know of the length that was declared.
			f.loading.Settle(f.broken())
			panic(http.ErrAbortHandler)
		case rec.isShort():
			return f.broken()
		}
		return f.notShared(rec.status, rec.header, rec.verdict.why)
	}
	s := rec.verdict.response
	if rec.sniffed != "" {
		s.header = s.header.Clone()
		s.header["Content-Type"] = []string{rec.sniffed}
	}
	e := cache.Entry{}
	if rec.body != nil {
		body, err := rec.body.Finish()
		if err != nil {
			rec.body.Abort()
			rec.live.finish(nil, nil)
			return failed
		}
		e.Body = body
		key := f.key
		rec.live.finish(nil, func(offset int64) (io.ReadCloser, error) {
			return f.x.openAt(context.WithoutCancel(f.ctx), key, body, offset)
		})
	} else {
		s.body = rec.live.bytes()
		rec.live.finish(nil, nil)
	}
	return f.store(&s, e, &rec.verdict, rec)
}

// store completes the entry of a response, and puts it where it belongs. It returns
// what is to be under the key that is being filled.
func (f *filling) store(s *stored, e cache.Entry, v *verdict, rec *recorder) cache.Entry {
	// It has been getting older since its header went out.
	took := time.Since(rec.came)
	s.age += took
	e.TTL = v.ttl - took
	if e.TTL <= 0 {
		if v.keep <= 0 {
			return failed
		}
		// It is stored to be validated, or for when the handler fails.
		s.stale, s.late, e.TTL = true, v.late+took-v.ttl, time.Millisecond
	}
	e.Kind, e.StaleFor, e.Tags = cache.Value, v.keep, f.x.tagsOf(rec.header)
	if len(e.Tags) > maxTags {
		f.x.cache.logger.WarnContext(f.ctx, "responsecache: a response is not stored, because it has too many tags",
			"path", f.x.r.URL.Path, "tags", len(e.Tags), "limit", maxTags)
		return failed
	}
	if tags := f.x.addedTags(); len(tags) > 0 {
		s.header = s.header.Clone()
		tags = append(tags, rec.header[addedTags]...)
		slices.Sort(tags)
		s.header[addedTags] = slices.Compact(tags)
	}
	e.Data = s.encode()
	if f.key == f.flight {
		f.admit(e.TTL + e.StaleFor)
		return e
	}
	if err := f.loading.Add(f.ctx, f.key, e, 0); err != nil {
		return failed
	}
	f.admit(e.TTL + e.StaleFor)
	top := e
	if f.variant.generation != "" {
		// Tags reach the variants of a page through the index, too, as nobody
		// knows of this one before that is stored.
		top = cache.Entry{Kind: cache.Value, Data: f.variant.encode(), TTL: max(indexTTL, e.TTL+e.StaleFor), Tags: e.Tags}
		if f.page == f.x.page && f.flight == f.page {
			return top
		}
		// If the index that led here is gone, the page was purged meanwhile.
		after := ""
		if f.page == f.x.page {
			after = f.index.generation
		}
		if err := f.replace(f.page, top, after); err != nil {
			return failed
		}
	}
	if f.rule == f.x.rule {
		return failed // it is a variant under a new index, and nobody's here
	}
	e = f.learn(top.TTL)
	if !f.loading.Settle(e) || !f.isLedTo() {
		// The page was changed meanwhile, maybe by who knows of no rule yet.
		_ = f.x.engine.Purge(f.ctx, f.page) // it has been logged
	}
	return e
}

// isLedTo reports whether the index that has led to what is filled, if any, is still there:
// if not, the page was purged.
func (f *filling) isLedTo() bool {
	if f.index.generation == "" {
		return true
	}
	e, ok, err := f.x.engine.Get(f.ctx, f.x.page)
	if err != nil || !ok {
		return false
	}
	found, ok := read(f.x.page, &e)
	return ok && found.index.generation == f.index.generation
}

// maxTags is the store's.
const maxTags = 1000

// replace stores an entry in place of any other one, or if after is not empty, of the
// index of that generation only.
func (f *filling) replace(key string, e cache.Entry, after string) error {
	old, ok, err := f.x.engine.Get(f.ctx, key)
	if err != nil {
		return err
	}
	if after != "" {
		found, readable := read(key, &old)
		if !ok || !readable || found.index.generation != after {
			return errReplaced
		}
	}
	return f.loading.Add(f.ctx, key, e, old.Version)
}

var errReplaced = errors.New("responsecache: the page was purged or replaced meanwhile")

// fallBack answers with the old response in place of a failure (RFC 5861 §4).
func (f *filling) fallBack(rec *recorder) cache.Entry {
	rec.end(nil)
	e := f.oldNow()
	st := status{fwd: f.reason, fwdStatus: rec.status, ttl: f.old.left(e), hasTTL: true, detail: "stale-if-error"}
	outcome, ok := f.reply(f.old, e, st, func(bool) cache.Entry { return f.backoff() })
	if !ok {
		f.x.addStatus(status{fwd: f.reason, fwdStatus: rec.status})
		http.Error(f.x.w, http.StatusText(rec.status), rec.status)
		if !errors.Is(f.x.noBody, cache.ErrNoBody) {
			return f.backoff() // others may get it
		}
		return failed
	}
	return outcome
}

// backoff returns the old response as one that is used for a moment without asking
// the handler, which is failing.
func (f *filling) backoff() cache.Entry {
	old := f.oldNow()
	kept, late := old.TTL+old.StaleFor, -f.old.left(old)
	ttl := min(failureForMiss, kept)
	if f.x.cache.profile != Conformance {
		ttl = min(ttl, f.old.sie-late) // it may be used no longer
	}
	if ttl <= 0 || late < 0 {
		return f.failed()
	}
	s := *f.old
	s.stale, s.failing, s.age = true, true, f.old.age+old.Age
	s.late = (late + time.Millisecond - 1).Truncate(time.Millisecond) // as it is stored, and never less
	return cache.Entry{
		Kind: cache.Value, Data: s.encode(), Body: f.old.stream, TTL: ttl, StaleFor: kept - ttl, Tags: f.x.tagsOf(f.old.headers()),
	}
}

// stripFor304 leaves what a 304 has (RFC 9110 §15.4.5).
func stripFor304(h http.Header) {
	for _, name := range []string{"Content-Type", "Content-Length", "Content-Encoding", "Content-Language", "Content-Range", "Accept-Ranges"} {
		delete(h, name)
	}
	if len(h["Etag"]) > 0 {
		delete(h, "Last-Modified")
	}
}

// parseRule returns the No-Vary-Search rule of a response, or none.
func parseRule(h http.Header) rule {
	n, ok := fields.ParseNoVarySearch(h["No-Vary-Search"])
	if !ok {
		return rule{}
	}
	return rule{text: n.String()}
}
