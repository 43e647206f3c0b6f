package ratelimit

import (
	"context"
	"sync"
	"time"

	"github.com/herdless/herdless/internal/ttlmap"
	"github.com/herdless/herdless/middleware/ratelimit/internal/gcra"
	"github.com/herdless/herdless/middleware/ratelimit/internal/window"
)

// MemoryStore is a Store and a PermitStore within the process: exact for one
// process, for tests, and for programs that run once. Processes that share limits
// need a shared store, such as the one of package redislimit.
//
// It holds an entry of about 250 bytes per key that has not all of its burst,
// and drops it when the key has. It starts no goroutine. It is safe for
// concurrent use.
type MemoryStore struct {
	start time.Time // instants are microseconds since then, on the monotonic clock
	most  int       // how many keys are held at a time; zero: any number

	mu      sync.Mutex
	keys    *ttlmap.Map[entryKey, entry]
	permits map[permitKey]*ttlmap.Map[string, struct{}]
}

// entryKey names what is kept: limits of two kinds have nothing to do with each
// other.
type entryKey struct {
	key, name string
	sliding   bool
}

// entry is what a MemoryStore keeps of a limit of a key.
type entry struct {
	at     gcra.Span // the theoretical arrival time, since MemoryStore.start (see package gcra),
	den    int64     // and the denominator of at
	count  window.Count
	period time.Duration // of the limit that count belongs to
}

var _ Store = (*MemoryStore)(nil)

// NewMemoryStore returns an empty MemoryStore.
func NewMemoryStore() *MemoryStore {
	return &MemoryStore{
		start: time.Now(), keys: ttlmap.New[entryKey, entry](),
		permits: make(map[permitKey]*ttlmap.Map[string, struct{}]),
	}
}

// standing is how a check stands while a decision is made about it.
type standing interface {
	// wait is CheckState.RetryAfter for n units.
	wait(n int) time.Duration
	remaining() int
	// take charges n units, for which there is room.
	take(n int)
	// entry returns what to keep, and for how long.
	entry() (entry, time.Duration)
	// mended reports that something else was kept, which is to be replaced although
	// nothing is taken: see Rule.Debt of package gcra.
	mended() bool
}

// Take implements Store.
func (m *MemoryStore) Take(ctx context.Context, req Request) (Decision, error) {
	if err := ctx.Err(); err != nil {
		return Decision{}, err
	}
	if err := req.Validate(); err != nil {
		return Decision{}, err
	}

	m.mu.Lock()
	defer m.mu.Unlock()

	now := time.Since(m.start).Microseconds()
	standings := make([]standing, len(req.Checks))
	d := Decision{Allowed: true, Extra: req.Extra, States: make([]CheckState, len(req.Checks))}
	for i, c := range req.Checks {
		s, err := m.standing(c, now)
		if err != nil {
			return Decision{}, err // cannot be: the request is valid
		}
		standings[i] = s
		if s.wait(c.N) != 0 {
			d.States[i].Over = true
			d.Allowed = d.Allowed && c.Shadow
		}
		if !c.Shadow {
			d.Extra = min(d.Extra, s.remaining()-c.N)
		}
	}
	if !d.Allowed {
		d.Extra = 0
	}

	for i, c := range req.Checks {
		s := standings[i]
		takes := d.Allowed && !d.States[i].Over && c.N+d.Extra > 0
		if takes {
			s.take(min(c.N+d.Extra, s.remaining()))
		}
		if takes || s.mended() {
			e, ttl := s.entry()
			m.keys.Set(entryKey{c.Key, c.Name, c.Limit.Sliding}, e, ttl)
			if m.most > 0 && m.keys.Len() > m.most {
				m.keys.DropFirst() // the one that is full again first, so that least is given away
			}
		}
		state := &d.States[i]
		state.Remaining = s.remaining()
		state.RetryAfter = s.wait(c.N)
		state.NextAfter = max(0, s.wait(state.Remaining+1))
		_, state.ResetAfter = s.entry()
	}
	return d, nil
}

// standing returns how the check stands at now.
func (m *MemoryStore) standing(c Check, now int64) (standing, error) {
	held, _, ok := m.keys.Get(entryKey{c.Key, c.Name, c.Limit.Sliding})
	if c.Limit.Sliding {
		rule, err := window.NewRule(c.Limit.Rate, c.Limit.Period)
		if err != nil {
			return nil, err
		}
		s := &sliding{rule: rule, now: now, period: c.Limit.Period}
		switch {
		case ok && held.period != c.Limit.Period: // counts in the present window, to be safe
			held.count = window.Count{Window: rule.Window(now), Cur: held.count.Prev + held.count.Cur}
			s.moved = true
			fallthrough
		case ok:
			s.count = rule.At(held.count, now)
		default:
			s.count.Window = rule.Window(now)
		}
		return s, nil
	}
	rule, err := gcra.NewRule(c.Limit.Rate, c.Limit.Period, c.Limit.Burst)
	if err != nil {
		return nil, err
	}
	s := &spread{rule: rule, now: now}
	if ok {
		s.debt, s.cut = rule.Debt(held.at, held.den, now)
	}
	return s, nil
}

// spread is the standing of a limit whose units are evenly spread.
type spread struct {
	rule gcra.Rule
	debt gcra.Span
	cut  bool // more was owed
	now  int64
}

func (s *spread) wait(n int) time.Duration { return s.rule.Wait(s.debt, n) }
func (s *spread) remaining() int           { return s.rule.Remaining(s.debt) }
func (s *spread) take(n int)               { s.debt = s.rule.Add(s.debt, s.rule.Cost(n)) }
func (s *spread) mended() bool             { return s.cut }

func (s *spread) entry() (entry, time.Duration) {
	// now was rounded down, so the debt is over before the entry is.
	return entry{at: s.rule.Add(s.debt, gcra.Span{Micros: s.now}), den: s.rule.Den}, gcra.Ceil(s.debt)
}

// sliding is the standing of a sliding window.
type sliding struct {
	rule   window.Rule
	count  window.Count
	now    int64
	period time.Duration
	moved  bool // it was counted in another window
}

func (s *sliding) wait(n int) time.Duration { return s.rule.Wait(s.count, s.now, n) }
func (s *sliding) remaining() int           { return s.rule.Remaining(s.count, s.now) }
func (s *sliding) take(n int)               { s.count.Cur += int64(n) }
func (s *sliding) mended() bool             { return s.moved }

func (s *sliding) entry() (entry, time.Duration) {
	return entry{count: s.count, period: s.period}, s.rule.Reset(s.count, s.now)
}

// Reset implements Store.
func (m *MemoryStore) Reset(ctx context.Context, key string, names ...string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range names {
		m.keys.Delete(entryKey{key, name, false})
		m.keys.Delete(entryKey{key, name, true})
	}
	return nil
}
