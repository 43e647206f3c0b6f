package rediscache

import (
	"sync"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/internal/purges"
	"github.com/herdless/herdless/internal/ttlmap"
)

// standing is what this process has heard of the keys that it fills: purges and writes
// of keys are told by messages only, and are nowhere to be found later.
type standing struct {
	mu    sync.Mutex
	heard *ttlmap.Map[string, uint64] // the epoch of the last purge or write; zero: none
}

func newStanding() *standing { return &standing{heard: ttlmap.New[string, uint64]()} }

// begin notes that key is about to be filled. It reports whether it is not already.
func (s *standing) begin(key string, ttl time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	heard, left, filled := s.heard.Get(key)
	s.heard.Set(key, heard, max(left, ttl))
	return !filled
}

// end says that no fill of key stands.
func (s *standing) end(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard.Delete(key)
}

// hear takes what was told. A fill may have begun before it, although the epoch of its
// beginning is not known yet.
func (s *standing) hear(n news) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range n.keys {
		if heard, left, filled := s.heard.Get(key); filled {
			s.heard.Set(key, max(heard, n.epoch), left)
		}
	}
}

// clear says that something may not have been heard.
func (s *standing) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = ttlmap.New[string, uint64]()
}

// stands reports whether a fill of key that was begun in that epoch does.
func (s *standing) stands(key string, epoch uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	heard, _, filled := s.heard.Get(key)
	return filled && heard <= epoch
}

// Stands implements cache.Listener. It is as late as messages are, some milliseconds.
func (s *Store) Stands(key string, t cache.Ticket, tags []string) bool {
	return s.standing.stands(key, t.Epoch) && s.log.table.Verdict(key, purges.Hashes(tags), t.Epoch) == purges.Valid
}
