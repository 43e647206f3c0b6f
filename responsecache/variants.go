package responsecache

import (
	"slices"
	"strconv"
	"time"

	"github.com/herdless/herdless/cache"
)

// A page has a bounded number of variants, so that nobody fills the store by
// sending another User-Agent with each request. They are kept in sets, as in the
// cache of a processor: a digest of what selects it puts a variant into one of them,
// and of those in a full set the one that came first goes. So a new variant costs
// the same whatever their number, and a hit costs nothing.
//
// Two servers that change a set at once may lose one of the changes. Then a variant
// is not counted, and stays until its time is over.
const (
	variantSets   = 64
	variantsInSet = 4
)

// admit makes room for the variant that is about to be stored.
func (f *filling) admit(keeps time.Duration) {
	if f.variant.generation == "" {
		return
	}
	x := f.x
	selected := x.selects(f.variant)
	n, _ := strconv.ParseUint(selected[:4], 16, 64)
	key := bounded(joinParts("variants", f.page, f.variant.generation, strconv.FormatUint(n%variantSets, 10)))
	set := varyIndex{generation: f.variant.generation}
	old, ok, err := x.engine.Get(f.ctx, key)
	if err != nil {
		return
	}
	if ok {
		if found, ok := read(key, &old); ok {
			set.names = slices.Clone(found.index.names)
		}
	}
	if slices.Contains(set.names, selected) {
		return
	}
	set.names = append(set.names, selected)
	if len(set.names) > variantsInSet {
		// If it fails, it is one too many.
		_ = x.engine.Purge(f.ctx, variantKey(f.page, f.variant, set.names[0]))
		set.names = set.names[1:]
	}
	_ = f.loading.Add(f.ctx, key, cache.Entry{Kind: cache.Value, Data: set.encode(), TTL: max(indexTTL, keeps)}, old.Version)
}
