package lock

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	// placeTTL is for how long a place in the queue is kept for a waiter who
	// does not ask: a dead one delays those behind it by that much.
	placeTTL = 1900 * time.Millisecond
	// longestWait is how long a waiter waits for a push before it asks all the
	// same. That keeps its place, and makes up for a push that was lost: when
	// the connection that carries it breaks, or when Redis fails over between
	// the release and the push.
	longestWait = 900 * time.Millisecond
	// leaveTime is how long a waiter who gives up waits for the store to hear
	// of it.
	leaveTime = 10 * time.Millisecond
)

// acquire asks until there is a lease or ctx ends. Those of one process who want
// the same stand in line, and one of them asks the store. Shared leases do not
// exclude one another, so a line would only hold them up, and a fair queue needs
// to know of everybody.
func (l *Locker) acquire(ctx, parent context.Context, name string, ttl time.Duration) (*Lease, error) {
	asked, err := l.ask(parent, name, ttl)
	if err != nil {
		return nil, err
	}
	a := &asked
	a.req.Give = !l.shared && ttl >= placeTTL // or it could outlast the TTL
	if l.fair || l.shared && l.limit == 0 {
		return l.await(ctx, a, false)
	}
	a.line, a.inLine = lineKey{name: name, ttl: ttl, limit: l.limit}, true
	a.req.Tokens = maxHandedOn + 1
	w := l.lines.enter(a.line, parent)
	if w != nil {
		lease, err := l.standInLine(ctx, a, w)
		if lease != nil || err != nil {
			return lease, err
		}
	}
	return l.carryBaton(ctx, a, w != nil)
}

// standInLine waits for w's turn. It returns neither a lease nor an error if
// that is to ask the store.
func (l *Locker) standInLine(ctx context.Context, a *ask, w *waiter) (*Lease, error) {
	var t turn
	select {
	case t = <-w.turn:
	case <-ctx.Done():
		if l.lines.leave(a.line, w) {
			err := notInTime(ctx, a.req.Name, nil)
			l.waited(ctx, a, err)
			return nil, err
		}
		t = <-w.turn
	}
	if t.place != nil {
		a.req.Owner, a.req.Place, a.placed = t.place.owner, placeTTL, true
		a.watch = t.place
		if t.heldFor > 0 {
			a.refusal = &HeldError{Name: a.req.Name, HeldFor: t.heldFor}
		}
	}
	late := ended(ctx) != nil
	switch {
	case t.err != nil:
		l.waited(ctx, a, t.err)
		return nil, t.err
	case late:
		if t.lease != nil {
			l.acquired(a, t.lease)
			go t.lease.discard(context.WithoutCancel(ctx))
		} else {
			defer l.lines.next(a.line)
		}
		a.watch.stop()
		return nil, l.giveUp(ctx, a, nil)
	case t.lease != nil:
		l.waited(ctx, a, nil)
		l.acquired(a, t.lease)
	}
	return t.lease, nil
}

// carryBaton asks the store, and sees to it that the next in line comes to ask.
func (l *Locker) carryBaton(ctx context.Context, a *ask, contended bool) (lease *Lease, err error) {
	over := false
	defer func() {
		switch {
		case lease != nil && !l.shared: // when the lease ends
		case lease == nil && over && !errors.Is(err, ErrNotAcquired) && ended(ctx) == nil:
			l.lines.fail(a.line, err)
		default:
			l.lines.next(a.line)
		}
	}()
	lease, err = l.await(ctx, a, contended)
	over = true
	return lease, err
}

// await asks the store until there is a lease or ctx ends.
//
// The order is: ask, watch, ask again, wait. Without the second time the waiter
// would miss a release that comes before it watches:
//
//	waiter: asks, gets its place in the queue
//	holder:                                   releases, nobody is watching
//	waiter:                                                        watches, waits
//
// If it is known that others wait, it watches first, and asks once.
func (l *Locker) await(ctx context.Context, a *ask, contended bool) (*Lease, error) {
	a.req.Place = placeTTL
	defer func() { a.watch.stop(); a.next.stop() }()
	if contended {
		l.watch(ctx, a, longestWait)
	}
	waited := contended
	for {
		var lease *Lease
		err := a.refusal
		a.refusal = nil
		if err == nil {
			lease, err = l.try(ctx, a)
		}
		var held *HeldError
		switch {
		case err == nil:
			if waited {
				l.waited(ctx, a, nil)
			}
			l.acquired(a, lease)
			return lease, nil
		case ended(ctx) != nil:
			return nil, l.giveUp(ctx, a, err)
		case !errors.As(err, &held):
			if waited {
				l.waited(ctx, a, err)
			}
			return nil, err
		}
		waited = true
		wait := time.NewTimer(min(held.HeldFor+afterEnd(), longestWait))
		// A watch that cannot be had is no reason to fail: the timer is there. The
		// next round tries to watch again.
		if a.watch == nil && l.watch(ctx, a, held.HeldFor) {
			wait.Stop()
			continue
		}
		select {
		case <-a.watch.channel():
		case <-wait.C:
		case <-ctx.Done():
		}
		wait.Stop()
		if ended(ctx) != nil {
			return nil, l.giveUp(ctx, a, nil)
		}
	}
}

