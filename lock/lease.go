package lock

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A Lease is a lock that is held for as long as it is renewed, which happens by
// itself every third of its TTL. Whoever got one must call Release.
//
// A Lease is safe for concurrent use.
type Lease struct {
	hold  *hold
	token uint64
	since time.Time

	ctx context.Context // what the holder works under
	end context.CancelCauseFunc

	releasing chan struct{} // guards what follows; a mutex to wait for with a context
	settled   bool          // Release has its final answer,
	result    error         // which is this
}

// init makes l the Lease that has h since then, and returns it.
func (l *Lease) init(h *hold, parent context.Context, token uint64, since time.Time) *Lease {
	l.hold, l.token, l.since = h, token, since
	l.releasing = make(chan struct{}, 1)
	l.ctx, l.end = context.WithCancelCause(parent)
	return l
}

// Context returns the context to work under. It ends with the cause [ErrLost]
// when the lease can no longer be promised, which is at the last deadline that
// the store has confirmed, even if the store never answers again; and it ends
// when Release is called.
func (l *Lease) Context() context.Context { return l.ctx }

// Token returns the fencing token. It is larger than that of every earlier lease
// of the name.
func (l *Lease) Token() uint64 { return l.token }

// Release ends the lease and its context and lets those in who wait for it. It
// returns nil if the lease was held until now, and an error that matches
// [ErrLost] if it was gone before. Calling it again changes nothing and returns
// the same.
//
// Any other error means that the store may not know: the lease then ends by
// itself within its TTL, and Release may be called again to try once more. ctx
// bounds the call. It should not be one that has ended: the lease is then
// released in the background, and the error is ctx's.
func (l *Lease) Release(ctx context.Context) error {
	was, renewing := l.hold.stop(l) //nolint:contextcheck // what that begins outlasts ctx
	first, err := l.settle(ctx, was)
	if !first {
		return err
	}
	// The renewal under way has been told to end. If the release overtakes it
	// in the store that is no harm: it finds the lease ended, and never takes
	// one that has.
	if renewing != nil {
		select {
		case <-renewing:
		case <-ctx.Done():
		}
	}
	l.observe(Released, err) // last, when nothing is held up any more
	return err
}

// settle releases the hold, if l still has it. first says that this was left to do.
func (l *Lease) settle(ctx context.Context, was state) (first bool, err error) {
	select {
	case l.releasing <- struct{}{}:
	default: // another Release is under way
		select {
		case l.releasing <- struct{}{}:
		case <-ctx.Done():
			return false, fmt.Errorf("lock: release %.64q: %w", l.hold.req.Name, ctx.Err())
		}
	}
	defer func() { <-l.releasing }()
	if l.settled {
		return false, l.result
	}
	if was != passedOn {
		defer l.hold.passBaton() //nolint:contextcheck // what that begins outlasts ctx
		err = l.release(ctx, was)
	}
	if err == nil || errors.Is(err, ErrLost) {
		l.settled, l.result = true, err
	}
	return true, err
}

func (l *Lease) release(ctx context.Context, was state) error {
	req := l.hold.used()
	if was == gone {
		return fmt.Errorf("lock: release %.64q: %w", req.Name, ErrLost)
	}
	// A lease that was not confirmed in time may still stand in the store, and
	// others would wait for it: it is released like any other.
	var held bool
	err := ended(ctx)
	if err != nil {
		l.hold.locker.abandon(ctx, req)
	} else {
		held, err = l.hold.release(ctx, req)
		if e := ended(ctx); err != nil && e != nil && !errors.Is(err, e) {
			err = errors.Join(e, err)
		}
	}
	switch {
	case was == lost || err == nil && !held:
		return fmt.Errorf("lock: release %.64q: %w", req.Name, errors.Join(ErrLost, err))
	case err != nil:
		return fmt.Errorf("lock: release %.64q, which ends by itself within %v: %w", req.Name, req.TTL, err)
	}
	return nil
}

// run runs fn under the lease and releases it, also if fn panics or ctx has ended.
func (l *Lease) run(ctx context.Context, fn func(ctx context.Context, token uint64) error) (err error) {
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(cleanUp, l.hold.left()))
		defer cancel()
		// What else it says is about ctx, which is none of the caller's.
		if e := l.releaseSurely(ctx); errors.Is(e, ErrLost) && !errors.Is(err, ErrLost) {
			err = errors.Join(err, fmt.Errorf("lock: %.64q: %w", l.hold.req.Name, ErrLost))
		}
	}()
	return fn(l.ctx, l.token) //nolint:contextcheck // l.ctx is a child of ctx
}

// discard releases a lease that came too late for the one who asked for it.
func (l *Lease) discard(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, cleanUp)
	defer cancel()
	_ = l.releaseSurely(ctx)
}

// releaseSurely is Release for a lease whose holder does not try again. If it fails
// that is left to the background, or others would wait for the whole TTL when the
// store was away for a moment.
func (l *Lease) releaseSurely(ctx context.Context) error {
	err := l.Release(ctx)
	if err != nil && !errors.Is(err, ErrLost) {
		l.hold.locker.abandon(ctx, l.hold.used())
	}
	return err
}

// values returns a context that carries the values of Context and does not end.
func (l *Lease) values() context.Context { return context.WithoutCancel(l.ctx) }

// observe tells of an event of which Took is how long the lease was held.
func (l *Lease) observe(kind EventKind, err error) {
	if l.hold.locker.observe == nil {
		return // and does not even look at the clock
	}
	l.hold.locker.event(l.ctx, Event{Kind: kind, Name: l.hold.req.Name, Token: l.token, Took: time.Since(l.since), Err: err})
}
