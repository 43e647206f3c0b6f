package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A PermitStore keeps the permits of concurrency limits: leases that end by
// themselves unless they are extended, so that what a killed process held is free
// again. Each method is one atomic step in it, on its own clock.
//
// Errors are for system faults and invalid arguments only. A method returns once
// its context is done; one that was done before changes nothing. Implementations
// must be safe for concurrent use. The suite in package ratelimittest states
// these rules as tests.
type PermitStore interface {
	// Acquire takes one of limit permits of key under name, for ttl, and calls
	// it id. If id has one already, that is extended.
	Acquire(ctx context.Context, p PermitRequest) (PermitState, error)

	// Extend has the permit called p.ID end p.TTL from now, and reports whether it
	// was still there. One that has ended is not given again.
	Extend(ctx context.Context, p PermitRequest) (bool, error)

	// Release ends the permit called p.ID. It is no error if there is none.
	Release(ctx context.Context, p PermitRequest) error
}

// PermitRequest names a permit.
type PermitRequest struct {
	// Key says who is limited, and Name which of his limits it is, as in a Check.
	Key, Name string
	// ID tells the permits apart. It is different for each.
	ID string
	// Limit is how many permits there are at a time, at least one. Release and Extend ignore it.
	Limit int
	// TTL is after how long the permit ends, at least a millisecond. Release
	// ignores it.
	TTL time.Duration
}

// PermitState is the answer to an Acquire.
type PermitState struct {
	// Acquired reports whether there was a permit left.
	Acquired bool
	// Held is how many permits are held now.
	Held int
}

// Validate reports everything that is wrong with a request to Acquire, for stores.
func (p PermitRequest) Validate() error {
	var faults []error
	if !validName(p.Name) {
		faults = append(faults, fmt.Errorf("ratelimit: a limit of key %q has the name %q: %s", p.Key, p.Name, nameRule))
	}
	if p.ID == "" {
		faults = append(faults, errors.New("ratelimit: a permit needs an id"))
	}
	if p.Limit < 1 {
		faults = append(faults, fmt.Errorf("ratelimit: there are %d permits, but there must be one at least", p.Limit))
	}
	if p.TTL < time.Millisecond {
		faults = append(faults, fmt.Errorf("ratelimit: a permit lasts %v, but must last a millisecond at least", p.TTL))
	}
	return errors.Join(faults...)
}
