package rediscache

import (
	"context"
	"math"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/internal/purges"
)

// Encode returns entry as a Store of default options keeps it.
func Encode(key string, entry cache.Entry) []byte {
	s := &Store{compressAbove: defaultCompressAbove, chunkBytes: maxChunkBytes}
	e, _, err := s.newStored(cache.Ticket{Epoch: 1, Token: 2}, entry)
	if err != nil {
		panic(err)
	}
	return e.encode(key)
}

// Decode is the reverse, with the time that is left.
func Decode(key string, b []byte, left time.Duration) (cache.Entry, bool) {
	e, ok := decode(key, b)
	if !ok || e.chunks > 0 || !e.unpack(e.inline) {
		return cache.Entry{}, false
	}
	e.since(left, isSoft(e.Version))
	return e.Entry, true
}

// PutClockAhead lets the server's clock be ahead of this process's, for a second.
func (s *Store) PutClockAhead(d time.Duration) { s.clock.Set(time.Now().Add(d), time.Now()) }

// Names returns the name of the entry under key, and as it is remembered.
func (s *Store) Names(key string) (name string, remembered any) {
	return s.entryName(key), s.argument(key)
}

// SetLinger is to be called before the store is used.
func (s *Store) SetLinger(d time.Duration) { s.feed.linger = d }

// SetLog bounds the purge log, and how much of it is read at a time. It is to be
// called before the store is used.
func (s *Store) SetLog(limit, page int) { s.log.limit, s.log.page = limit, page }

// Known returns the largest epoch that the store has seen.
func (s *Store) Known() uint64 {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	return s.log.known
}

// SetKnown lets the store have seen that epoch.
func (s *Store) SetKnown(epoch uint64) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	s.log.known = epoch
}

// HasHeard reports that the store relies on its tier, and has been told of what
// began that epoch.
func (s *Store) HasHeard(epoch uint64) bool {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	return s.feed.fresh() && s.feed.life != nil && s.feed.life.pos >= epoch
}

// Fresh reports that the store may rely on its tier.
func (s *Store) Fresh() bool { return s.feed.fresh() }

// Emptied counts how often the store's tier was emptied.
func (s *Store) Emptied() uint64 { return s.tier.generation.Load() }

// News returns the body of a message with a record and two keys.
func News(hash uint64, soft bool, key string) string {
	return string(news{records: []purges.Record{purges.Tag(hash, soft)}, keys: []string{key, "another"}}.body())
}

// ParseNews returns the body of a message as it was understood.
func ParseNews(message string) (string, error) {
	n, err := parseNews(message)
	return string(n.body()), err
}

// EntryName and HeadName are keys in Redis.
func (s *Store) EntryName(key string) string { return s.entryName(key) }
func (s *Store) HeadName() string            { return s.log.keys[0] }

// BeginWriteWith is BeginWrite with an id, which a client that repeats it has.
func (s *Store) BeginWriteWith(ctx context.Context, key, id string) (any, error) {
	n := s.names(key)
	answers, err := s.together(ctx, step{beginWriteScript, []string{n.fill, n.write}, []any{60_000, id}})
	if err != nil {
		return nil, err
	}
	return answers[0], nil
}

// Turns are those in which chunks are read.
type Turns struct{ t *turns }

// NewTurns returns some that nobody has.
func NewTurns() Turns { return Turns{newTurns()} }

// Take waits for one.
func (t Turns) Take(ctx context.Context) (end func()) { return t.t.take(ctx) }

// Most is how many there are at a time.
func (t Turns) Most() int { return cap(t.t.taken) }

// TakeTurns takes all turns of those who read chunks, and has nobody go ahead without one
// until they are given back.
func (s *Store) TakeTurns() (giveBack func()) {
	for range cap(s.reading.taken) {
		s.reading.take(context.Background())
	}
	s.reading.ended.Store(math.MaxInt64)
	return func() {
		for range cap(s.reading.taken) {
			s.reading.end()
		}
	}
}

// Patience is how long is waited for those who hang.
const Patience = patience
