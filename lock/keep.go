package lock

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// maxHandedOn is how many times a hold is handed on within the process
	// before it goes back to the store, and how many tokens are asked for that.
	maxHandedOn = 63
	// handOnFor is for how long after it was acquired a hold is handed on
	// within the process. Others wait in the store meanwhile.
	handOnFor = 25 * time.Millisecond
)

// A hold is a lease in the store and the keeping of it. It belongs to one Lease
// at a time: to the one that acquired it, and then to those to whom it is handed
// on within the process.
type hold struct {
	locker  *Locker
	req     Request
	line    lineKey
	granted time.Time // when the store's answer was there

	mu       sync.Mutex
	state    state
	lease    *Lease             // whose it is
	first    Lease              // the one that acquired it, in one piece of memory with the hold
	handedOn uint64             // how many times
	inLine   bool               // it may be handed on to those who wait in the line
	baton    bool               // it has the baton of the line
	next     *watch             // for the next in line, if it is to enter the queue with the release
	entering chan struct{}      // closed when it has entered the queue ahead of that, or has not; nil if it does not
	given    bool               // the store gave it, and it has not been renewed since
	ttl      time.Duration      // that the store has confirmed last
	deadline time.Time          // up to which the store has confirmed the hold
	loss     *time.Timer        // fires at deadline; nil before the first renewal
	renewal  *time.Timer        // fires when it is time to renew
	renewing chan struct{}      // closed when the renewal under way ends; nil without one
	cancel   context.CancelFunc // of the renewal under way
}

type state uint8

const (
	live     state = iota
	passedOn       // another Lease has the hold now
	released       // by its holder
	lost           // not confirmed in time; the store may still hold it
	gone           // the store says that it is not ours any more
)

// begin makes the first Lease of the hold, and starts the timer of the first
// renewal. No goroutine runs for a hold between renewals. Most holds are released
// before one, so that all else is left to that.
func (h *hold) begin(parent context.Context, token uint64) *Lease {
	h.mu.Lock() // a timer that fires at once must find it
	defer h.mu.Unlock()
	h.lease = h.first.init(h, parent, token, h.granted)
	h.renewal = time.AfterFunc(min(h.untilRenewal(), time.Until(h.deadline)), h.renew)
	return h.lease
}

// untilRenewal returns a bit less than a third of the TTL, differently long each
// time, so that leases that were acquired together are not renewed together.
func (h *hold) untilRenewal() time.Duration {
	if h.given {
		return extendAfter
	}
	third := h.ttl / 3
	return third - rand.N(third/5+1)
}

// untilRetry is short enough for several tries before the hold is lost, and long
// enough not to hammer a store that is in trouble.
func (h *hold) untilRetry() time.Duration {
	return h.ttl/30 + rand.N(h.ttl/30+1)
}

// expire ends a hold that has not been confirmed in time.
func (h *hold) expire() {
	h.mu.Lock()
	lease := h.lease
	if h.state != live {
		h.mu.Unlock()
		return
	}
	if left := time.Until(h.deadline); left > 0 { // confirmed just now
		h.loss.Reset(left)
		h.mu.Unlock()
		return
	}
	h.end(lost)
	h.mu.Unlock()
	lease.observe(Lost, nil)
}

// renew asks the store once to extend the hold, and sets the timer for the next
// time. There is never more than one renewal of a hold under way.
func (h *hold) renew() {
	h.mu.Lock()
	if h.state == live && h.loss == nil {
		// A timer of its own, so that the loss comes on time whatever the renewal
		// waits for.
		h.loss = time.AfterFunc(time.Until(h.deadline), h.expire)
	}
	if h.state == live && !h.given {
		h.dropNext() // who holds for so long need not be fast
	}
	asked := time.Now()
	if h.state != live || !asked.Before(h.deadline) { // the latter is expire's to say
		h.mu.Unlock()
		return
	}
	// A request that is lost must leave time for others before the deadline.
	until := asked.Add(h.ttl / 3)
	if h.deadline.Before(until) {
		until = h.deadline
	}
	lease := h.lease
	ctx, cancel := context.WithDeadline(lease.values(), until)
	done := make(chan struct{})
	h.renewing, h.cancel = done, cancel
	h.mu.Unlock()

	ours, err := h.locker.store.Extend(ctx, h.req)
	cancel()

	answered := time.Now()
	h.mu.Lock()
	h.renewing, h.cancel = nil, nil
	close(done)
	before := h.state
	switch {
	case h.state != live:
	case !answered.Before(h.deadline):
		h.end(lost) // expire is late; the answer does not bring the hold back
	case err != nil:
		// It may have been extended, but only what is confirmed counts.
		h.renewal.Reset(h.untilRetry())
	case !ours:
		h.end(gone)
	default:
		h.given, h.ttl = false, h.req.TTL
		h.deadline = asked.Add(h.locker.reliable(h.ttl))
		h.loss.Reset(time.Until(h.deadline))
		h.renewal.Reset(h.untilRenewal())
	}
	after, lease := h.state, h.lease
	h.mu.Unlock()

	switch {
	case before != live: // it was released meanwhile
	case after != live:
		lease.observe(Lost, err)
	default:
		h.locker.event(lease.ctx, Event{Kind: Renewed, Name: h.req.Name, Token: lease.token, Took: answered.Sub(asked), Err: err})
	}
}

