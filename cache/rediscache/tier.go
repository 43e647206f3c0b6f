package rediscache

import (
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/internal/purges"
	"github.com/maypok86/otter/v2"
)

// tier keeps entries in this process. What is in it may be relied on only while
// the feed is fresh.
//
// Each key has a stripe, and each stripe counts what has happened to its keys,
// because of
//
//	A sends GET, the old value is on its way
//	                                          B purges the key, the feed tells
//	A puts the old value in, which nobody removes again
//
// So A notes the count before it asks, and puts in nothing if it has changed.
type tier struct {
	entries *otter.Cache[string, *tiered] // nil: there is no tier
	largest int                           // bytes of an entry
	fresh   func() bool
	base    time.Time // what times are counted from
	seed    maphash.Seed
	stripes [256]stripe
	// generation counts how often the tier was emptied. It changes only while
	// all stripes are locked.
	generation atomic.Uint64
}

type stripe struct {
	mu    sync.Mutex
	count uint64
}

// tiered is an entry in the tier.
type tiered struct {
	cache.Entry // with the times as they were at
	at          time.Duration
	epoch       uint64
	tags        []uint64
	weight      uint32
}

// tieredOverhead is roughly what an entry costs beside its key, tags and data.
const tieredOverhead = 400

func newTier(bytes int64, fresh func() bool, base time.Time) *tier {
	t := &tier{fresh: fresh, base: base, seed: maphash.MakeSeed(), largest: int(min(bytes/16, math.MaxInt32))}
	if bytes > 0 {
		t.entries = otter.Must(&otter.Options[string, *tiered]{
			MaximumWeight: uint64(bytes),
			Weigher:       func(_ string, e *tiered) uint32 { return e.weight },
			// In place: no goroutine is left behind.
			Executor: func(fn func()) { fn() },
		})
	}
	return t
}

func (t *tier) stripe(key string) *stripe {
	return &t.stripes[maphash.String(t.seed, key)%uint64(len(t.stripes))]
}

// mark is the state of a key's stripe and the tier before something was asked.
type mark struct{ count, generation uint64 }

func (t *tier) mark(key string) mark {
	s := t.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return mark{s.count, t.generation.Load()}
}

// drop removes the entry under key, and keeps out what was asked for before.
func (t *tier) drop(key string) {
	if t.entries == nil {
		return
	}
	s := t.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	t.entries.Invalidate(key)
}

// put keeps an entry of the store that was read at or after m was noted.
func (t *tier) put(key string, e *stored, at time.Time, m mark) {
	t.set(key, e, at, m, false)
}

// replace is put for an entry that this process has stored itself. It keeps out
// what others of this process have read before.
func (t *tier) replace(key string, e *stored, at time.Time, m mark) {
	t.set(key, e, at, m, true)
}

func (t *tier) set(key string, e *stored, at time.Time, m mark, own bool) {
	if t.entries == nil {
		return
	}
	weight := tieredOverhead + len(key) + len(e.Data) + 8*len(e.hashes())
	if weight > t.largest || e.chunks > 0 || e.Body.ID != "" {
		if own {
			t.drop(key)
		}
		return
	}
	kept := &tiered{Entry: e.Entry, at: at.Sub(t.base), epoch: e.epoch, tags: e.hashes(), weight: uint32(weight)}
	kept.Tags = nil
	kept.Local, kept.Memo = true, new(cache.Memo)
	s := t.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	current := s.count == m.count && t.generation.Load() == m.generation && t.fresh()
	if own {
		s.count++
	}
	switch {
	case !current && own:
		t.entries.Invalidate(key) // older than what is stored now
		return
	case !current:
		return
	}
	t.entries.Set(key, kept)
}

// get puts the entry under key as it is now into e, unless a purge in the table has
// reached it. It is for who knows that the tier may be relied on.
func (t *tier) get(e *cache.Entry, key string, table *purges.Table, now time.Duration) bool {
	kept, ok := t.entries.GetIfPresent(key)
	if !ok {
		return false
	}
	verdict := table.Verdict(key, kept.tags, kept.epoch)
	passed := max(0, now-kept.at) // it may have come a moment ago
	if verdict == purges.Gone || kept.TTL-passed+kept.StaleFor <= 0 {
		return false // it will be replaced, or evicted
	}
	*e = kept.Entry
	e.Age += passed
	e.TTL -= passed
	if verdict == purges.Stale && e.TTL > 0 {
		e.StaleFor += e.TTL
		e.TTL = 0
	}
	return true
}

// clear empties the tier, and keeps out what was asked for before.
func (t *tier) clear() {
	for i := range t.stripes {
		t.stripes[i].mu.Lock()
		defer t.stripes[i].mu.Unlock()
	}
	t.generation.Add(1)
	if t.entries != nil {
		t.entries.InvalidateAll()
	}
}
