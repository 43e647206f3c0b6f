package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/herdless/herdless/cache/internal/purges"
	"github.com/herdless/herdless/internal/ttlmap"
	"github.com/maypok86/otter/v2"
)

// MemoryStore is a Store in this process. Engines that are to share entries
// share the MemoryStore.
//
// It is bounded in bytes and evicts what is used least. It is safe for
// concurrent use.
type MemoryStore struct {
	maxBytes int64

	mu       sync.Mutex // makes each method one step
	entries  *otter.Cache[string, *memoryEntry]
	fills    *ttlmap.Map[string, uint64]      // tokens of those that have begun and not ended
	writes   *ttlmap.Map[string, memoryWrite] // those under way
	purged   purges.Table
	epoch    uint64 // number of the last purge by something else than a key
	numbers  uint64 // the last one given to an entry or a write
	watchers map[string]map[chan struct{}]struct{}
	bodies   memoryBodies
}

// MemoryOptions are the options of a MemoryStore.
type MemoryOptions struct {
	// MaxBytes bounds the keys, tags, data and bodies of all entries together,
	// with a little added for each. What comes on top are decoded values that
	// are kept along with their entries (Memo), and bodies that are not part of
	// an entry, up to as much again for a minute. An entry that is larger by
	// itself is not kept. Zero means 64 MiB.
	MaxBytes int64
}

const (
	defaultMaxBytes = 64 << 20
	// entryOverhead is roughly what an entry costs beside its key and data.
	entryOverhead = 256

	// maxTags is how many tags an entry may have.
	maxTags = 1_000

	// whileWritten is how long an entry lives that was filled while a write
	// of its key was under way.
	whileWritten = time.Second
)

type memoryEntry struct {
	Entry
	stored time.Time
	epoch  uint64
	tags   []uint64
	soft   bool // a soft purge of the key has reached it
	body   *memoryBody
	handle *memoryHandle
}

// memoryHandle implements Handle.
type memoryHandle struct {
	store *MemoryStore
	key   string
	entry atomic.Pointer[memoryEntry] // nil: it is not in the store any more
}

// Peek implements Handle. The eviction sees one of sixteen who find an entry in this way: to
// tell it is half of what a look for the key costs. The clock says which, whose last digits
// are as good as random.
func (h *memoryHandle) Peek() (e *Entry, age, ttl time.Duration, ok bool) {
	kept := h.entry.Load()
	if kept == nil {
		return nil, 0, 0, false
	}
	age, ttl, ok = h.store.times(h.key, kept)
	if age>>6%16 == 0 {
		h.store.entries.GetIfPresent(h.key)
	}
	return &kept.Entry, age, ttl, ok
}

// memoryWrite is what is known of the writes of a key that are under way.
type memoryWrite struct {
	number uint64               // of the last one, or of what disturbed it since
	ends   map[uint64]time.Time // when each is forgotten, by its number
}

// underWay reports whether there are any.
func (w *memoryWrite) underWay() bool {
	for number, end := range w.ends {
		if !time.Now().Before(end) {
			delete(w.ends, number)
		}
	}
	return len(w.ends) > 0
}

// NewMemoryStore returns an empty store. Nil options mean the defaults. It panics
// if they are invalid, which is a mistake in the program.
func NewMemoryStore(o *MemoryOptions) *MemoryStore {
	if o == nil {
		o = &MemoryOptions{}
	}
	maxBytes := o.MaxBytes
	if maxBytes == 0 {
		maxBytes = defaultMaxBytes
	}
	if maxBytes < 0 {
		panic(fmt.Sprintf("cache: MemoryOptions.MaxBytes is %d, it must not be negative", maxBytes))
	}
	entries := otter.Must(&otter.Options[string, *memoryEntry]{
		MaximumWeight: uint64(maxBytes),
		Weigher: func(key string, e *memoryEntry) uint32 {
			return uint32(min(int64(len(key)+len(e.Data)+8*len(e.tags)+entryOverhead)+e.Body.Size, math.MaxUint32))
		},
		// In place: a caller sees the bound kept when its call returns.
		Executor: func(fn func()) { fn() },
		// Before anybody can find that it is gone, or what is in its place.
		OnAtomicDeletion: func(gone otter.DeletionEvent[string, *memoryEntry]) { gone.Value.handle.entry.Store(nil) },
	})
	return &MemoryStore{
		maxBytes: maxBytes,
		entries:  entries,
		fills:    ttlmap.New[string, uint64](),
		writes:   ttlmap.New[string, memoryWrite](),
		watchers: make(map[string]map[chan struct{}]struct{}),
	}
}

