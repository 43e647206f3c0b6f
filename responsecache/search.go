package responsecache

import (
	"context"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/responsecache/internal/fields"
)

// rule is what a No-Vary-Search field says, in one spelling: which parts of the
// query make another page. Empty: all do.
type rule struct{ text string }

// ruleMemory is for how long a process does not ask the store again for the rule of
// a path.
const ruleMemory = 10 * time.Second

// pageUnder is the key of the page with that name, under a rule.
func (n *pageName) pageUnder(r rule) string {
	if r.text == "" {
		return n.key()
	}
	return n.keyUnder(r)
}

// canonical returns what counts of a query.
func (r rule) canonical(query string) string {
	n, _ := fields.ParseNoVarySearch([]string{r.text})
	return n.Canonical(query)
}

// findRule looks for the page under the rule that its path is known to have. Only
// those with a query cost the store a question, and not each time.
func (a *asked) findRule(ctx context.Context) {
	if a.name.query == "" && !a.cache.rules.any() {
		return
	}
	path := a.name.pathName
	r, known := a.cache.rules.get(path)
	if !known {
		if a.name.query == "" {
			return
		}
		r, _ = a.cache.storedRule(ctx, a.name.ruleKey())
		a.cache.remember(path, r)
	}
	if r.text != "" {
		a.rule, a.page = r, a.name.keyUnder(r)
	}
}

// storedRule returns the rule that is stored for a path, or none, and whether the store
// has said so.
func (c *Cache) storedRule(ctx context.Context, key string) (r rule, known bool) {
	e, ok, err := c.engine.Get(ctx, key)
	if err != nil || !ok {
		return rule{}, err == nil
	}
	if f, ok := read(key, &e); ok && f.isAlias() {
		c.ruled.Store(true)
		return rule{text: f.alias.rule}, true
	}
	return rule{}, false // it is of another version
}

// remember keeps the rule of a path for a while, if its name is not too long for that.
func (c *Cache) remember(path pathName, r rule) {
	if len(path.host)+len(path.path)+len(path.rewritten)+len(path.extra) <= maxKnownPage {
		c.rules.set(path.kept(), r, ruleMemory)
	}
}

// take makes the rule that an alias leads to the one of the exchange.
func (a *asked) take(text string) {
	a.rule = rule{text: text}
	a.cache.remember(a.name.pathName, a.rule)
	a.page = a.name.pageUnder(a.rule)
}

// learn stores the rule of a response for its path, and returns what leads to it
// from the key that is being filled.
func (f *filling) learn(ttl time.Duration) cache.Entry {
	key := f.x.name.ruleKey()
	f.x.cache.remember(f.x.name.pathName, f.rule)
	if f.rule.text == "" {
		// The path has no rule any more.
		_ = f.x.engine.Purge(f.ctx, key) // else it is asked for in vain for a while
		return failed                    // those who wait look under the old rule: each goes its own way
	}
	a := alias{rule: f.rule.text}
	e := cache.Entry{Kind: cache.Value, Data: a.encode(), TTL: max(indexTTL, ttl)}
	if err := f.replace(key, e, ""); err != nil {
		return failed
	}
	return e
}
