package ratelimit

import (
	"sync"
	"time"
)

// leases are the units that this process has taken from the store in advance (see
// Policy.Batch), by key.
type leases struct {
	batch int
	idle  time.Duration // how long the lease of a key is remembered that nobody asks for
	all   *shards[leaseKey, *lease]
}

// leaseKey is a key in a tier.
type leaseKey struct {
	plan *plan
	key  string
}

// idleLease is the least leases.idle.
const idleLease = 10 * leaseTime

// lease is the units of a key that this process may still use. How many it takes at a time doubles from
// one, as long as they are used up in time, or is what callers wait for, and shrinks to what was used.
type lease struct {
	batch int

	mu     sync.Mutex
	stock  int
	until  time.Duration // on the clock of denials
	next   int           // how many to take next time
	wanted int           // what callers wait for while asking
	short  int           // what they had waited for in vain when the last refill had come
	states []CheckState  // as the store saw it last
	round  int           // counts forget
	asking chan struct{} // closed when the caller that refills it has done so; nil if none does
}

// newLeases returns leases that are asked for within timeout. All of that time a lease is
// remembered, so that forget finds it.
func newLeases(batch int, timeout time.Duration) *leases {
	return &leases{batch: batch, idle: max(idleLease, 2*timeout), all: newShards[leaseKey, *lease]()}
}

// of returns the lease of a key.
func (l *leases) of(k leaseKey) *lease {
	s := l.all.of(k.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e, left, ok := s.entries.Get(k)
	if !ok {
		e = &lease{batch: l.batch}
	}
	if left < l.idle/2 {
		s.entries.Set(k, e, l.idle)
	}
	return e
}

// forget drops what is in stock of a key, and what is under way:
//
//	A asks the store for 20 units, which takes them and answers
//	B resets the key: in the store nothing is taken any more
//	A has the answer
//
// and with the 20 units more than the limit would be admitted.
func (l *leases) forget(k leaseKey) {
	s := l.all.of(k.key)
	s.mu.Lock()
	e, _, ok := s.entries.Get(k)
	s.mu.Unlock()
	if ok {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.stock = 0
		e.round++
	}
}

// take uses n units, if there are as many, and says so in r.
func (l *lease) take(now time.Duration, n int, r *Result) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now >= l.until || l.stock < n {
		return false
	}
	l.stock -= n
	r.Allowed, r.Local, r.Taken = true, true, n
	l.show(r)
	return true
}

// show says in r how the limits stand: what is in stock is still there for the
// clients of this process.
func (l *lease) show(r *Result) {
	for i := range r.Limits {
		s := &r.Limits[i]
		s.Known, s.CheckState = true, l.states[i]
		s.Remaining += l.stock
		s.Over, s.RetryAfter = false, 0
	}
}

// over is a channel for those who need not wait.
var over = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// lead returns nil if the caller is to refill the lease, and to call led
// afterwards, or else a channel that is closed when another one has.
func (l *lease) lead(now time.Duration, n int) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.asking != nil:
		l.wanted += n
		return l.asking
	case now < l.until && l.stock >= n: // another one has a moment ago
		return over
	}
	l.asking = make(chan struct{})
	return nil
}

func (l *lease) led() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.asking)
	l.asking = nil
	l.short, l.wanted = l.wanted-l.stock, 0
}

// size returns how many units to take now, and the round, for fill.
func (l *lease) size(now time.Duration) (n, round int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stock > 0 && now >= l.until {
		l.next = max(1, l.next-l.stock) // as many as were used
	} else {
		l.next = min(l.batch, max(1, 2*l.next, l.short))
	}
	return l.next, l.round
}

// fill puts in stock what was taken besides, by a request that was sent then. It does not if
// the lease was forgotten since round.
func (l *lease) fill(sent time.Duration, round int, d Decision, r *Result) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.round != round {
		return
	}
	l.stock, l.until, l.states = d.Extra, sent+leaseTime, d.States
	l.show(r)
}
