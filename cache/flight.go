package cache

import (
	"context"
	"sync"
	"time"

	"github.com/herdless/herdless/internal/ttlmap"
)

// flights brings the callers of this process that ask for the same key at the
// same time together: one of them deals with the store, for all.
type flights struct {
	mu    sync.Mutex
	byKey map[string]*flight
}

// flight is one attempt at one key. Its leader ends it exactly once. What its leader needs
// lies in the same piece of memory, as there is one for each read of the store.
type flight struct {
	key    string
	leader leader
	job    job // of who has made the flight, if that is where it lies

	// Guarded by the mutex of flights.
	done     signal
	callers  int                // those who wait; a leader that waits for itself is one
	cancel   context.CancelFunc // of a leader that goes on by itself; else nil
	kept     bool               // it goes on without callers
	loads    bool               // its leader computes: the one who began it waits for itself
	fallback *Entry             // to be had if nothing better comes; nil: none
	since    uint64             // Engine.changes when that was found
	sharing  *Entry             // what is to be had already; nil: none
	stands   func() bool        // that it is older than nothing that this process knows of

	early signal // given when sharing is there

	// Valid after done. Without shared, those who waited start over.
	shared bool
	found  finding
}

// signal is a channel that is closed, if anybody asks for it: most often nobody waits.
type signal struct {
	c     chan struct{}
	given bool
}

func (s *signal) give() {
	s.given = true
	if s.c != nil {
		close(s.c)
	}
}

func (s *signal) wait() <-chan struct{} {
	if s.c == nil {
		s.c = make(chan struct{})
		if s.given {
			close(s.c)
		}
	}
	return s.c
}

// finding is what the leader of a flight has found.
type finding struct {
	entry Entry
	hit   bool // it was in the store
	// loaded: it is what a detached load has brought, for all who have waited,
	// even if it is not kept.
	loaded bool
	err    error // that all callers get instead
	// asOf is the number of the last caller that may have it. Whoever asked
	// later may have asked after a purge that the entry is older than.
	asOf uint64
}

// instant is when something was begun that others are to share.
type instant struct{ asked, changes uint64 }

func (e *Engine) instant() instant { return instant{changes: e.changes.Load(), asked: e.asked.Load()} }

// upTo returns the number of the last caller that may have what was begun at i:
// of those who have asked until now, if this process has purged and written
// nothing meanwhile. A store that fails now and then may take a purge in between.
func (e *Engine) upTo(i instant) uint64 {
	last := e.asked.Load() // first: see changes
	if e.changes.Load() == i.changes {
		return last
	}
	return i.asked
}

// newFlight returns the flight that nobody has seen, or a new one.
func newFlight(key string, spare *flight) *flight {
	if spare == nil {
		spare = new(flight)
	}
	spare.key, spare.callers = key, 1
	return spare
}

// join returns the flight of key, a new one if there is none, which is spare if that is not nil. Whoever gets a
// new one leads it, and must end it.
func (fs *flights) join(key string, spare *flight) (f *flight, leads bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f, ok := fs.byKey[key]; ok {
		f.callers++
		return f, false
	}
	if fs.byKey == nil {
		fs.byKey = make(map[string]*flight)
	}
	f = newFlight(key, spare)
	fs.byKey[key] = f
	return f, true
}

// signals returns the channels that tell of the end of f, and of something that is
// shared before that.
func (fs *flights) signals(f *flight) (done, early <-chan struct{}) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return f.done.wait(), f.early.wait()
}

// share offers entry to the callers of f before its end, as long as it stands: no
// purge or write has come since it was begun, after which a caller may have asked.
// Only the first call counts.
func (fs *flights) share(f *flight, entry Entry, stands func() bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.sharing == nil {
		f.sharing, f.stands = &entry, stands
		f.early.give()
	}
}

// earlyOf returns what was shared, and whether it stands. That callers are to compute
// for themselves always does.
func (fs *flights) earlyOf(f *flight) (Entry, bool) {
	fs.mu.Lock()
	entry, stands := f.sharing, f.stands
	fs.mu.Unlock()
	if entry == nil {
		return Entry{}, false
	}
	return *entry, entry.Kind == Uncacheable || entry.Kind != 0 && stands()
}

// leave says that a caller does not wait any more. When the last one has left, a
// leader that goes on by itself stops, unless keep was ever said. Whoever comes
// afterwards makes a new flight.
func (fs *flights) leave(f *flight, keep bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.callers--
	f.kept = f.kept || keep
	if f.callers > 0 || f.kept || f.cancel == nil {
		return
	}
	f.cancel()
	if fs.byKey[f.key] == f {
		delete(fs.byKey, f.key)
		f.done.give() // nobody is there to notice
	}
}

// detach makes f one whose leader goes on by itself, until cancel.
func (fs *flights) detach(f *flight, cancel context.CancelFunc) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.cancel = cancel
}

// nowLoads says that the leader of f computes.
func (fs *flights) nowLoads(f *flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.loads = true
}

func (fs *flights) isLoading(f *flight) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return f.loads
}

// fallBack offers entry to the callers of f in case that nothing better comes.
// changes is what Engine.changes was when it was asked for.
func (fs *flights) fallBack(f *flight, entry *Entry, changes uint64) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.fallback, f.since = entry, changes
}

// fallbackOf returns what the callers of f can have if nothing better comes: not
// after a purge or write by this process, for which the caller may have waited.
func (fs *flights) fallbackOf(f *flight, changes uint64) (Entry, bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.fallback == nil {
		return Entry{}, false
	}
	return *f.fallback, f.since == changes
}

// end takes the flight off and lets those who wait for it go on, with what was
// found if it is worth sharing. Only the first call counts.
func (fs *flights) end(f *flight, found finding) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.byKey[f.key] != f {
		return
	}
	delete(fs.byKey, f.key)
	if found.entry.Memo == nil && f.callers > 1 {
		found.entry.Memo = new(Memo) // all share what one of them has decoded
	}
	f.found = found
	f.shared = found.entry.TTL > 0 || found.hit || found.loaded || found.err != nil
	f.done.give()
}

// refreshes are the keys that this process refreshes in the background, or leaves
// to another one for a while.
type refreshes struct {
	mu     sync.Mutex
	busy   map[string]struct{}
	paused *ttlmap.Map[string, struct{}]
}

// begin reports whether somebody is to refresh key; the caller does then, until
// end.
func (r *refreshes) begin(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy == nil {
		r.busy = make(map[string]struct{})
		r.paused = ttlmap.New[string, struct{}]()
	}
	_, busy := r.busy[key]
	_, _, paused := r.paused.Get(key)
	if busy || paused {
		return false
	}
	r.busy[key] = struct{}{}
	return true
}

// end says that the refresh of key has ended, and that none is to begin for the
// time of pause.
func (r *refreshes) end(key string, pause time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.busy, key)
	if pause > 0 {
		r.paused.Set(key, struct{}{}, pause)
	}
}

// failures are the keys whose load has failed in this process, or whose failure it
// has waited for, with the errors.
type failures struct {
	mu    sync.Mutex
	byKey *ttlmap.Map[string, error]
}

func (f *failures) get(key string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byKey == nil {
		return nil
	}
	err, _, _ := f.byKey.Get(key)
	return err
}

func (f *failures) set(key string, err error, ttl time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byKey == nil {
		f.byKey = ttlmap.New[string, error]()
	}
	f.byKey.Set(key, err, ttl)
}

func (f *failures) forget(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byKey != nil {
		f.byKey.Delete(key)
	}
}
