package lock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A Lease is a lock that is held for as long as it is renewed, which the Lease
// does by itself every third of its TTL. Whoever got one must call Release.
//
// A Lease is safe for concurrent use.
type Lease struct {
	locker *Locker
	req    Request
	token  uint64

	// ctx is what the holder works under. requests is for the renewals: it
	// carries the same values and ends with the lease, but not with the
	// holder's own context.
	ctx, requests       context.Context
	endCtx, endRequests context.CancelCauseFunc

	mu       sync.Mutex
	state    state
	deadline time.Time     // up to which the store has confirmed the lease
	loss     *time.Timer   // fires at deadline
	renewal  *time.Timer   // fires when it is time to renew
	renewing chan struct{} // closed when the renewal under way ends; nil without one

	releasing chan struct{} // guards what follows; a mutex to wait for with a context
	settled   bool          // Release has its final answer,
	result    error         // which is this
}

type state uint8

const (
	live     state = iota
	released       // by its holder
	lost           // not confirmed in time; the store may still hold it
	gone           // the store says that it is not ours any more
)

func newLease(parent context.Context, locker *Locker, req Request, token uint64, deadline time.Time) *Lease {
	l := &Lease{
		locker:    locker,
		req:       req,
		token:     token,
		deadline:  deadline,
		releasing: make(chan struct{}, 1),
	}
	l.ctx, l.endCtx = context.WithCancelCause(parent)
	l.requests, l.endRequests = context.WithCancelCause(context.WithoutCancel(parent))
	l.keep()
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

// Release ends the lease and its context and wakes those who wait for it. It
// returns nil if the lease was held until now, and an error that matches
// [ErrLost] if it was gone before. Calling it again changes nothing and returns
// the same.
//
// Any other error means that the store may not know: the lease then ends by
// itself within its TTL, and Release may be called again to try once more. ctx
// bounds the call. It should not be one that has ended: the lease is then
// released in the background, and the error is ctx's.
func (l *Lease) Release(ctx context.Context) error {
	was, renewing := l.stop()
	select {
	case l.releasing <- struct{}{}:
	default: // another Release is under way
		select {
		case l.releasing <- struct{}{}:
		case <-ctx.Done():
			return fmt.Errorf("lock: release %.64q: %w", l.req.Name, ctx.Err())
		}
	}
	defer func() { <-l.releasing }()
	if l.settled {
		return l.result
	}
	err := l.release(ctx, was)
	if err == nil || errors.Is(err, ErrLost) {
		l.settled, l.result = true, err
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
	return err
}

func (l *Lease) release(ctx context.Context, was state) error {
	if was == gone {
		return fmt.Errorf("lock: release %.64q: %w", l.req.Name, ErrLost)
	}
	// A lease that was not confirmed in time may still stand in the store, and
	// others would wait for it: it is released like any other.
	var held bool
	err := ended(ctx)
	if err != nil {
		l.locker.abandon(ctx, l.req)
	} else {
		held, err = l.locker.store.Release(ctx, l.req.Name, l.req.Owner)
		if e := ended(ctx); err != nil && e != nil && !errors.Is(err, e) {
			err = errors.Join(e, err)
		}
	}
	switch {
	case was == lost || err == nil && !held:
		return fmt.Errorf("lock: release %.64q: %w", l.req.Name, errors.Join(ErrLost, err))
	case err != nil:
		return fmt.Errorf("lock: release %.64q, which ends by itself within %v: %w", l.req.Name, l.req.TTL, err)
	}
	return nil
}

// run runs fn under the lease and releases it, also if fn panics or ctx has ended.
func (l *Lease) run(ctx context.Context, fn func(ctx context.Context, token uint64) error) (err error) {
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(cleanUp, l.left()))
		defer cancel()
		if e := l.Release(ctx); errors.Is(e, ErrLost) && !errors.Is(err, ErrLost) {
			err = errors.Join(err, e)
		}
	}()
	return fn(l.ctx, l.token) //nolint:contextcheck // l.ctx is a child of ctx
}
