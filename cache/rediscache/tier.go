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
	store   *Store
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
	cache.Entry               // with the times as they were at
	at          time.Duration // since the feed's base
	epoch       uint64
	tags        []uint64
	weight      uint32
	handle      *tieredHandle
}

// tieredHandle implements cache.Handle.
type tieredHandle struct {
	store *Store
	key   string
	entry atomic.Pointer[tiered] // nil: it is not in the tier any more
}

// Peek implements cache.Handle. The eviction sees one of sixteen who find an entry in this
// way, as in a cache.MemoryStore.
func (h *tieredHandle) Peek() (e *cache.Entry, age, ttl time.Duration, ok bool) {
	now := h.store.feed.now()
	h.store.feed.touch(now)
	if !h.store.feed.freshAt(now) {
		return nil, 0, 0, false
	}
	kept := h.entry.Load()
	if kept == nil {
		return nil, 0, 0, false
	}
	if now>>6%16 == 0 {
		h.store.tier.entries.GetIfPresent(h.key)
	}
	age, ttl, ok = kept.times(h.key, &h.store.log.table, now)
	return &kept.Entry, age, ttl, ok
}

// tieredOverhead is roughly what an entry costs beside its key, tags and data.
const tieredOverhead = 400

func newTier(store *Store, bytes int64) *tier {
	t := &tier{store: store, seed: maphash.MakeSeed(), largest: int(min(bytes/16, math.MaxInt32))}
	if bytes > 0 {
		t.entries = otter.Must(&otter.Options[string, *tiered]{
			MaximumWeight: uint64(bytes),
			Weigher:       func(_ string, e *tiered) uint32 { return e.weight },
			// In place: no goroutine is left behind.
			Executor: func(fn func()) { fn() },
			// Before anybody can find that it is gone, or what is in its place.
			OnAtomicDeletion: func(gone otter.DeletionEvent[string, *tiered]) { gone.Value.handle.entry.Store(nil) },
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
	kept := &tiered{Entry: e.Entry, at: at.Sub(t.store.feed.base), epoch: e.epoch, tags: e.hashes(), weight: uint32(weight)}
	kept.Tags = nil
	kept.handle = &tieredHandle{store: t.store, key: key}
	kept.handle.entry.Store(kept)
	kept.Local, kept.Memo, kept.Handle = true, new(cache.Memo), kept.handle
	s := t.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	current := s.count == m.count && t.generation.Load() == m.generation && t.store.feed.fresh()
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
	age, ttl, ok := kept.times(key, table, now)
	if ok {
		*e = kept.Entry
		e.StaleFor += kept.TTL - (age - kept.Age) - ttl // a soft purge does not let it be kept longer than before
		e.Age, e.TTL = age, ttl
	}
	return ok
}

// times returns the age of an entry and what is left of its TTL, and reports false if its
// time is over or a purge in the table has reached it. After a soft purge it is stale.
func (e *tiered) times(key string, table *purges.Table, now time.Duration) (age, ttl time.Duration, ok bool) {
	passed := max(0, now-e.at) // it may have come a moment ago
	ttl = e.TTL - passed
	verdict := table.Verdict(key, e.tags, e.epoch)
	if verdict == purges.Gone || ttl+e.StaleFor <= 0 {
		return 0, 0, false // it will be replaced, or evicted
	}
	if verdict == purges.Stale {
		ttl = min(ttl, 0)
	}
	return e.Age + passed, ttl, true
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
