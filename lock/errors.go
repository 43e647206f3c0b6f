package lock

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrNotAcquired says that the lease was not acquired because somebody else
// holds it, or still held it when the waiting ended.
var ErrNotAcquired = errors.New("lock: not acquired")

// ErrLost says that a lease could not be kept: somebody else may hold it now.
// It is the cause of the end of [Lease.Context] then.
var ErrLost = errors.New("lock: lease lost")

// ErrRefused is what an error of a [Store] matches that says that the store, as it is
// now, takes no leases at all: it is full, say, or a replica. A store need not tell.
var ErrRefused = errors.New("lock: the store refuses")

// HeldError is the error of [Locker.TryAcquire] and [Locker.TryDo] if somebody
// else holds the lease. It matches [ErrNotAcquired].
type HeldError struct {
	// Name is what is locked.
	Name string
	// HeldFor is how long the present holder's lease has left at most, unless
	// it is renewed or released.
	HeldFor time.Duration
}

// Error names the lock and says how long it is held at most.
func (e *HeldError) Error() string {
	return fmt.Sprintf("lock: %.64q is held by somebody else, for %v more unless it is renewed", e.Name, e.HeldFor)
}

// Is reports whether target is [ErrNotAcquired].
func (e *HeldError) Is(target error) bool { return target == ErrNotAcquired }

// RetryAfter returns HeldFor.
func (e *HeldError) RetryAfter() time.Duration { return e.HeldFor }

// ended returns why ctx is over, or nil. A client's network timeout that was
// set from ctx's deadline can come a moment before ctx itself notices; whoever
// asks in between must get the same answer.
func ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return nil
}
