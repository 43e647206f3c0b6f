package session

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/herdless/herdless/internal/ttlmap"
)

// maxMemorySessions bounds a MemoryStore. With sessions of 1 kB, which is
// large, it then holds about 100 MB.
const maxMemorySessions = 100_000

// MemoryStore is a Store in the memory of one process, for tests, for
// development and for programs that run as one process. It holds 100,000
// sessions at most; a Commit that would begin one more is an error. It is safe
// for concurrent use. Make one with NewMemoryStore.
type MemoryStore struct {
	now func() time.Time

	mu       sync.Mutex
	sessions *ttlmap.Map[string, *memorySession]
	owned    *ttlmap.Map[string, map[string]struct{}] // owner → ids, of which some may have ended
	watchers map[string]map[int]chan struct{}
	nextID   int
}

// maxEarlier is how many of its earlier digests a session remembers.
const maxEarlier = 8

// memorySession is a session in a MemoryStore.
type memorySession struct {
	digest, superseded      Digest
	earlier                 []Digest // superseded before that one, and not used since their grace
	rotated                 bool     // superseded is set
	graceEnds, takenUntil   time.Time
	takenBy                 string
	handover                []byte
	version                 uint64
	owner                   string
	meta                    []byte
	values                  map[string][]byte
	size                    int
	created, digestAt, seen time.Time
	authenticated           time.Time
	idle, absolute          time.Duration
}

// NewMemoryStore returns an empty MemoryStore.
func NewMemoryStore() *MemoryStore { return NewMemoryStoreWithClock(time.Now) }

// NewMemoryStoreWithClock returns an empty MemoryStore with a clock of its own,
// for tests. now must be safe for concurrent use, and not go backwards.
func NewMemoryStoreWithClock(now func() time.Time) *MemoryStore {
	return &MemoryStore{
		now:      now,
		sessions: ttlmap.NewWithClock[string, *memorySession](now),
		owned:    ttlmap.NewWithClock[string, map[string]struct{}](now),
		watchers: make(map[string]map[int]chan struct{}),
	}
}

// begin locks m and returns the present.
func (m *MemoryStore) begin(ctx context.Context) (time.Time, error) {
	if err := ctx.Err(); err != nil {
		return time.Time{}, err
	}
	m.mu.Lock()
	return m.now(), nil
}

// get returns the session called id, if it is there for everybody.
func (m *MemoryStore) get(id string, now time.Time) (s *memorySession, left time.Duration, ok bool) {
	s, left, ok = m.sessions.Get(id)
	return s, left, ok && !now.Before(s.takenUntil)
}

// Load implements Store.
func (m *MemoryStore) Load(ctx context.Context, id string, digest Digest) (Record, error) {
	return m.load(ctx, id, digest, false)
}

func (m *MemoryStore) load(ctx context.Context, id string, digest Digest, again bool) (Record, error) {
	now, err := m.begin(ctx)
	if err != nil {
		return Record{}, err
	}
	defer m.mu.Unlock()
	s, left, ok := m.get(id, now)
	if !ok {
		return Record{}, nil
	}
	state := s.state(digest, now)
	if again && state != Current && state != Superseded {
		return Record{}, nil
	}
	if i := slices.Index(s.earlier, digest); state == Missing && i >= 0 {
		s.earlier = slices.Delete(s.earlier, i, i+1) // it is said once
		return Record{State: Reused}, nil
	}
	return s.record(state, left, now), nil
}

// record returns s as somebody reads it to whom it stands in this state.
func (s *memorySession) record(state State, left time.Duration, now time.Time) Record {
	rec := Record{State: state}
	switch state {
	case Missing:
		return rec
	case Reused:
		s.rotated, s.handover = false, nil // it is said once
		return rec
	case Superseded:
		rec.Handover = bytes.Clone(s.handover)
	}
	rec.Version, rec.Owner, rec.Meta, rec.Values = s.version, s.owner, bytes.Clone(s.meta), ValuesOf(s.values)
	rec.CreatedAt, rec.AuthenticatedAt, rec.ReadAt = s.created, s.authenticated, now
	rec.DigestAge, rec.IdleTimeout = now.Sub(s.digestAt), s.idle
	rec.ExpiresIn, rec.EndsIn = left, max(left, s.created.Add(s.absolute).Sub(now))
	if s.rotated {
		rec.GraceLeft = max(0, s.graceEnds.Sub(now))
	}
	return rec
}

// Take implements Store.
func (m *MemoryStore) Take(ctx context.Context, id string, digest Digest, taker string, hold time.Duration) (Record, error) {
	now, err := m.begin(ctx)
	if err != nil {
		return Record{}, err
	}
	defer m.mu.Unlock()
	s, left, ok := m.sessions.Get(id)
	if !ok || now.Before(s.takenUntil) && s.takenBy != taker {
		return Record{}, nil
	}
	state := s.state(digest, now)
	if state != Current && state != Superseded {
		return Record{}, nil
	}
	rec := s.record(state, left, now)
	s.takenUntil, s.takenBy = now.Add(hold), taker
	return rec, nil
}

