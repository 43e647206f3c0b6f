package cache

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// EventKind says what happened.
type EventKind uint8

const (
	// HitFresh: a caller got a fresh entry. Local says whether it was in this
	// process.
	HitFresh EventKind = iota + 1
	// HitStale: a caller got a stale entry.
	HitStale
	// Missed: nothing usable was found, and somebody must compute.
	Missed
	// WaitEnded: a caller has waited for another one, for Took.
	WaitEnded
	// LoadEnded: a load has ended after Took, with Err if it failed.
	LoadEnded
	// FillRefused: a value was computed that the store did not take, because
	// of a purge, a write, or somebody who overtook.
	FillRefused
	// Purged: a purge has ended, with Err if it failed.
	Purged
	// StoreFailed: the store or the locker has failed, with Err.
	StoreFailed
	// BreakerChanged: the circuit breaker has opened or closed.
	BreakerChanged
	// DamageFound: bytes were found that are no entry as it should be: damaged,
	// somebody else's, without all of its data or its body, of another Schema, or
	// not to be decoded. It is a miss, and what is computed replaces them.
	DamageFound
)

var eventNames = [...]string{
	HitFresh: "hit fresh", HitStale: "hit stale", Missed: "missed", WaitEnded: "wait ended", LoadEnded: "load ended",
	FillRefused: "fill refused", Purged: "purged", StoreFailed: "store failed", BreakerChanged: "breaker changed",
	DamageFound: "damage found",
}

// String returns the kind in words.
func (k EventKind) String() string {
	if int(k) < len(eventNames) && eventNames[k] != "" {
		return eventNames[k]
	}
	return fmt.Sprintf("EventKind(%d)", uint8(k))
}

// Event is something that happened in an Engine.
type Event struct {
	Kind EventKind
	// Key is the engine's key: of a value of a Namespace its name, a colon and
	// the key. Empty for Purged and BreakerChanged.
	Key string
	// Local says of HitFresh and HitStale that the entry was in this process.
	Local bool
	// Took is how long it took, where the kind says so.
	Took time.Duration
	// Err is what went wrong, or nil.
	Err error
	// Purge is what a purge named.
	Purge Purge
	// Open is the new state of the circuit breaker.
	Open bool
}

// Stats counts what has happened in an Engine since it was made, in this process,
// of all namespaces. A remembered ErrNotFound is a hit, and no load error. GetMany
// counts each key.
type Stats struct {
	// HitsLocal and HitsStore count callers that got a fresh entry, from this
	// process and from the store. HitsStale count those that got a stale one.
	HitsLocal, HitsStore, HitsStale uint64
	// Misses count the times that nothing usable was found. A process asks
	// once for all its callers that ask together.
	Misses uint64
	// Waits count callers that got what another one computed.
	Waits uint64
	// Loads count computations, LoadErrors those that failed.
	Loads, LoadErrors uint64
	// FillsRefused count values that the store did not take, see FillRefused.
	FillsRefused uint64
	// Purges count purges, failed ones too.
	Purges uint64
	// StoreErrors count failures of the store and the locker.
	StoreErrors uint64
	// Damaged counts the times that something damaged was found, see DamageFound.
	Damaged uint64
	// BreakerOpen says that the store is not asked at present.
	BreakerOpen bool
}

type counters struct {
	local                                                                                 striped
	store, stale, misses, waits, loads, loadErrors, refused, purges, storeErrors, damaged atomic.Uint64
	open                                                                                  atomic.Bool
}

// striped is a counter in several parts, so that processors that count at the same time
// seldom wait for one another.
type striped [32]struct {
	n atomic.Uint64
	_ [56]byte // a cache line for each
}

// add counts one. Whoever counts something else than others do has a number of its own.
func (s *striped) add(number uint64) { s[number%uint64(len(s))].n.Add(1) }

func (s *striped) sum() (n uint64) {
	for i := range s {
		n += s[i].n.Load()
	}
	return n
}

// Stats returns what has been counted so far.
func (e *Engine) Stats() Stats {
	c := &e.counters
	return Stats{
		HitsLocal: c.local.sum(), HitsStore: c.store.Load(), HitsStale: c.stale.Load(),
		Misses: c.misses.Load(), Waits: c.waits.Load(),
		Loads: c.loads.Load(), LoadErrors: c.loadErrors.Load(),
		FillsRefused: c.refused.Load(), Purges: c.purges.Load(),
		StoreErrors: c.storeErrors.Load(), Damaged: c.damaged.Load(), BreakerOpen: c.open.Load(),
	}
}

// happened counts an event and tells who observes.
func (e *Engine) happened(ctx context.Context, event Event) {
	c := &e.counters
	switch event.Kind {
	case Missed:
		c.misses.Add(1)
	case WaitEnded:
		c.waits.Add(1)
	case LoadEnded:
		c.loads.Add(1)
		if event.Err != nil {
			c.loadErrors.Add(1)
		}
	case FillRefused:
		c.refused.Add(1)
	case Purged:
		c.purges.Add(1)
	case StoreFailed:
		c.storeErrors.Add(1)
	case DamageFound:
		c.damaged.Add(1)
	case HitFresh, HitStale: // CountHit counts them
	case BreakerChanged: // has no number
	}
	if e.observe != nil {
		e.observe(ctx, event)
	}
}
