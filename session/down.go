package session

import (
	"net/http"
	"slices"
	"time"

	"github.com/maypok86/otter/v2"
)

// WhenDown says what becomes of requests that use their session while the store
// cannot be asked. In no case is anything changed: what tries to is answered with
// an error.
type WhenDown uint8

const (
	// Closed answers 503 with Retry-After, by Options.ErrorHandler, unless the
	// handler answers with an error of its own. It is the default.
	Closed WhenDown = iota
	// Anonymous lets those be nobody who would have to be looked up. Who is
	// logged in sees what somebody sees who is not.
	Anonymous
	// Stale goes on with what this server has read of the session no longer
	// ago than Options.StaleFor. A session that was ended since then may be
	// shown for that long. Those that it has not read get a 503 as by Closed.
	Stale
)

type policy struct {
	when WhenDown
	set  bool
}

// IfDown returns a middleware, to be used inside of Manager.Handler, that gives
// the routes behind it a policy of their own in place of Options.WhenDown.
func IfDown(when WhenDown) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if s := FromContext(r.Context()); s != nil {
				s.SetIfDown(when)
			}
			next.ServeHTTP(w, r)
		})
	}
}

// SetIfDown is IfDown for one request, before its session is used.
func (s *Session) SetIfDown(when WhenDown) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ifDown = policy{when, true}
}

// loadFailed decides how the request goes on without the store.
func (s *Session) loadFailed(t token, err error) {
	when := s.m.opts.WhenDown
	if s.ifDown.set {
		when = s.ifDown.when
	}
	switch when {
	case Anonymous:
		s.down = err
	case Stale:
		if rec, ok := s.m.recall(t); ok {
			sealer := s.m.vault.forSession(t.id)
			if meta, e := openMeta(&sealer, rec.Meta); e == nil {
				s.stored, s.token, s.rec, s.meta, s.sealer, s.readAt = true, t, rec, meta, sealer, time.Now()
				s.down = err
				return
			}
		}
		s.err = err
	default:
		s.err = err
	}
}

const (
	// staleBytes bounds what is kept for Stale.
	staleBytes      = 16 << 20
	maxStaleFor     = time.Hour
	staleOverhead   = 900 // of an entry, besides its names and values
	defaultStaleFor = time.Minute
)

// remembered is a record as the store gave it.
type remembered struct {
	digest Digest
	rec    Record
	at     time.Time
}

func newRecent(staleFor time.Duration) *otter.Cache[string, remembered] {
	return otter.Must(&otter.Options[string, remembered]{
		MaximumWeight: staleBytes,
		Weigher: func(_ string, r remembered) uint32 {
			size := staleOverhead + len(r.rec.Meta) + len(r.rec.Handover)
			for _, e := range r.rec.Values {
				size += (len(e.Name)+len(e.Data))*3/2 + 64 // with what a store has in between
			}
			return uint32(min(size, staleBytes)) //nolint:gosec // it is bounded
		},
		ExpiryCalculator: otter.ExpiryWriting[string, remembered](staleFor),
	})
}

// remember keeps a record for the time that the store may be away.
func (m *Manager) remember(t token, rec Record) {
	if m.recent == nil {
		return
	}
	// What the store has found stays in memory with the request otherwise.
	rec.Values, rec.Basis = slices.Clone(rec.Values), nil
	m.recent.Set(t.id, remembered{t.digest, rec, time.Now()})
}

// recall returns the record of a token that was read lately and has not ended by
// its time.
func (m *Manager) recall(t token) (Record, bool) {
	if m.recent == nil {
		return Record{}, false
	}
	r, ok := m.recent.GetIfPresent(t.id)
	passed := time.Since(r.at)
	if !ok || r.digest != t.digest || passed >= m.opts.StaleFor || passed >= r.rec.ExpiresIn {
		return Record{}, false
	}
	rec := r.rec
	rec.ExpiresIn -= passed
	rec.EndsIn -= passed
	rec.ReadAt = rec.ReadAt.Add(passed)
	return rec, true
}

// forget drops what was remembered of a session that ends.
func (m *Manager) forget(id string) {
	if m.recent != nil {
		m.recent.Invalidate(id)
	}
}