// LoadAll implements Store.
func (m *MemoryStore) LoadAll(ctx context.Context, id string, digest Digest, again bool) (Record, error) {
	return m.load(ctx, id, digest, again)
}

// Commit implements Store.
func (m *MemoryStore) Commit(ctx context.Context, d Delta) (Result, error) {
	now, err := m.begin(ctx)
	if err != nil {
		return Result{}, err
	}
	defer m.mu.Unlock()
	s, left, ok := m.sessions.Get(d.ID)
	fresh := !ok
	switch {
	case ok && d.Create && s.digest != d.Digest:
		return Result{Outcome: Exists}, nil
	case ok && now.Before(s.takenUntil), !ok && !d.Create, ok && !s.accepts(d, now):
		return Result{Outcome: Gone}, nil
	case fresh:
		s = &memorySession{digest: d.Digest, digestAt: now, values: make(map[string][]byte), created: now, owner: d.Owner}
	}
	if !fresh && d.IfExpiresWithin > 0 && left >= d.IfExpiresWithin {
		return Result{
			Outcome: Committed, Version: s.version, ExpiresIn: left, EndsIn: max(left, s.created.Add(s.absolute).Sub(now)), At: now,
		}, nil
	}
	if values, ok := s.satisfies(d); !ok {
		return Result{Outcome: Conflict, Values: values}, nil
	}
	size := s.sizeAfter(d)
	if d.MaxBytes > 0 && size > d.MaxBytes {
		return Result{Outcome: TooLarge}, nil
	}
	var res Result
	if fresh {
		surplus := m.surplus(d)
		if len(surplus) > 0 && !d.EvictOldest {
			return Result{Outcome: TooMany}, nil
		}
		if err := m.makeRoom(d.ID); err != nil {
			return Result{}, err
		}
		for _, id := range surplus {
			m.end(id)
		}
		res.Evicted = surplus
	}
	s.size = size
	res.Handover = s.apply(d, now)
	ends := s.created.Add(s.absolute).Sub(now)
	expires := min(s.idle, ends)
	if expires > 0 {
		m.sessions.Set(d.ID, s, expires)
		m.own(s.owner, d.ID, expires)
	} else {
		m.end(d.ID)
	}
	res.Outcome, res.Version, res.At = Committed, s.version, now
	res.ExpiresIn, res.EndsIn = max(expires, 0), max(ends, 0)
	return res, nil
}

// Delete implements Store.
func (m *MemoryStore) Delete(ctx context.Context, id string) (bool, error) {
	if _, err := m.begin(ctx); err != nil {
		return false, err
	}
	defer m.mu.Unlock()
	return m.end(id), nil
}

// List implements Store.
func (m *MemoryStore) List(ctx context.Context, owner string) ([]Listed, error) {
	if _, err := m.begin(ctx); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	var listed []Listed
	for _, id := range m.ownedBy(owner) {
		s, left, _ := m.sessions.Get(id)
		listed = append(listed, Listed{
			ID: id, Meta: bytes.Clone(s.meta), CreatedAt: s.created, AuthenticatedAt: s.authenticated, SeenAt: s.seen, ExpiresIn: left,
		})
	}
	return listed, nil
}

// Revoke implements Store.
func (m *MemoryStore) Revoke(ctx context.Context, owner string, which Selection) (ids []string, ok bool, err error) {
	now, err := m.begin(ctx)
	if err != nil {
		return nil, false, err
	}
	defer m.mu.Unlock()
	if which.Except != "" {
		if s, _, ok := m.get(which.Except, now); !ok || s.owner != owner {
			return nil, false, nil
		}
	}
	ids = slices.DeleteFunc(m.ownedBy(owner), func(id string) bool { return !which.has(id) })
	for _, id := range ids {
		m.end(id)
	}
	return ids, true, nil
}

// Alive implements Store.
func (m *MemoryStore) Alive(ctx context.Context, ids []string) ([]bool, error) {
	now, err := m.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	alive := make([]bool, len(ids))
	for i, id := range ids {
		_, _, alive[i] = m.get(id, now)
	}
	return alive, nil
}

// Watch implements Store.
func (m *MemoryStore) Watch(ctx context.Context, id string, woken chan struct{}) (func(), error) {
	if _, err := m.begin(ctx); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	n := m.nextID
	m.nextID++
	if m.watchers[id] == nil {
		m.watchers[id] = make(map[int]chan struct{})
	}
	m.watchers[id][n] = woken
	return sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.watchers[id], n)
		if len(m.watchers[id]) == 0 {
			delete(m.watchers, id)
		}
	}), nil
}

