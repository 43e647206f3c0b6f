package idempotency

import (
	"context"
	"time"
)

// A Store remembers which requests were run. Each method is one atomic step in
// it, on its own clock.
//
// Errors are for system faults only. Steps may arrive twice, because clients
// repeat a command whose answer was lost: then they have the outcome of the
// first. Implementations must be safe for concurrent use. The suite in package
// idempotencytest states the rules as tests.
type Store interface {
	// Begin asks whether the request called key may run. If nobody has asked
	// before, or the one who runs it has neither finished nor extended its lease
	// in time, or has abandoned it, it may: it is Started, and owner's for the
	// time of lease. The key is forgotten ttl after the last Begin that started
	// it, or at the end of the lease if that is later.
	Begin(ctx context.Context, key string, b Begin) (State, error)

	// Extend gives owner the lease anew and reports whether it is still the one
	// who runs the request. It also does so after the lease was over, as long
	// as nobody else has begun.
	Extend(ctx context.Context, key, owner string, lease time.Duration) (bool, error)

	// Finish stores the response for ttl, and reports whether it is stored:
	// it is not if owner is not the one who runs the request any more.
	Finish(ctx context.Context, key, owner string, response []byte, ttl time.Duration) (bool, error)

	// Abandon lets the next one run the request, if owner is the one who does.
	Abandon(ctx context.Context, key, owner string) error

	// Watch tells when the request may have been finished or abandoned: woken
	// has room for one value, which comes then, and whenever a message may have
	// been lost. It is a hint. stop ends the watch. ctx bounds the call only.
	Watch(ctx context.Context, key string) (woken <-chan struct{}, stop func(), err error)
}

// Fingerprint is a digest of a request.
type Fingerprint [32]byte

// Begin is a request to run something.
type Begin struct {
	// Owner is unique to this runner.
	Owner       string
	Fingerprint Fingerprint
	// Lease is for how long it is the runner's, TTL for how long the key is
	// remembered; both are positive, and TTL is no shorter than Lease.
	Lease, TTL time.Duration
}

// Phase says how a request stands.
type Phase uint8

const (
	// Started: it is the caller's to run.
	Started Phase = iota + 1
	// Running: somebody else runs it.
	Running
	// Finished: it has run, and there is its response.
	Finished
	// Mismatched: the key belongs to a request with another fingerprint.
	Mismatched
)

// State is the answer to Begin.
type State struct {
	Phase Phase
	// Attempt counts, if it is Started, how often it was, beginning with 1.
	Attempt int
	// Remaining is, if it is Running, what is left of the lease.
	Remaining time.Duration
	// Response is, if it is Finished, the response.
	Response []byte
}
