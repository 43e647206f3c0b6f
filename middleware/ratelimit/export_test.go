package ratelimit

import (
	"sync/atomic"
	"time"
)

// Len returns how many keys m holds.
func Len(m *MemoryStore) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.keys.Len()
}

// LocalOf returns the store in which l limits by itself while its own fails.
func LocalOf(l *Limiter) *MemoryStore { return l.local }

// LocalPermits returns of how many keys c knows that permits are held in the process.
func LocalPermits(c *Concurrency) int {
	c.local.mu.Lock()
	defer c.local.mu.Unlock()
	return len(c.local.held)
}

// Skew sets the wall clock of l's process, which has no monotonic one then, wrong by d.
func Skew(l *Limiter, d time.Duration) {
	l.denials.clock = func() time.Time { return time.Now().Round(0).Add(d) }
	l.denials.start = l.denials.clock()
}

// Denials returns how many denied keys l knows.
func Denials(l *Limiter) (n int) {
	for i := range l.denials.known.parts {
		s := &l.denials.known.parts[i]
		s.mu.Lock()
		n += s.entries.Len()
		s.mu.Unlock()
	}
	return n
}

// Late makes each look at l's clock come d after the one before, as on a busy machine.
func Late(l *Limiter, d time.Duration) {
	var looks atomic.Int64
	l.denials.clock = func() time.Time { return time.Now().Add(time.Duration(looks.Add(1)) * d) }
}