// own notes that a session, which ends after expires, is one of owner's.
func (m *MemoryStore) own(owner, id string, expires time.Duration) {
	if owner == "" {
		return
	}
	ids, left, ok := m.owned.Get(owner)
	if !ok {
		ids = make(map[string]struct{})
	}
	ids[id] = struct{}{}
	m.owned.Set(owner, ids, max(left, expires))
}

// ownedBy returns the sessions of owner, those that began first in front, and
// drops from its list those that have ended.
func (m *MemoryStore) ownedBy(owner string) []string {
	var ids []string
	created := make(map[string]time.Time)
	listed, _, _ := m.owned.Get(owner)
	for id := range listed {
		if s, _, ok := m.sessions.Get(id); ok {
			ids, created[id] = append(ids, id), s.created
		} else {
			delete(listed, id)
		}
	}
	if len(ids) == 0 {
		m.owned.Delete(owner)
	}
	slices.SortFunc(ids, func(a, b string) int { return created[a].Compare(created[b]) })
	return ids
}

// surplus returns which of the owner's sessions are too many with that of d.
func (m *MemoryStore) surplus(d Delta) []string {
	if d.Owner == "" {
		return nil
	}
	ids := m.ownedBy(d.Owner)
	if d.MaxOwned <= 0 {
		return nil
	}
	return ids[:max(0, len(ids)+1-d.MaxOwned)]
}

// end ends the session called id and tells those who watch it.
func (m *MemoryStore) end(id string) bool {
	if s, _, ok := m.sessions.Get(id); ok && s.owner != "" {
		listed, _, _ := m.owned.Get(s.owner)
		delete(listed, id)
		if len(listed) == 0 {
			m.owned.Delete(s.owner)
		}
	}
	for _, woken := range m.watchers[id] {
		select {
		case woken <- struct{}{}:
		default:
		}
	}
	return m.sessions.Delete(id)
}

// makeRoom refuses a session too many.
func (m *MemoryStore) makeRoom(id string) error {
	if m.sessions.Len() >= maxMemorySessions {
		m.sessions.Set(id, nil, 0) // there is none; but it clears out dead ones
	}
	if m.sessions.Len() >= maxMemorySessions {
		return fmt.Errorf("%w: the memory store is full with %d sessions", ErrRefused, maxMemorySessions)
	}
	return nil
}

func (s *memorySession) state(digest Digest, now time.Time) State {
	switch {
	case s.digest == digest:
		return Current
	case !s.rotated || s.superseded != digest:
		return Missing
	case now.Before(s.graceEnds):
		return Superseded
	}
	return Reused
}

func (s *memorySession) accepts(d Delta, now time.Time) bool {
	state := s.state(d.Digest, now)
	return state == Current || state == Superseded || d.Rotate != nil && d.Rotate.Digest == s.digest
}

// satisfies reports whether the values are what d.If says, or what d has made
// of them before, and if not what they are.
func (s *memorySession) satisfies(d Delta) (values map[string][]byte, ok bool) {
	values, ok = make(map[string][]byte, len(d.If)), true
	for name, want := range d.If {
		got, there := s.values[name]
		if there {
			values[name] = append([]byte{}, got...)
		}
		if there != (want != nil) || !bytes.Equal(got, want) {
			again, set := d.Set[name]
			ok = ok && set && there && bytes.Equal(got, again)
		}
	}
	return values, ok
}

func (s *memorySession) sizeAfter(d Delta) int {
	size := s.size
	remove := func(name string) {
		if old, ok := s.values[name]; ok {
			size -= len(name) + len(old)
		}
	}
	for name, value := range d.Set {
		remove(name)
		size += len(name) + len(value)
	}
	for _, name := range d.Delete {
		remove(name)
	}
	return size
}

// apply changes s, and returns the handover of a rotation that came before that
// of d.
func (s *memorySession) apply(d Delta, now time.Time) (handover []byte) {
	s.version++
	s.seen = now
	for name, value := range d.Set {
		s.values[name] = append([]byte{}, value...)
	}
	for _, name := range d.Delete {
		delete(s.values, name)
	}
	if d.Meta != nil {
		s.meta = bytes.Clone(d.Meta)
	}
	if d.Authenticated {
		s.authenticated = now
	}
	if r := d.Rotate; r != nil && r.Digest != s.digest {
		if r.Once && s.digest != d.Digest {
			handover = append([]byte{}, s.handover...)
		} else {
			if r.Grace > 0 && s.rotated && !now.Before(s.graceEnds) {
				s.earlier = append([]Digest{s.superseded}, s.earlier[:min(len(s.earlier), maxEarlier-1)]...)
			}
			s.superseded, s.graceEnds, s.rotated = s.digest, now.Add(r.Grace), r.Grace > 0
			s.handover, s.digest, s.digestAt = bytes.Clone(r.Handover), r.Digest, now
		}
	}
	if d.IdleTimeout > 0 {
		s.idle = d.IdleTimeout
	}
	if d.AbsoluteTimeout > 0 {
		s.absolute = d.AbsoluteTimeout
	}
	return handover
}
