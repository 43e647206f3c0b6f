package session

import (
	"context"
	"time"
)

// A Store keeps sessions. It is the whole of what a Manager asks of its
// backend, and every method is one atomic step there: no caller ever reads,
// decides and writes in separate steps.
//
// The store's own clock decides everything about time; the processes that use
// it may be minutes apart. A session whose time is over is gone, exactly as if
// it had been deleted.
//
// Errors are for system faults only (a lost connection, a full server, a
// context that ended). "There is no such session" and "this write came too
// late" are results. After an error the caller must assume that the step may or
// may not have happened.
//
// Implementations must be safe for concurrent use, must not keep or change the
// slices and maps they are handed, and must return ones that the caller may
// keep and change. The suite in package sessiontest states these rules as
// tests.
type Store interface {
	// Load reads the session called id, and says how digest, the digest of
	// the secret that the client presented, stands to it. For State Missing
	// and Reused nothing else in the Record is set. Load changes nothing, not
	// even the time that the session has left.
	Load(ctx context.Context, id string, digest Digest) (Record, error)

	// Commit applies delta to the session, whole or not at all, and says in
	// Result.Outcome what became of it.
	//
	// With Create it begins a session, and answers Exists where there already
	// is one of that id. Without it the session must exist and delta.Digest
	// must be its current digest, or the superseded one within its grace; if
	// not, the answer is Gone and nothing is written: a session that was
	// deleted or has expired is never brought back.
	//
	// A step may arrive twice, because clients repeat a command whose answer
	// was lost. So Create with the digest that is the session's current one
	// already, and Rotate to it, are taken for the second arrival: they are
	// accepted, and applied like any Delta to an existing session. Nobody but
	// the sender of the first can know that digest.
	//
	// Every successful Commit starts the idle time anew, never beyond the end
	// of the absolute time. If a shorter absolute time puts that end into the
	// past, the session is over, with ExpiresIn zero.
	Commit(ctx context.Context, delta Delta) (Result, error)

	// Delete ends the session for good and reports whether there was one.
	Delete(ctx context.Context, id string) (bool, error)
}

// Digest is the keyed digest of a token's secret. It is all that a store ever
// learns of the secret.
type Digest [32]byte

// State says how a digest stands to a session.
type State uint8

const (
	// Missing: there is no such session (never was, expired, deleted), or the
	// digest has never been its own.
	Missing State = iota
	// Current: the digest is the session's own.
	Current
	// Superseded: a rotation replaced the digest, and its grace is not over.
	Superseded
	// Reused: a rotation replaced the digest, and its grace is over. Whoever
	// presents it now has kept, or stolen, an old token.
	Reused
)

// Record is a session as Load read it.
type Record struct {
	State State
	// Version counts the commits of the session, beginning with 1.
	Version uint64
	// User is the user that the session is logged in as, empty if none.
	User string
	// Values holds the encoded values by name.
	Values map[string][]byte
	// CreatedAt is when the session began, by the store's clock.
	CreatedAt time.Time
	// IdleTimeout is the session's idle window.
	IdleTimeout time.Duration
	// ExpiresIn is the time until the session ends if nothing commits to it.
	ExpiresIn time.Duration
	// EndsIn is the time until the session ends in any case; ExpiresIn is
	// never longer.
	EndsIn time.Duration
}

// Delta is one change to one session. A Delta that changes nothing (no Create,
// Set, Delete, User, Rotate) still starts the idle time anew.
type Delta struct {
	// ID names the session. Required.
	ID string
	// Digest is the digest that the request was authenticated with, or with
	// Create the first one of the new session. Required.
	Digest Digest
	// Create begins a new session; IdleTimeout and AbsoluteTimeout must then
	// be positive.
	Create bool
	// Set holds values to write by name, Delete names of values to remove. A
	// name stands in one of them at most. Names and values are any bytes.
	Set    map[string][]byte
	Delete []string
	// User, if not nil, becomes the user of the session.
	User *string
	// Rotate, if not nil, replaces the session's digest. The digest that was
	// current until then becomes the superseded one. Rotating to the digest
	// that is current already changes no digest and no grace.
	Rotate *Rotation
	// IdleTimeout and AbsoluteTimeout, where positive, become the session's
	// own. The absolute time counts from the session's creation.
	IdleTimeout, AbsoluteTimeout time.Duration
	// MaxBytes, if positive, bounds the sum of the lengths of all names and
	// values after the change; beyond it the answer is TooLarge.
	MaxBytes int
}

// Rotation replaces a session's digest in place.
type Rotation struct {
	// Digest is the new digest.
	Digest Digest
	// Grace is how long the digest replaced now is still accepted. Zero means
	// that it is refused at once.
	Grace time.Duration
}

// Outcome says what became of a Commit.
type Outcome uint8

const (
	// Committed: the change is stored.
	Committed Outcome = iota + 1
	// Gone: there is no such session any more, or the digest is no longer
	// accepted. Nothing was written.
	Gone
	// Exists: Create found a session of that id. Nothing was written.
	Exists
	// TooLarge: the change would exceed MaxBytes. Nothing was written.
	TooLarge
)

// Result is the answer to a Commit. All but Outcome is set only if it is
// Committed.
type Result struct {
	Outcome   Outcome
	Version   uint64
	ExpiresIn time.Duration
	EndsIn    time.Duration
}