// giveUp ends the waiting of a, whose ctx has ended. err is that of its last try,
// or nil.
func (l *Locker) giveUp(ctx context.Context, a *ask, err error) error {
	if a.placed {
		// Whoever asks right after this should not find the place still kept. A
		// healthy store needs no millisecond, and a hung one is not waited for.
		select {
		case <-l.abandon(ctx, a.req):
		case <-time.After(leaveTime):
		}
	}
	err = notInTime(ctx, a.req.Name, err)
	l.waited(ctx, a, err)
	return err
}

// waited and acquired tell of these events.
func (l *Locker) waited(ctx context.Context, a *ask, err error) {
	if l.observe == nil {
		return
	}
	l.event(ctx, Event{Kind: Waited, Name: a.req.Name, Took: time.Since(a.began), Err: err})
}

func (l *Locker) acquired(a *ask, lease *Lease) {
	l.event(lease.ctx, Event{Kind: Acquired, Name: a.req.Name, Token: lease.token, Took: lease.since.Sub(a.began)})
}

// watch has a watch its turn, and that of the one who comes after it, if it does not
// yet, and reports whether it does now. The store does not take longer for it than
// there is to wait: while the connection that carries the pushes hangs, leases still
// end.
func (l *Locker) watch(ctx context.Context, a *ask, heldFor time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, min(heldFor+afterEnd(), longestWait))
	defer cancel()
	if a.watch == nil {
		a.watch = l.watchFor(ctx, a.req.Name, a.req.Owner)
	}
	if a.watch != nil && a.inLine && !l.shared && l.relay != nil {
		a.next = l.watchFor(ctx, a.req.Name, l.owners.next(a.req.Name)) // now, as there is time
	}
	return a.watch != nil
}

// A watch is that of an owner's turn. The nil watch never has a value.
type watch struct {
	owner   string
	turn    <-chan struct{}
	end     func()
	entered time.Time // when owner asked for the place that it has; guarded by the hold's mu
}

// watchSoon is watchFor for somebody who has no time to wait: others in the process
// watch the name.
func (l *Locker) watchSoon(ctx context.Context, name string) *watch {
	ctx, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	return l.watchFor(ctx, name, l.owners.next(name))
}

// watchFor returns nil if there is no watch to be had.
func (l *Locker) watchFor(ctx context.Context, name, owner string) *watch {
	turn, end, err := l.store.Watch(ctx, name, owner)
	if err != nil {
		return nil
	}
	return &watch{owner: owner, turn: turn, end: end}
}

// hasPlace reports whether the owner has entered the queue.
func (w *watch) hasPlace() bool { return w != nil && !w.entered.IsZero() }

// keepsPlace reports whether it has, and need not ask again before a waiter would.
func (w *watch) keepsPlace() bool {
	return w.hasPlace() && time.Since(w.entered) < (placeTTL-longestWait)/2
}

func (w *watch) channel() <-chan struct{} {
	if w == nil {
		return nil
	}
	return w.turn
}

func (w *watch) stop() {
	if w != nil {
		w.end()
	}
}

// afterEnd returns how long after the end of a lease to ask for it: surely after
// it, as Redis rounds to milliseconds, and not all waiters at once.
func afterEnd() time.Duration {
	return 2*time.Millisecond + rand.N(8*time.Millisecond)
}

// notInTime is the error of a waiter whose ctx has ended. err is that of its last
// try, or nil.
func notInTime(ctx context.Context, name string, err error) error {
	why := ended(ctx)
	switch {
	case err == nil || errors.Is(err, ErrNotAcquired):
		err = why
	case !errors.Is(err, why):
		err = errors.Join(why, err)
	}
	return fmt.Errorf("%w: waiting for %.64q: %w", ErrNotAcquired, name, err)
}
