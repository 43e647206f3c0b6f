package lock

import (
	"context"
	"time"
)

// A Store keeps leases. Every method is one atomic step in it, and only its own
// clock decides when a lease ends.
//
// Errors are for system faults only; "somebody else holds it" is a result.
// After an error the caller must assume that the step may or may not have
// happened. Implementations must be safe for concurrent use. The suite in
// package locktest states these rules as tests.
type Store interface {
	// TryAcquire takes the lease called req.Name for req.Owner if nobody
	// holds it, and answers at once either way.
	//
	// The token of a grant is larger than that of every earlier grant of the
	// same name, also if the store lost its data in between. An owner that
	// holds the lease already is granted it again under the same token, so that
	// a request may be sent twice.
	TryAcquire(ctx context.Context, req Request) (Grant, error)

	// Extend lets the lease end ttl from now if owner still holds it, and
	// reports whether it does. It never takes a lease that has ended.
	Extend(ctx context.Context, name, owner string, ttl time.Duration) (bool, error)

	// Release ends the lease if owner still holds it, wakes the watchers of
	// name in the same step, and reports whether owner did hold it. A Release
	// repeated for an owner may report what the first did.
	Release(ctx context.Context, name, owner string) (bool, error)

	// Watch returns a channel that receives a value soon after each release
	// of name that follows Watch's return. Several releases may come as one
	// value, and a value may come without a release (after a reconnection,
	// say): whoever is woken asks again. No value comes for a lease that
	// merely ends; Grant.HeldFor says when to ask for that. stop ends the
	// watch, must be called, and may be called more than once. ctx bounds
	// only the call itself.
	Watch(ctx context.Context, name string) (released <-chan struct{}, stop func(), err error)
}

// Request asks for a lease.
type Request struct {
	// Name is what is locked. Required.
	Name string
	// Owner identifies this one acquisition and must be unique to it.
	// Required.
	Owner string
	// TTL is how long the lease lasts unless it is extended, at least 1 ms.
	TTL time.Duration
}

// Grant is the answer to a Request.
type Grant struct {
	// Acquired reports whether the lease is the asker's now.
	Acquired bool
	// Token is the fencing token of the lease, if it was acquired.
	Token uint64
	// HeldFor is how long the present holder's lease has left at most, if it
	// was not acquired.
	HeldFor time.Duration
}
