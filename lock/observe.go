package lock

import (
	"context"
	"time"
)

// An Event says what happened to a lease. See [Options.Observe].
type Event struct {
	Kind EventKind
	// Name is what is locked.
	Name string
	// Token is the fencing token of the lease, and 0 where there is none.
	Token uint64
	// Took is a duration that depends on the kind.
	Took time.Duration
	// Err is what went wrong, if anything did.
	Err error
}

// EventKind says what an [Event] is about.
type EventKind uint8

// The kinds of events, and what Took and Err are in each.
const (
	// Acquired: somebody has a lease. Took is the time since it was asked for,
	// with the waiting.
	Acquired EventKind = iota + 1
	// Waited: the waiting for a lease has ended. Took is how long it was. Err
	// is nil if the lease was acquired; Acquired follows.
	Waited
	// Renewed: the store was asked for a longer lease. Took is how long it took
	// to answer. If Err is not nil it was not renewed; it is tried again until
	// the lease is lost.
	Renewed
	// Lost: the lease could not be kept, and its context has ended. Took is
	// how long it was held.
	Lost
	// Released: the holder has released the lease. Took is how long it was
	// held. Err is what Release returns: it matches [ErrLost] if the lease was
	// gone before; any other error means that it ends by itself.
	Released
)

// String returns the name of the kind in lower case.
func (k EventKind) String() string {
	switch k {
	case Acquired:
		return "acquired"
	case Waited:
		return "waited"
	case Renewed:
		return "renewed"
	case Lost:
		return "lost"
	case Released:
		return "released"
	default:
		return "unknown"
	}
}

// event tells of e. The context of e carries the values of ctx.
func (l *Locker) event(ctx context.Context, e Event) {
	if l.observe != nil {
		l.observe(context.WithoutCancel(ctx), e)
	}
}
