package responsecache

import (
	"context"
	"fmt"
	"net/http"
)

// Purge removes the page under each URL with all its variants, on all servers. A
// computation of it that has begun is not stored any more. A URL is absolute and as
// this server sees it: behind a proxy that ends TLS, that is http:// and the Host
// that the proxy sends on, not what the browser shows. Spelling counts: the order of
// a query, percent-encoding as the clients write them. A URL under which nothing is
// stored is no error.
func (c *Cache) Purge(ctx context.Context, urls ...string) error {
	return c.purgeURLs(ctx, urls, false)
}

// SoftPurge makes the page under each URL stale, as if its lifetime were over: it is
// served as far as stale-while-revalidate or stale-if-error allow it, and validated
// otherwise.
func (c *Cache) SoftPurge(ctx context.Context, urls ...string) error {
	return c.purgeURLs(ctx, urls, true)
}

func (c *Cache) purgeURLs(ctx context.Context, urls []string, soft bool) error {
	pages := make([]pageName, len(urls))
	for i, rawURL := range urls {
		var err error
		if pages[i], err = parsePage(rawURL); err != nil {
			return err
		}
	}
	if err := c.purge(ctx, pages, soft, true); err != nil {
		return fmt.Errorf("responsecache: purge: %w", err)
	}
	return nil
}

// purge removes pages, or makes them stale: under their keys, under that of the rule
// that their path has, and what only their tag leads to. A variant is made stale by
// its tag, and removed by its index. everywhere says that others may have what this process
// knows nothing of: routes with keys of their own, and rules that are being learned.
func (c *Cache) purge(ctx context.Context, pages []pageName, soft, everywhere bool) error {
	purgeKeys, purgeTags := c.engine.Purge, c.engine.PurgeTags
	if soft {
		purgeKeys, purgeTags = c.engine.SoftPurge, c.engine.SoftPurgeTags
	}
	var keys, tags []string
	for _, page := range pages {
		keys = append(keys, page.key())
	}
	// First: who is learning a rule stores it before what leads to it from the page's own
	// key. So either that is refused after this purge, or the rule is found below.
	if err := purgeKeys(ctx, keys...); err != nil {
		return err
	}
	keys = nil
	for _, page := range pages {
		rule, known := c.storedRule(ctx, page.ruleKey())
		if rule.text != "" {
			keys = append(keys, page.keyUnder(rule))
		}
		// A rule that is being learned, or was another one a moment ago, leads to
		// keys that nobody can tell here.
		if !known || soft || everywhere || c.keyed.Load() || c.ruled.Load() {
			tags = append(tags, page.tag())
		}
	}
	if len(keys) > 0 {
		if err := purgeKeys(ctx, keys...); err != nil {
			return err
		}
	}
	if len(tags) > 0 {
		return purgeTags(ctx, tags...)
	}
	return nil
}

// PurgeTags removes all responses with one of the tags, on all servers, at the same
// cost whatever their number. Computations that have begun are not stored any more if
// they turn out to have one.
func (c *Cache) PurgeTags(ctx context.Context, tags ...string) error {
	if err := c.engine.PurgeTags(ctx, userTags(tags)...); err != nil {
		return fmt.Errorf("responsecache: %w", err)
	}
	return nil
}

// SoftPurgeTags is to PurgeTags what SoftPurge is to Purge.
func (c *Cache) SoftPurgeTags(ctx context.Context, tags ...string) error {
	if err := c.engine.SoftPurgeTags(ctx, userTags(tags)...); err != nil {
		return fmt.Errorf("responsecache: %w", err)
	}
	return nil
}

// PurgeAll removes everything from the store, also what others keep there.
func (c *Cache) PurgeAll(ctx context.Context) error {
	if err := c.engine.PurgeAll(ctx); err != nil {
		return fmt.Errorf("responsecache: %w", err)
	}
	return nil
}

// PurgeHandler returns a handler by which pages are purged over HTTP: a request with
// the method PURGE or POST purges the page under its own URL, as Varnish does, or
// with Surrogate-Key (tags with blanks between them) or Cache-Tag (with commas) all
// responses with one of these tags. With Soft-Purge: 1 they become stale only.
//
// So it must answer at the URLs of the pages, and stands in front of the mux:
//
//	if r.Method == "PURGE" {
//		purge.ServeHTTP(w, r)
//		return
//	}
//	mux.ServeHTTP(w, r)
//
// In an http.ServeMux "PURGE /" conflicts with every pattern that has a longer path
// and no method.
//
// authorize says which requests may do so, and must be safe for concurrent use; all
// others get a 403. Nil: none may.
func (c *Cache) PurgeHandler(authorize func(*http.Request) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if authorize == nil || !authorize(r) {
			http.Error(w, "purging is not allowed", http.StatusForbidden)
			return
		}
		if r.Method != "PURGE" && r.Method != http.MethodPost {
			w.Header().Set("Allow", "PURGE, POST")
			http.Error(w, "the method must be PURGE or POST", http.StatusMethodNotAllowed)
			return
		}
		if err := c.purgeBy(r); err != nil {
			c.logger.ErrorContext(r.Context(), "responsecache: a purge has failed", "error", err)
			w.Header().Set("Retry-After", "1")
			http.Error(w, "the purge has failed, try it again", http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
}

func (c *Cache) purgeBy(r *http.Request) error {
	soft := r.Header.Get("Soft-Purge") == "1"
	tags := tagsIn(r.Header)
	switch {
	case len(tags) > 0 && soft:
		return c.SoftPurgeTags(r.Context(), tags...)
	case len(tags) > 0:
		return c.PurgeTags(r.Context(), tags...)
	}
	return c.purge(r.Context(), []pageName{nameOf(r, nil)}, soft, true)
}
