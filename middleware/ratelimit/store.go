package ratelimit

import (
	"context"
	"time"
)

// A Store decides about requests. Each method is one atomic step in it, on its
// own clock: however many processes ask, a limit is never exceeded.
//
// Errors are for system faults and invalid requests only; a request that is
// over its limit is a result. A method returns once its context is done; one
// that was done before changes nothing. Implementations must be safe for
// concurrent use. The suite in package ratelimittest states these rules as
// tests.
type Store interface {
	// Take asks for req.N units under every one of req.Checks, all or
	// nothing: either all of them have room and all are charged, or none is.
	Take(ctx context.Context, req Request) (Decision, error)

	// Reset forgets what was taken under key.
	Reset(ctx context.Context, key string) error
}

// Request asks a Store for a decision.
type Request struct {
	// Checks are the limits to satisfy, at least one.
	Checks []Check
	// N is how many units to take. Zero asks how things stand: it is always
	// allowed and takes nothing.
	N int
}

// Check is one limit for one key.
type Check struct {
	// Key says who is limited. Keys of different limits must differ.
	Key string
	// Limit is what the key may use.
	Limit Limit
}

// Decision is the answer to a Request.
type Decision struct {
	// Allowed reports whether the units were taken.
	Allowed bool
	// States holds how each check stands after the decision, in the order of
	// Request.Checks.
	States []CheckState
}

// CheckState is how one check stands.
type CheckState struct {
	// Remaining is how many units could be taken at once now.
	Remaining int
	// RetryAfter is how long to wait until this check has room for the units
	// asked for (if they have just been taken, for as many again): zero if it
	// has room now, negative if it never will (more units than the burst).
	RetryAfter time.Duration
	// ResetAfter is how long it takes until the full burst is available
	// again if nothing is taken.
	ResetAfter time.Duration
}
