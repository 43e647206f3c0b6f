package cache

import (
	"context"
	"time"
)

// A Store keeps entries and decides whose fill counts. Every method is one
// atomic step in it, and only its own clock decides about time.
//
// A fill is a conversation of two steps: Begin announces it with the fencing
// token of the lease that the filler holds, Fill stores its outcome. Between
// the two, a purge of the key or a Begin with a larger token ends it, so that
// what was computed before a purge, or by a filler that was overtaken, is never
// stored.
//
// Errors are for system faults only. Bytes that are not a whole entry of the
// key asked for are a miss. Implementations must be safe for concurrent use.
// The suite in package cachetest states these rules as tests.
type Store interface {
	// Get returns the entry under key, and whether there is one. The caller
	// must not change the entry's bytes.
	Get(ctx context.Context, key string) (Entry, bool, error)

	// Begin announces a fill of key under token and answers Begun. If there
	// is a fresh entry the answer is Filled together with it, and no fill is
	// begun. If a fill with a larger token has begun and not ended, the answer
	// is Overtaken. The announcement is forgotten after ttl.
	Begin(ctx context.Context, key string, token uint64, ttl time.Duration) (Beginning, error)

	// Fill ends the fill of key that was begun under token and stores entry,
	// if it is still the one announced last. It wakes the watchers of key in
	// the same step, whether it stores or not, and reports whether it did. An
	// entry without a TTL is not stored, but ends the fill all the same.
	Fill(ctx context.Context, key string, token uint64, entry Entry) (bool, error)

	// Purge removes the entry under key, ends a fill of it that has begun,
	// and wakes the watchers.
	Purge(ctx context.Context, key string) error

	// Watch returns a channel that receives a value soon after each Fill or
	// Purge of key that follows Watch's return. Several may come as one, and
	// one may come without a cause: whoever is woken looks again. stop ends
	// the watch, must be called, and may be called more than once. ctx bounds
	// only the call itself.
	Watch(ctx context.Context, key string) (changed <-chan struct{}, stop func(), err error)

	// LeaseName returns the name of the lease under which key is filled. It
	// differs from that of every other key, and its length is bounded.
	LeaseName(key string) string
}

// Kind says what an entry stands for.
type Kind uint8

const (
	// Value is an ordinary entry.
	Value Kind = iota + 1
	// Uncacheable marks a key whose outcome cannot be shared, so that callers
	// need not queue behind one another ("hit-for-miss").
	Uncacheable
)

// Entry is what a key holds.
type Entry struct {
	// Kind says what the entry stands for. Required.
	Kind Kind
	// Data is the caller's own encoding of the value. Read-only.
	Data []byte
	// TTL is how long the entry is fresh: as handed to Fill from then on, as
	// returned by Get from now on. An entry whose time is over is not
	// returned.
	TTL time.Duration
	// Age is how long ago the entry was stored, as returned by Get. Fill
	// ignores it.
	Age time.Duration
}

// BeginOutcome says what became of a Begin.
type BeginOutcome uint8

const (
	// Begun: the fill is announced, and the caller is to compute.
	Begun BeginOutcome = iota + 1
	// Filled: there is a fresh entry already.
	Filled
	// Overtaken: a fill with a larger token has begun. The caller's lease is
	// history.
	Overtaken
)

// Beginning is the answer to Begin.
type Beginning struct {
	Outcome BeginOutcome
	// Entry is the entry found, if Outcome is Filled.
	Entry Entry
}
