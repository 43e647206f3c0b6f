package session

import (
	"context"
	"errors"
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
// A session may have an owner, a name that the Manager makes of the user that is
// logged in. The first four characters of a session's id, its place, are also
// those of its owner, so that a store that is spread over several servers can
// keep all that belongs to one owner together: List, Revoke and the cap of a
// Delta see every session of an owner at one instant.
//
// Errors are for system faults only (a lost connection, a full server, a
// context that ended). "There is no such session" and "this write came too
// late" are results. After an error the caller must assume that the step may or
// may not have happened. An error that wraps ErrRefused says that the backend is
// there and has refused this one step.
//
// Implementations must be safe for concurrent use, must not keep or change the
// slices and maps they are handed (the bytes of a step whose context has ended may
// still be on their way), and must return ones that the caller may keep, and but for
// Values change. The suite in package sessiontest states these rules as
// tests.
type Store interface {
	// Load reads the session called id, and says how digest, the digest of
	// the secret that the client presented, stands to it. For State Missing
	// and Reused nothing else in the Record is set. Load does not change the
	// session, nor the time that it has left; but that a digest is Reused is
	// said once, and it is Missing from then on.
	//
	// Load may leave out values of a long session; see Entry.
	Load(ctx context.Context, id string, digest Digest) (Record, error)

	// LoadAll is Load, and leaves out no value. again is for who has read the session
	// before, when the digest was accepted: if it is not any more, that says nothing
	// about who presents it. The state is Missing then where it would be Reused, and that
	// is left to be said.
	LoadAll(ctx context.Context, id string, digest Digest, again bool) (Record, error)

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
	// the sender of the first can know that digest. A value named in If that
	// is equal to what Set would make of it is taken for the second arrival as
	// well.
	//
	// Every successful Commit starts the idle time anew, never beyond the end
	// of the absolute time. If a shorter absolute time puts that end into the
	// past, the session is over, with ExpiresIn zero.
	Commit(ctx context.Context, delta Delta) (Result, error)

	// Take withdraws the session from everybody for the time of hold and
	// returns what was in it. It asks for the digest as Commit does; if that is
	// not accepted, the State is Missing and nothing happens. While it is
	// withdrawn the session is gone for Load, Commit, Alive and Take by another
	// taker; Delete ends it as usual, and if nothing does it comes back. So it can
	// be made anew in another place, without a write that falls in between and
	// without losing it when that fails. taker is a name that nobody else uses;
	// by it a Take that arrives twice is recognised. A hold of zero gives back at
	// once what the same taker has taken.
	Take(ctx context.Context, id string, digest Digest, taker string, hold time.Duration) (Record, error)

	// Delete ends the session for good and reports whether there was one.
	Delete(ctx context.Context, id string) (bool, error)

	// List returns the sessions of owner, in any order.
	List(ctx context.Context, owner string) ([]Listed, error)

	// Revoke ends, for good, the sessions of owner that which selects, and
	// returns their ids. If which.Except names no session of owner, or one that is
	// gone, nothing ends and ok is false: who asks has been revoked meanwhile, and of
	// two sessions that end each other one stays.
	Revoke(ctx context.Context, owner string, which Selection) (ids []string, ok bool, err error)

	// Alive reports for each of the ids whether there is such a session. It is
	// not one step; each answer was true at some time during the call.
	Alive(ctx context.Context, ids []string) ([]bool, error)

	// Watch sends to woken when the session called id may have ended: soon
	// after it was deleted or revoked, by whichever process, and whenever a
	// message may have been lost. That its time was over need not be noticed.
	// woken must have room for one value and may be shared by many watches; it
	// is not waited for. stop ends the watch. The store may need a moment, for
	// no longer than ctx lasts, until the watch has begun.
	Watch(ctx context.Context, id string, woken chan struct{}) (stop func(), err error)
}

// ErrRefused is for the errors of a Store whose backend has answered, and refused
// the step, as a server does that has no memory left. Others may succeed, so
// that the circuit breaker does not count it.
var ErrRefused = errors.New("session: the backend of the store has refused the step")

// Digest is the keyed digest of a token's secret. It is all that a store ever
// learns of the secret.
type Digest [32]byte

// State says how a digest stands to a session.
type State uint8

const (
	// Missing: there is no such session (never was, expired, deleted), or the
	// digest has never been its own, or was replaced without a grace.
	Missing State = iota
	// Current: the digest is the session's own.
	Current
	// Superseded: a rotation replaced the digest, and its grace is not over.
	Superseded
	// Reused: a rotation with a grace replaced the digest, one of the last few,
	// and that grace is over. Whoever presents it now has kept, or stolen, an
	// old token.
	Reused
)

// Record is a session as Load read it.
type Record struct {
	State State
	// Version counts the commits of the session, beginning with 1.
	Version uint64
	// Owner is the owner, empty if there is none.
	Owner string
	// Meta is what the Manager notes about the session, Values are the encoded
	// values.
	Meta   []byte
	Values Values
	// CreatedAt is when the session began, AuthenticatedAt when a Delta said
	// so last, zero if none did, both by the store's clock.
	CreatedAt, AuthenticatedAt time.Time
	// ReadAt is when the record was read, by the store's clock.
	ReadAt time.Time
	// DigestAge is for how long the current digest has been the current one.
	DigestAge time.Duration
	// GraceLeft is for how long the superseded digest is still accepted, zero
	// if there is none.
	GraceLeft time.Duration
	// Handover is that of the last rotation, if the digest is Superseded.
	Handover []byte
	// IdleTimeout is the session's idle window.
	IdleTimeout time.Duration
	// ExpiresIn is the time until the session ends if nothing commits to it.
	ExpiresIn time.Duration
	// EndsIn is the time until the session ends in any case; ExpiresIn is
	// never longer.
	EndsIn time.Duration
	// Basis is whatever the store likes to be told with a Delta that rests on
	// this Record, such as where in its backend a value is. It may be nil. It is
	// not kept for longer than the request.
	Basis any
}

// Delta is one change to one session. A Delta that changes nothing still starts
// the idle time anew.
type Delta struct {
	// ID names the session. Required.
	ID string
	// Digest is the digest that the request was authenticated with, or with
	// Create the first one of the new session. Required.
	Digest Digest
	// Create begins a new session; IdleTimeout and AbsoluteTimeout must then
	// be positive.
	Create bool
	// Owner is the owner of a new session, empty if it has none. It begins
	// with the same four characters as ID. Without Create it is ignored.
	Owner string
	// MaxOwned, if positive, is how many sessions Owner may have with the new
	// one. If there were more, those that began first are ended with
	// EvictOldest; without it the answer is TooMany. A Delta that only arrives
	// for the second time is not counted again.
	MaxOwned    int
	EvictOldest bool
	// If holds what values must be at the moment, nil for one that must not be
	// there. If one is not, the answer is Conflict.
	If map[string][]byte
	// Set holds values to write by name, Delete names of values to remove. A
	// name stands in one of them at most. Names and values are any bytes.
	Set    map[string][]byte
	Delete []string
	// Meta, if not nil, replaces the session's.
	Meta []byte
	// Authenticated sets AuthenticatedAt to the present.
	Authenticated bool
	// Rotate, if not nil, replaces the session's digest. The digest that was
	// current until then becomes the superseded one. Rotating to the digest
	// that is current already changes no digest and no grace.
	Rotate *Rotation
	// IdleTimeout and AbsoluteTimeout, where positive, become the session's
	// own. The absolute time counts from the session's creation.
	IdleTimeout, AbsoluteTimeout time.Duration
	// IfExpiresWithin, if positive, is for a Delta that only starts the idle
	// time anew: where the session has so much time left or more, it does
	// nothing, and is Committed all the same. So of many requests that find
	// the time run down one writes. With Create it is ignored.
	IfExpiresWithin time.Duration
	// Basis is that of the Record which the caller has read, or nil. It may save
	// the store looking for something, and has no other effect: the session may
	// have changed since.
	Basis any
	// MaxBytes, if positive, bounds the sum of the lengths of all names and
	// values after the change; beyond it the answer is TooLarge.
	MaxBytes int
}

// Rotation replaces a session's digest in place.
type Rotation struct {
	// Digest is the new digest.
	Digest Digest
	// Grace is how long the digest replaced now is still accepted. Zero means
	// that it is refused, and forgotten, at once.
	Grace time.Duration
	// Handover is given to those who present the digest replaced now, during
	// its grace.
	Handover []byte
	// Once rotates only if the Delta's own digest is the current one; if it is
	// superseded, the rest of the Delta is applied, and Result.Handover tells
	// who rotated before.
	Once bool
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
	// Conflict: a value is not what If says. Nothing was written.
	Conflict
	// TooMany: the owner would have more than MaxOwned sessions. Nothing was
	// written.
	TooMany
)

// Result is the answer to a Commit. All but Outcome is set only if it is
// Committed, or Conflict in the case of Values.
type Result struct {
	Outcome   Outcome
	Version   uint64
	ExpiresIn time.Duration
	EndsIn    time.Duration
	// At is when it was committed, by the store's clock.
	At time.Time
	// Handover is that of an earlier rotation, if Rotation.Once kept this one
	// from happening.
	Handover []byte
	// Evicted holds the ids of the sessions that EvictOldest has ended.
	Evicted []string
	// Values holds, for a Conflict, the values that If names, as they are.
	Values map[string][]byte
}

// Listed is a session in a list of those of one owner.
type Listed struct {
	ID   string
	Meta []byte
	// CreatedAt and AuthenticatedAt are as in Record. SeenAt is when the last
	// Commit was. All are by the store's clock.
	CreatedAt, AuthenticatedAt, SeenAt time.Time
	// ExpiresIn is as in Record.
	ExpiresIn time.Duration
}

// Selection selects sessions of an owner: the one called Only, or if that is
// empty all but the one called Except, or all if both are empty.
type Selection struct{ Only, Except string }

// has reports whether the session called id is selected.
func (s Selection) has(id string) bool {
	return s.Only == id || s.Only == "" && s.Except != id
}

// placeLen is how many characters an owner and the ids of its sessions have in
// common.
const placeLen = 4
