package responsecache

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/internal/respwriter"
)

// forwardHead lets the handler answer a HEAD, and what is stored under key be updated
// by that, or removed if it turns out to be another page by now (RFC 9111 §4.3.5).
func (x *exchange) forwardHead(ctx context.Context, key string, index varyIndex, reason string) {
	_, _ = x.engine.Fetch(ctx, cache.Fetch{
		Key: key, Lane: "head", NoWait: true,
		Judge: func(e cache.Entry) cache.Verdict {
			if f, ok := read(key, &e); !ok || f.response == nil {
				return cache.Use // it has changed meanwhile
			}
			return cache.FallBack
		},
		Load: func(ctx context.Context, l *cache.Loading) (cache.Entry, error) {
			e, _ := l.Stale()
			found, ok := read(key, &e)
			if !ok || found.response == nil {
				return cache.Entry{Kind: cache.Uncacheable}, nil
			}
			x.served = true
			f := &filling{x: x, loading: l, ctx: ctx, flight: key, index: index, reason: reason, old: found.response, oldEntry: e, found: time.Now()}
			rec := &recorder{x: x, f: f, outer: x.w.Header().Clone(), asked: time.Now()}
			w := respwriter.New(x.w, func(code int) bool {
				h := x.w.Header()
				rec.status, rec.came = code, time.Now()
				addVary(h, x.route.policy.Vary)
				setDate(h, rec.came)
				rec.header = canonical(h)
				rec.own = difference(rec.header, rec.outer)
				x.cache.takeOff(h)
				x.addStatus(status{fwd: reason})
				rec.before = canonical(h)
				return true
			})
			x.next.ServeHTTP(w, x.ownRequest())
			sendHeader(w)
			if isPersonal(rec.before, canonical(x.w.Header())) {
				return cache.Entry{Kind: cache.Uncacheable}, nil // what others get is another matter
			}
			return f.updateByHead(rec), nil
		},
	})
	if !x.served {
		x.forward(reason)
	}
}

// sendHeader sends the header of a handler that has written nothing, so that middleware
// outside of the cache adds now what it adds at the last moment.
func sendHeader(w *respwriter.Writer) {
	if w.Status() == 0 {
		w.WriteHeader(http.StatusOK)
	}
}

// updateByHead returns what is to be stored after the response to a HEAD.
func (f *filling) updateByHead(rec *recorder) cache.Entry {
	if rec.status != http.StatusOK || f.old.status != http.StatusOK {
		return cache.Entry{Kind: cache.Uncacheable} // it says nothing about what is stored
	}
	h := rec.header
	if h.Get("Etag") == "" && h.Get("Last-Modified") == "" && h.Get("Content-Length") == "" {
		return cache.Entry{Kind: cache.Uncacheable} // nor does this, of what matters
	}
	if !f.old.isMatchedByHead(h) {
		return cache.Entry{Kind: cache.Uncacheable, TTL: time.Millisecond}
	}
	return f.storeUpdated(f.updated(rec), rec)
}

// isMatchedByHead reports whether the response to a HEAD with the header h is about s (RFC
// 9111 §4.3.5). Unlike a 304 it does not answer a condition: what it has must be the same.
func (s *stored) isMatchedByHead(h http.Header) bool {
	if length := h.Get("Content-Length"); length != "" && length != strconv.FormatInt(s.length, 10) {
		return false
	}
	if modified := h.Get("Last-Modified"); h.Get("Etag") == "" && modified != "" {
		return modified == s.headers().Get("Last-Modified")
	}
	return s.isMatchedBy(h)
}
