package lock

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// longestWait is how long a waiter waits for a push before it asks all the same.
// A push can be lost: when the connection that carries it breaks, or when Redis
// fails over between the release and the push.
const longestWait = 2 * time.Second

// await asks until the lease is free or ctx ends.
//
// The order is: ask, watch, ask again, wait. Without the second time the waiter
// would miss a release that comes before it watches:
//
//	waiter: asks, "held for 30 s"
//	holder:                        releases, nobody is watching
//	waiter:                                                     watches, waits
func (l *Locker) await(ctx, parent context.Context, req Request) (*Lease, error) {
	var released <-chan struct{} // nil until a watch stands
	for {
		lease, err := l.try(ctx, parent, req)
		var held *HeldError
		switch {
		case err == nil:
			return lease, nil
		case ended(ctx) != nil:
			return nil, notInTime(ctx, req.Name, err)
		case !errors.As(err, &held):
			return nil, err
		}
		wait := time.NewTimer(min(held.HeldFor+afterEnd(), longestWait))
		if released == nil {
			// A watch that cannot be had is no reason to fail: the timer is
			// there. The next round tries to watch again.
			watch, stop, err := l.watch(ctx, req.Name, held.HeldFor)
			if err == nil {
				defer stop()
				released = watch
				wait.Stop()
				continue
			}
		}
		select {
		case <-released:
		case <-wait.C:
		case <-ctx.Done():
		}
		wait.Stop()
		if ended(ctx) != nil {
			return nil, notInTime(ctx, req.Name, nil)
		}
	}
}

// watch is the store's, but does not take longer than there is to wait: while
// the connection that carries the pushes hangs, leases still end.
func (l *Locker) watch(ctx context.Context, name string, heldFor time.Duration) (<-chan struct{}, func(), error) {
	ctx, cancel := context.WithTimeout(ctx, min(heldFor+afterEnd(), longestWait))
	defer cancel()
	return l.store.Watch(ctx, name)
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
