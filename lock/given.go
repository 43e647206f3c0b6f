package lock

import (
	"context"
	"math/rand/v2"
	"time"
)

// extendAfter is when a lease that the store has given is renewed for the first time.
// It lasts for a second or two only, so it is soon; but most leases for which others
// wait are released before, and cost the store nothing more than that.
const extendAfter = 50 * time.Millisecond

// oneRelayIn is of how many turns one does not enter the queue ahead. If nobody else waits
// its release gets the lease back in the same step, and so do those that follow: a process
// that is alone again would give the lease to itself for ever otherwise, by messages.
const oneRelayIn = 16

// expiring reports whether grant is of a lease that was given so long ago that it is
// better to ask for another one: the message was held up, or this process was.
func (l *Locker) expiring(grant Grant) bool {
	return grant.TTL > 0 && time.Until(grant.Since.Add(l.reliable(grant.TTL))) < grant.TTL/4
}

// enterAhead has the next in line enter the store's queue now if the lease that has
// just been handed on, as the hold had been held for so long, is likely to be the last
// one. To enter is a step that the release would have to take otherwise, while others
// wait for it. Whoever was given the lease has not taken a step for that, so that a turn
// is two in any case. It is called with mu held.
func (h *hold) enterAhead(held time.Duration) {
	likely := h.handedOn >= maxHandedOn || held+held/time.Duration(h.handedOn) >= handOnFor
	if !likely || rand.IntN(oneRelayIn) == 0 || !h.given || h.next == nil || h.entering != nil || !h.locker.lines.waits(h.line) {
		return
	}
	h.entering = make(chan struct{})
	go h.enter(h.lease.values(), h.next)
}

// enter takes the step of enterAhead.
func (h *hold) enter(ctx context.Context, next *watch) {
	defer close(h.entering)
	to := h.nextRequest(next)
	asked := time.Now()
	limited, cancel := context.WithTimeout(ctx, cleanUp)
	grant, err := h.locker.store.TryAcquire(limited, to)
	cancel()

	h.mu.Lock()
	defer h.mu.Unlock()
	switch wanted := h.next == next; {
	case err == nil && grant.Queued && wanted:
		next.entered = asked
		return
	case err != nil:
		h.locker.takeBack(ctx, to, err)
	default: // it has come too late; or the hold is lost, and the next one has it
		h.locker.abandon(ctx, to)
	}
	if h.next == next {
		next.stop()
		h.next = nil
	}
}

// knowsNext waits until enterAhead is done, if it is under way, and reports whether it
// is. A healthy store needs no millisecond, and a hung one is not waited for.
func (h *hold) knowsNext(ctx context.Context) bool {
	h.mu.Lock()
	entering := h.entering
	h.mu.Unlock()
	if entering == nil {
		return true
	}
	select {
	case <-entering:
		return true
	case <-time.After(leaveTime):
	case <-ctx.Done():
	}
	return false
}

// nextRequest returns the request of the next in line, whose watch is next.
func (h *hold) nextRequest(next *watch) Request {
	to := h.req
	to.Owner = next.owner
	return to
}

// dropNext says that the next in line does not enter the queue with the release. It is
// called with mu held.
func (h *hold) dropNext() {
	if h.next == nil {
		return
	}
	h.drop(h.lease.values(), h.next)
	h.next = nil
}

// drop ends a watch for the next in line, and gives its place up. It is the hold's no
// longer, or mu is held.
func (h *hold) drop(ctx context.Context, next *watch) {
	next.stop()
	if next.hasPlace() {
		h.locker.abandon(ctx, h.nextRequest(next))
	}
}
