package ratelimit

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// denials are the keys that this process knows to have no room, until when: what
// they ask for meanwhile is denied without asking the store.
//
// When the time has come one caller asks, and those that come meanwhile wait for
// what it hears, which most often denies them again. So a client that does not stop
// costs the store about one command each time that it could pass.
type denials struct {
	longest time.Duration // that a denial holds; negative: none does
	grace   time.Duration // for how long a denial is known after its time, for those that wait for it
	start   time.Time
	clock   func() time.Time // of this process: only differences count
	rounds  atomic.Uint64    // counts forget
	known   *shards[denialKey, *denial]
}

// maxPerShard bounds the memory of a process to some 20 MB, with keys that an
// attacker makes up. Beyond it keys are asked for.
const maxPerShard = 2048

// denialKey is a limit of a key.
type denialKey struct {
	limit *namedLimit
	key   string
}

// denial says until when a key has no room. Times are since denials.start.
//
// Where units come back evenly, what is known of some tells when there is room for any
// number; in a window it tells of those that were asked for, and until then of more.
type denial struct {
	n int // for so many units
	// until is counted from when the store had answered, so that it is not too early, by
	// which the store would be asked in vain. It may be late by a round trip.
	until time.Duration
	asked time.Duration // when the store had not been asked yet
	seen  time.Duration // when the store had answered
	state CheckState
	// asking is who asks anew. Nil if nobody does.
	asking *asking
}

// asking is a caller that asks about a denial. It ends by itself: the denial may be
// forgotten meanwhile.
type asking struct {
	about denialKey
	heard chan struct{} // closed when the caller has heard, or need not be waited for
	once  sync.Once
}

func (a *asking) end() { a.once.Do(func() { close(a.heard) }) }

func newDenials(longest, timeout time.Duration) *denials {
	return &denials{
		longest: longest, grace: 2*time.Second + timeout, start: time.Now(), clock: time.Now,
		known: newShards[denialKey, *denial](),
	}
}

func (d *denials) now() time.Duration { return d.clock().Sub(d.start) }

// round is to be taken before the store is asked, for learn.
func (d *denials) round() uint64 { return d.rounds.Load() }

// look returns how the limit stands if it is known to have no room for n units.
//
// Where units come back sooner than who has waited runs, a denial is over before it is seen, and
// all would wait for the next one, in vain again. So one that was asked for since a caller began
// holds for it as well: it would have been told the same. Who is late takes one that has come since,
// as there may not be time to ask for another.
func (d *denials) look(k denialKey, n int, now, began time.Duration, late bool) (CheckState, bool) {
	s := d.known.of(k.key)
	s.mu.Lock()
	e, ok := s.entries.Find(k)
	if !ok || n < e.n {
		s.mu.Unlock()
		return CheckState{}, false
	}
	state, ready, seen, known := e.state, e.until, e.seen, e.n
	holds := e.asked >= began || late && e.seen >= began
	s.mu.Unlock()
	if n > known {
		if k.limit.Sliding || n > k.limit.burst() { // how long, is not known
			return CheckState{}, false
		}
		ready += timeOf(k.limit.Limit, n-known)
	}
	if now >= min(ready, seen+d.longest) && !holds {
		return CheckState{}, false
	}
	state.Over = true
	state.RetryAfter = max(time.Microsecond, ready-now)
	state.NextAfter = max(0, state.NextAfter-(now-seen))
	state.ResetAfter = max(0, state.ResetAfter-(now-seen))
	return state, true
}

// timeOf returns how long n units take to come back, rounded up to microseconds.
func timeOf(l Limit, n int) time.Duration {
	hi, lo := bits.Mul64(uint64(n), uint64(l.Period))
	lo, carry := bits.Add64(lo, uint64(l.Rate)-1, 0)
	ns, _ := bits.Div64(hi+carry, lo, uint64(l.Rate)) // fits: n is not more than the burst
	return (time.Duration(ns) + time.Microsecond - 1).Truncate(time.Microsecond)
}

// lead looks for a limit that had no room until a moment ago. If nobody asks
// about it yet, the caller is to, and to call led afterwards; else he gets the channel that is
// closed when the one who asks has heard.
func (d *denials) lead(asks []ask) (*asking, <-chan struct{}) {
	for _, a := range asks {
		if a.n == 0 {
			continue
		}
		for _, l := range a.plan.limits {
			k := denialKey{l, a.key}
			s := d.known.of(k.key)
			s.mu.Lock()
			e, ok := s.entries.Find(k)
			if !ok || a.n < e.n {
				s.mu.Unlock()
				continue
			}
			other := e.asking
			if other == nil {
				e.asking = &asking{about: k, heard: make(chan struct{})}
			}
			own := e.asking
			s.mu.Unlock()
			if other != nil {
				return nil, other.heard
			}
			return own, nil
		}
	}
	return nil, nil
}

// led ends what lead has begun.
func (d *denials) led(a *asking) {
	s := d.known.of(a.about.key)
	s.mu.Lock()
	if e, ok := s.entries.Find(a.about); ok && e.asking == a {
		e.asking = nil
	}
	s.mu.Unlock()
	a.end()
}

// learn keeps what the store has said of n units, when it was asked and when that was seen. It does
// not if something was forgotten since round.
func (d *denials) learn(k denialKey, n int, state CheckState, asked, seen time.Duration, round uint64) {
	wait := state.RetryAfter
	if wait > 0 && !k.limit.Sliding {
		n, wait = state.Remaining+1, state.NextAfter
	}
	s := d.known.of(k.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e, known := s.entries.Find(k)
	if known && seen < e.until && (wait <= 0 || !k.saysMore(n, seen+wait, e)) {
		return
	}
	if wait <= 0 {
		if known {
			d.drop(s, k, e)
		}
		return
	}
	if d.rounds.Load() != round || d.longest < 0 {
		return
	}
	if !known && s.entries.Len() >= maxPerShard {
		if s.entries.Sweep(); s.entries.Len() >= maxPerShard {
			return
		}
	}
	if !known {
		e = &denial{}
	}
	e.n, e.state, e.asked, e.seen = n, state, asked, seen
	e.until = seen + wait
	s.entries.Set(k, e, min(max(wait, state.RetryAfter), d.longest)+d.grace)
}

// saysMore reports whether it is news, beside e, that there is no room for n units until
// then. An answer may be older than one that came before it.
func (k denialKey) saysMore(n int, until time.Duration, e *denial) bool {
	if k.limit.Sliding {
		return n < e.n || n == e.n && until > e.until
	}
	return until-timeOf(k.limit.Limit, n) > e.until-timeOf(k.limit.Limit, e.n)
}

// drop removes an entry, and wakes those who wait for it. It is called with the
// shard locked.
func (d *denials) drop(s *shard[denialKey, *denial], k denialKey, e *denial) {
	s.entries.Delete(k)
	if e.asking != nil {
		e.asking.end()
	}
}

// forget drops what is known of a key.
func (d *denials) forget(pl *plan, key string) {
	d.rounds.Add(1)
	for _, l := range pl.limits {
		k := denialKey{l, key}
		s := d.known.of(k.key)
		s.mu.Lock()
		if e, ok := s.entries.Find(k); ok {
			d.drop(s, k, e)
		}
		s.mu.Unlock()
	}
}
