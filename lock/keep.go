package lock

import (
	"context"
	"math/rand/v2"
	"time"
)

// keep starts the timers of a lease. No goroutine runs for it between renewals.
// The loss has a timer of its own, so that it comes on time whatever a renewal
// waits for.
func (l *Lease) keep() {
	l.mu.Lock() // a timer that fires at once must find both
	defer l.mu.Unlock()
	l.loss = time.AfterFunc(time.Until(l.deadline), l.expire)
	l.renewal = time.AfterFunc(l.untilRenewal(), l.renew)
}

// untilRenewal returns a bit less than a third of the TTL, differently long each
// time, so that leases that were acquired together are not renewed together.
func (l *Lease) untilRenewal() time.Duration {
	third := l.req.TTL / 3
	return third - rand.N(third/5+1)
}

// untilRetry is short enough for several tries before the lease is lost, and
// long enough not to hammer a store that is in trouble.
func (l *Lease) untilRetry() time.Duration {
	return l.req.TTL/30 + rand.N(l.req.TTL/30+1)
}

// expire ends a lease that has not been confirmed in time.
func (l *Lease) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state != live {
		return
	}
	if left := time.Until(l.deadline); left > 0 { // confirmed just now
		l.loss.Reset(left)
		return
	}
	l.end(lost)
}

// renew asks the store once to extend the lease, and sets the timer for the next
// time. There is never more than one renewal of a lease under way.
func (l *Lease) renew() {
	l.mu.Lock()
	asked := time.Now()
	if l.state != live || !asked.Before(l.deadline) { // the latter is expire's to say
		l.mu.Unlock()
		return
	}
	// A request that is lost must leave time for others before the deadline.
	until := asked.Add(l.req.TTL / 3)
	if l.deadline.Before(until) {
		until = l.deadline
	}
	done := make(chan struct{})
	l.renewing = done
	l.mu.Unlock()

	ctx, cancel := context.WithDeadline(l.requests, until)
	ours, err := l.locker.store.Extend(ctx, l.req.Name, l.req.Owner, l.req.TTL)
	cancel()

	l.mu.Lock()
	defer l.mu.Unlock()
	l.renewing = nil
	close(done)
	switch now := time.Now(); {
	case l.state != live:
	case !now.Before(l.deadline):
		l.end(lost) // expire is late; the answer does not bring the lease back
	case err != nil:
		// It may have been extended, but only what is confirmed counts.
		l.renewal.Reset(l.untilRetry())
	case !ours:
		l.end(gone)
	default:
		l.deadline = asked.Add(l.locker.reliable(l.req.TTL))
		l.loss.Reset(time.Until(l.deadline))
		l.renewal.Reset(l.untilRenewal())
	}
}

// stop ends the keeping of the lease for its release. It returns what state it
// was in, and the channel of a renewal that is under way.
func (l *Lease) stop() (was state, renewing <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == live && !time.Now().Before(l.deadline) {
		l.end(lost) // expire is late
	}
	was = l.state
	if was == live {
		l.end(released)
	}
	return was, l.renewing
}

// left returns for how long the lease is confirmed.
func (l *Lease) left() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Until(l.deadline)
}

// end is called with mu held, once.
func (l *Lease) end(next state) {
	l.state = next
	l.loss.Stop()
	l.renewal.Stop()
	if next == released {
		l.endCtx(nil)
	} else {
		l.endCtx(ErrLost)
	}
	l.endRequests(nil)
}
