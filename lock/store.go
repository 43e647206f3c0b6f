package lock

import (
	"context"
	"time"
)

// A Store keeps leases, and those who wait for them in a queue. Every method is
// one atomic step in it, and only its own clock decides when a lease or a place
// in the queue ends.
//
// Errors are for system faults only; "somebody else holds it" is a result.
// After an error the caller must assume that the step may or may not have
// happened. After one of TryAcquire that matches ErrRefused a Locker does not insist
// on the Release that sees to this. Implementations must be safe for concurrent use. The suite in
// package locktest states these rules as tests.
type Store interface {
	// TryAcquire takes the lease called req.Name for req.Owner if there is
	// room for it and nobody is ahead in the queue, and answers at once either
	// way.
	//
	// There is room for an exclusive lease if nobody holds any, and for a
	// shared one if nobody holds an exclusive one and fewer than req.Limit
	// hold a shared one. Whoever entered the queue earlier is ahead, except
	// that shared leases for which there is room together do not wait for one
	// another.
	//
	// The tokens of a grant are larger than those of every earlier grant of the
	// same name, also if the store lost its data in between. An owner that
	// holds the lease already is granted it again, under the same or a larger
	// token, so that a request may be sent twice.
	TryAcquire(ctx context.Context, req Request) (Grant, error)

	// Extend lets the lease end req.TTL from now if req.Owner still holds it,
	// and reports whether it does. It never takes a lease that has ended. req
	// is that of TryAcquire.
	Extend(ctx context.Context, req Request) (bool, error)

	// Release ends what req.Owner has: its lease, or its place in the queue. In
	// the same step it wakes the watchers for whom there is room now. It
	// reports whether the owner did hold the lease. A Release repeated for an
	// owner may report what the first did. req is that of TryAcquire, with
	// req.Tokens being how many of them were used, and req.Unused how many were
	// not: those may be given out again.
	Release(ctx context.Context, req Request) (bool, error)

	// Watch returns a channel that receives a value soon after each Release of
	// name, following Watch's return, that makes room for owner, who waits in
	// the queue. Several may come as one value, and a value may come without
	// one (after a reconnection, say): whoever is woken asks again. No value
	// comes for a lease that merely ends; Grant.HeldFor says when to ask for
	// that. stop ends the watch, must be called, and may be called more than
	// once. ctx bounds only the call itself.
	Watch(ctx context.Context, name, owner string) (turn <-chan struct{}, stop func(), err error)
}

// A Relay is a [Store] that can release one lease and ask for the next one in one
// step, as a [Locker] does where others of the process wait. A Store need not be a
// Relay: then that is two steps.
type Relay interface {
	Store

	// Relay does what Release(ctx, from) and TryAcquire(ctx, to) do, one after the
	// other, with nothing in between. from and to are of the same name.
	Relay(ctx context.Context, from, to Request) (held bool, grant Grant, err error)
}

// Request asks for a lease.
type Request struct {
	// Name is what is locked. Required.
	Name string
	// Owner identifies this one acquisition and must be unique to it.
	// Required. The owners of a Locker have the same before their first dot, so
	// that a store can tell for which process a message is. Those that follow one
	// another at a name mostly differ in their last character only, so that a store
	// can remember many of them in little room.
	Owner string
	// TTL is how long the lease lasts unless it is extended, at least 1 ms.
	TTL time.Duration

	// Shared asks for a lease that others can hold at the same time, if theirs
	// are shared as well.
	Shared bool
	// Limit is how many may hold a shared lease of the name at a time. 0 means
	// any number.
	Limit int

	// Tokens is how many consecutive tokens the lease gets, for a holder that
	// passes it on by itself. 0 means 1.
	Tokens int
	// Unused is, in a Release, how many tokens at the end of the block the
	// holder did not use.
	Unused int

	// Place is for how long the asker's place in the queue is kept if the lease
	// is not acquired. Asking again before that keeps the place. 0 means that
	// the asker does not wait and gets no place.
	Place time.Duration
	// Give says that the store may give the lease to an asker who has a place, in
	// the step that makes room for it, without being asked again. Whoever is given
	// one hears of it by its watch, and TryAcquire, which it has to call, says for how
	// long: no longer than the place would have been kept. The store has to end a
	// lease by itself that nobody comes for. A store need not give any.
	Give bool
	// Fair says that the asker relies on the order of the queue. A store
	// without a queue must refuse it then, with an error that matches
	// [errors.ErrUnsupported], and wake all watchers at each Release otherwise.
	Fair bool
}

// Grant is the answer to a Request.
type Grant struct {
	// Acquired reports whether the lease is the asker's now.
	Acquired bool
	// Token is the fencing token of the lease, if it was acquired, and the
	// first one if more were asked for.
	Token uint64
	// Since and TTL are set if the lease was acquired before TryAcquire was called,
	// because the store has given it (see Request.Give): it lasts for TTL from some
	// instant after Since, which is when the asker asked for its place. Otherwise the
	// lease lasts for the request's TTL, from some instant after the call.
	Since time.Time
	TTL   time.Duration
	// HeldFor is after how long, at most, there is room if nobody renews or
	// acquires a lease meanwhile, if it was not acquired: how long the holders
	// have left, or the place of whoever is ahead.
	HeldFor time.Duration
	// Queued reports whether the asker has a place in the queue. One who asks
	// again without a place must do so as another owner: what this one was
	// given in part may still be taken back.
	Queued bool
}