// Get implements Store.
func (s *MemoryStore) Get(ctx context.Context, key string) (Entry, bool, error) {
	if err := ended(ctx); err != nil {
		return Entry{}, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.get(key)
	return e, ok, nil
}

// GetMany implements Store.
func (s *MemoryStore) GetMany(ctx context.Context, keys []string) ([]Entry, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	entries := make([]Entry, len(keys))
	for i, key := range keys {
		entries[i], _ = s.get(key)
	}
	return entries, nil
}

// Peek implements Store. It takes no lock, so that readers do not hold up one
// another: an entry does not change, and whether a purge has reached it is asked
// after it was found.
func (s *MemoryStore) Peek(key string) (found Entry, ok bool) {
	e, ok := s.entries.GetIfPresent(key)
	ok = ok && s.now(&found, key, e)
	return found, ok
}

// get is Peek, and removes what has become of no use.
func (s *MemoryStore) get(key string) (found Entry, ok bool) {
	e, ok := s.entries.GetIfPresent(key)
	if !ok {
		return found, false
	}
	if !s.now(&found, key, e) {
		s.entries.Invalidate(key)
		return found, false
	}
	return found, true
}

// now puts the entry as it is now into found, unless its time is over or a purge has
// reached it.
func (s *MemoryStore) now(found *Entry, key string, e *memoryEntry) bool {
	age, ttl, ok := s.times(key, e)
	if ok {
		*found = e.Entry
		found.StaleFor += e.TTL - age - ttl // a soft purge does not let it be kept longer than before
		found.Age, found.TTL = age, ttl
	}
	return ok
}

// times returns the age of an entry and what is left of its TTL, and reports false if its
// time is over or a purge has reached it. After a soft purge it is stale.
func (s *MemoryStore) times(key string, e *memoryEntry) (age, ttl time.Duration, ok bool) {
	age = time.Since(e.stored)
	ttl = e.TTL - age
	verdict := s.purged.Verdict(key, e.tags, e.epoch)
	if verdict == purges.Gone || ttl+e.StaleFor <= 0 {
		return 0, 0, false
	}
	if e.soft || verdict == purges.Stale {
		ttl = min(ttl, 0)
	}
	return age, ttl, true
}

// Begin implements Store.
func (s *MemoryStore) Begin(ctx context.Context, key string, fill Filling) (Beginning, error) {
	if err := ended(ctx); err != nil {
		return Beginning{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.get(key); ok && e.TTL > 0 && e.Version != fill.Seen {
		return Beginning{Outcome: Filled, Entry: e}, nil
	}
	if begun, _, ok := s.fills.Get(key); ok && begun > fill.Token {
		return Beginning{Outcome: Overtaken}, nil
	}
	s.fills.Set(key, fill.Token, fill.TTL)
	return Beginning{Outcome: Begun, Ticket: Ticket{Token: fill.Token, Epoch: s.epoch}}, nil
}

// Stands implements Listener.
func (s *MemoryStore) Stands(key string, t Ticket, tags []string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	begun, _, ok := s.fills.Get(key)
	return ok && begun == t.Token && s.purged.Verdict(key, purges.Hashes(tags), t.Epoch) == purges.Valid
}

// Fill implements Store.
func (s *MemoryStore) Fill(ctx context.Context, key string, t Ticket, entry Entry) (bool, error) {
	if err := firstError(ended(ctx), tooManyTags(entry)); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.wake(key)
	if begun, _, ok := s.fills.Get(key); !ok || begun != t.Token {
		return false, nil
	}
	s.fills.Delete(key)
	if entry.TTL <= 0 {
		return false, nil
	}
	if w, _, ok := s.writes.Get(key); ok && w.underWay() {
		entry.TTL, entry.StaleFor = min(entry.TTL, whileWritten), 0
	}
	stored := s.set(key, t, entry)
	return stored && s.purged.Verdict(key, purges.Hashes(entry.Tags), t.Epoch) == purges.Valid, nil
}

// set stores an entry unless a purge has reached it already.
func (s *MemoryStore) set(key string, t Ticket, entry Entry) bool {
	e := &memoryEntry{Entry: entry, stored: time.Now(), epoch: t.Epoch, tags: purges.Hashes(entry.Tags)}
	if s.purged.Verdict(key, e.tags, e.epoch) == purges.Gone {
		return false
	}
	if entry.Body.ID != "" {
		body, ok := s.bodies.take(entry.Body.ID)
		if !ok {
			// Only what is said about the body is new.
			old, kept := s.entries.GetIfPresent(key)
			if !kept || old.Body.ID != entry.Body.ID {
				return false
			}
			body = old.body
		}
		e.body = body
	}
	e.Tags = nil
	e.StaleFor = min(e.StaleFor, math.MaxInt64-e.TTL) // the sum is a Duration, too
	e.Age, e.Version, e.Local, e.Memo = 0, s.number(), true, new(Memo)
	s.put(key, e)
	if _, kept := s.entries.GetIfPresent(key); !kept && e.body != nil {
		s.bodies.wait(e.body, s.maxBytes) // too big at present, but somebody waits for it
	}
	return true
}

// put puts an entry in that is not known to others yet.
func (s *MemoryStore) put(key string, e *memoryEntry) {
	e.handle = &memoryHandle{store: s, key: key}
	e.handle.entry.Store(e)
	e.Handle = e.handle
	s.entries.Set(key, e)
}

func (s *MemoryStore) number() uint64 {
	s.numbers++
	return s.numbers
}

// BeginWrite implements Store.
func (s *MemoryStore) BeginWrite(ctx context.Context, key string, ttl time.Duration) (Ticket, error) {
	if err := ended(ctx); err != nil {
		return Ticket{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fills.Delete(key)
	w, left, ok := s.writes.Get(key)
	if !ok {
		w.ends = make(map[uint64]time.Time)
	}
	w.number = s.number()
	w.ends[w.number] = time.Now().Add(ttl)
	s.writes.Set(key, w, max(left, ttl))
	return Ticket{Token: w.number, Epoch: s.epoch}, nil
}

// Write implements Store.
func (s *MemoryStore) Write(ctx context.Context, key string, t Ticket, entry Entry) (bool, error) {
	if err := firstError(ended(ctx), tooManyTags(entry)); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.wake(key)
	s.fills.Delete(key)
	s.entries.Invalidate(key)
	w, left, ok := s.writes.Get(key)
	alone := ok && w.number == t.Token
	if ok {
		w.number = s.number()
		delete(w.ends, t.Token)
		if !w.underWay() {
			left = 0
		}
		s.writes.Set(key, w, left)
	}
	if !alone || entry.TTL <= 0 {
		return false, nil
	}
	return s.set(key, t, entry), nil
}

// Purge implements Store.
func (s *MemoryStore) Purge(ctx context.Context, p Purge) error {
	if err := ended(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range p.Keys {
		s.purgeKey(key, p.Soft)
	}
	var records []purges.Record
	for _, tag := range p.Tags {
		records = append(records, purges.Tag(purges.Hash(tag), p.Soft))
	}
	for _, prefix := range p.Prefixes {
		records = append(records, purges.Prefix(prefix, p.Soft))
	}
	if p.All {
		records = append(records, purges.All(p.Soft))
	}
	if len(records) > 0 {
		s.epoch++
		s.purged.Add(s.epoch, records...)
	}
	return nil
}

func (s *MemoryStore) purgeKey(key string, soft bool) {
	s.fills.Delete(key)
	if w, left, ok := s.writes.Get(key); ok {
		w.number = s.number() // what is written now is not stored
		s.writes.Set(key, w, left)
	}
	if e, ok := s.entries.GetIfPresent(key); ok && soft {
		softened := *e // others may be reading it
		softened.soft = true
		softened.Version = s.number()
		s.put(key, &softened)
	} else {
		s.entries.Invalidate(key)
	}
	s.wake(key)
}

// Watch implements Store.
func (s *MemoryStore) Watch(ctx context.Context, key string) (<-chan struct{}, func(), error) {
	if err := ended(ctx); err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := make(chan struct{}, 1)
	if s.watchers[key] == nil {
		s.watchers[key] = make(map[chan struct{}]struct{})
	}
	s.watchers[key][changed] = struct{}{}
	stop := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers[key], changed)
		if len(s.watchers[key]) == 0 {
			delete(s.watchers, key)
		}
	}
	return changed, stop, nil
}

func (s *MemoryStore) wake(key string) {
	for w := range s.watchers[key] {
		select {
		case w <- struct{}{}:
		default: // it has a value waiting, which says the same
		}
	}
}

// LeaseName implements Store. The name is made of 128 bits of the key's digest.
func (s *MemoryStore) LeaseName(key string) string {
	sum := sha256.Sum256([]byte(key))
	return "cache:" + hex.EncodeToString(sum[:16])
}

// ended returns the error of a context that is over, or nil.
func ended(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("cache: %w", errors.Join(context.Cause(ctx), ctx.Err()))
}

func tooManyTags(e Entry) error {
	if len(e.Tags) > maxTags {
		return fmt.Errorf("cache: the entry has %d tags, it must not have more than %d", len(e.Tags), maxTags)
	}
	return nil
}

// firstError returns the first error that is not nil.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