// stop ends what l has of the hold: it is handed on within the process, or no
// longer kept, and to be released in the store. stop returns what state it was
// in, and the channel of a renewal that is under way.
func (h *hold) stop(l *Lease) (was state, renewing <-chan struct{}) {
	h.mu.Lock()
	if h.lease != l {
		h.mu.Unlock()
		return passedOn, nil
	}
	overdue := h.state == live && !time.Now().Before(h.deadline)
	if overdue {
		h.end(lost) // expire is late
	}
	was, renewing = h.state, h.renewing
	if was == live {
		l.end(nil) // before another one begins
		if h.handOn() {
			h.mu.Unlock()
			return passedOn, nil
		}
		h.end(released)
	}
	h.mu.Unlock()
	if overdue {
		l.observe(Lost, nil)
	}
	return was, renewing
}

// handOn gives the hold to the next in line, if there is one and the hold may
// stay in this process. It is called with mu held.
//
// The tokens that were asked for are enough. They are given out no faster than
// the store's clock goes, in microseconds: if the store loses its data, what it
// gives out next, by its clock, is larger all the same.
func (h *hold) handOn() bool {
	held := time.Since(h.granted)
	if !h.inLine || h.handedOn >= maxHandedOn || held >= handOnFor || h.handedOn >= uint64(held.Microseconds()) {
		return false
	}
	handedOn := h.locker.lines.handOn(h.line, func(parent context.Context) *Lease {
		h.handedOn++
		h.lease = new(Lease).init(h, parent, h.lease.token+1, h.granted.Add(held))
		return h.lease
	})
	if handedOn {
		h.enterAhead(held)
	}
	return handedOn
}

// release releases the hold in the store. If others of the process wait, the first
// of them has entered the queue before, or does so in the same step: at its end, as if
// it had asked after the release.
//
// The step is taken in the name of the line and not of a waiter, who might leave
// meanwhile, and must not have to wait for the answer then.
func (h *hold) release(ctx context.Context, req Request) (held bool, err error) {
	l := h.locker
	next := h.takeNext(ctx)
	if next == nil || next.keepsPlace() || !l.lines.waits(h.line) {
		held, err = l.store.Release(ctx, req)
		h.passPlace(ctx, next, held && err == nil)
		return held, err
	}
	to := h.nextRequest(next)
	asked := time.Now()
	held, grant, err := l.relay.Relay(ctx, req, to)
	answered := time.Now()
	deadline := asked.Add(l.reliable(to.TTL))
	var t turn
	var w *waiter
	switch {
	case err != nil: // it may have happened all the same
		next.stop()
		l.takeBack(ctx, to, err)
		return held, err
	case !grant.Acquired && !grant.Queued:
		next.stop()
		return held, nil
	case !grant.Acquired || answered.Before(deadline):
		w = l.lines.take(h.line)
	}
	if w == nil {
		next.stop()
		l.abandon(ctx, to)
		return held, nil
	}
	if grant.Acquired {
		following := &hold{locker: l, req: to, line: h.line, granted: answered, inLine: true, baton: true, ttl: to.TTL, deadline: deadline, next: l.watchSoon(ctx, to.Name)}
		next.stop()
		t.lease = following.begin(w.parent, grant.Token) //nolint:contextcheck // the lease outlives ctx
	} else {
		t.place, t.heldFor = next, grant.HeldFor
	}
	h.giveTurn(w, t)
	return held, nil
}

// passPlace gives the place in the queue, if next has one that will do, to the next in
// line. Otherwise it is given up. Who gets it waits for its turn if the release went
// well, and asks at once if it did not: the place may be lost, or the store be at fault.
func (h *hold) passPlace(ctx context.Context, next *watch, released bool) {
	if next.keepsPlace() {
		if w := h.locker.lines.take(h.line); w != nil {
			t := turn{place: next}
			if released {
				t.heldFor = longestWait
			}
			h.giveTurn(w, t)
			return
		}
	}
	h.drop(ctx, next)
}

// giveTurn gives w its turn, which was this hold's to give.
func (h *hold) giveTurn(w *waiter, t turn) {
	h.mu.Lock()
	h.baton = false
	h.mu.Unlock()
	w.turn <- t
}

// takeNext returns the watch for the next in line, if there is one and it is still up
// to this hold to say when that one's turn is.
func (h *hold) takeNext(ctx context.Context) *watch {
	known := h.knowsNext(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.baton {
		return nil
	}
	next := h.next
	h.next = nil
	if !known {
		next.stop() // enterAhead gives the place up
		return nil
	}
	return next
}

// passBaton says that the next in line may ask the store, if that is up to this
// hold.
func (h *hold) passBaton() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropNext()
	if h.baton {
		h.baton = false
		h.locker.lines.next(h.line)
	}
}

// used returns the request of the hold with the tokens that were used of it.
func (h *hold) used() Request {
	h.mu.Lock()
	defer h.mu.Unlock()
	req := h.req
	req.Tokens = int(h.handedOn) + 1
	req.Unused = max(h.req.Tokens-req.Tokens, 0)
	return req
}

// left returns for how long the hold is confirmed.
func (h *hold) left() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Until(h.deadline)
}

// end is called with mu held, once. A hold that was released keeps the baton
// until the store knows of it, so that the next one need not ask twice.
func (h *hold) end(next state) {
	h.state = next
	if h.loss != nil {
		h.loss.Stop()
	}
	h.renewal.Stop()
	if h.cancel != nil {
		h.cancel()
	}
	if next == released {
		h.lease.end(nil)
		return
	}
	h.lease.end(ErrLost)
	if h.baton {
		h.baton = false
		h.locker.lines.next(h.line)
	}
}
