package cache

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"
)

// A Store keeps entries and decides whose value counts. Every method is one
// atomic step in it, and only its own clock decides about time.
//
// A fill is a conversation of two steps: Begin announces it with the fencing
// token of the lease that the filler holds, Fill stores its outcome. Between the
// two, a purge that reaches the entry, a write or a Begin with a larger token
// spoils it, so that what was computed before a purge, or by a filler that was
// overtaken, is never returned by Get after that. This holds for purges by a tag
// that is known only when the value has been computed, too.
//
// A write-through is a conversation of two steps as well: BeginWrite before the
// source is written, Write afterwards.
//
// Errors are for system faults only. Bytes that are not a whole entry of the key
// asked for are a miss. Implementations must be safe for concurrent use. The
// suite in package cachetest states these rules as tests.
type Store interface {
	// Get returns the entry under key, and whether there is one. It may be
	// stale: see Entry.TTL. The caller must not change the entry's bytes. If
	// there is none, Entry.Damaged is all that may be set.
	Get(ctx context.Context, key string) (Entry, bool, error)

	// GetMany is Get for many keys in one step: it returns one entry for each
	// key, in their order, whose Kind is zero where Get would return none.
	GetMany(ctx context.Context, keys []string) ([]Entry, error)

	// Peek returns the entry under key if this process has it at hand and may
	// rely on it, as Get would. It asks nobody and never waits.
	Peek(key string) (Entry, bool)

	// Begin announces a fill of key and answers Begun. If there is a fresh
	// entry with another Version than fill.Seen the answer is Filled together
	// with it, and no fill is begun. If a fill with a larger token has begun
	// and not ended, the answer is Overtaken.
	Begin(ctx context.Context, key string, fill Filling) (Beginning, error)

	// Fill ends the fill of key that was begun with that ticket and stores
	// entry, if it is still the one announced last. It wakes the watchers of
	// key in the same step, whether it stores or not, and reports whether it
	// did. An entry without a TTL is not stored and replaces nothing, but ends
	// the fill all the same. One that a soft purge by something else than its key
	// has reached since Begin may be stored as a stale one; then the report is
	// false, because those who have asked since want a fresh one.
	//
	// While a write of key is under way the entry lives for a second at most:
	// what the writer does to the source the filler may not have seen.
	Fill(ctx context.Context, key string, t Ticket, entry Entry) (bool, error)

	// BeginWrite announces that key's source is about to be written, and ends
	// a fill that has begun. The announcement is forgotten after ttl.
	BeginWrite(ctx context.Context, key string, ttl time.Duration) (Ticket, error)

	// Write ends the write that was begun with that ticket. It ends a fill
	// that has begun meanwhile, replaces the entry, and reports whether entry
	// is stored. It is not if another write of the key has begun or ended since
	// BeginWrite, because who of the two wrote the source last is unknown, if
	// a hard purge has reached it since, or if it has no TTL: then there is no
	// entry afterwards. So of writes that overlap none stays. Watchers are
	// woken, and every process that shares the store knows soon.
	Write(ctx context.Context, key string, t Ticket, entry Entry) (bool, error)

	// Purge makes what p names stale or gone. See Purge.
	Purge(ctx context.Context, p Purge) error

	// Watch returns a channel that receives a value soon after each Fill,
	// Write or Purge of key itself that follows Watch's return. Several may
	// come as one, and one may come without a cause: whoever is woken looks
	// again. stop ends the watch, must be called, and may be called more than
	// once. ctx bounds only the call itself.
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
	// Negative marks a key under which the source has nothing.
	Negative
)

// Entry is what a key holds.
type Entry struct {
	// Kind says what the entry stands for. Required.
	Kind Kind
	// Data is the caller's own encoding of the value. Read-only.
	Data []byte
	// TTL is how long the entry is fresh: as handed to Fill from then on, as
	// returned by Get from now on. Zero or less as returned by Get: it has
	// been stale for as long, or a soft purge has made it so.
	TTL time.Duration
	// StaleFor is how long the entry is kept after that. When this is over, or
	// a hard purge has reached it, it is not returned.
	StaleFor time.Duration
	// Cost is how long the value took to compute. It is the caller's, as are
	// Data and Schema.
	Cost time.Duration
	// Schema is the version of the value's encoding.
	Schema uint32
	// Tags are what the entry can be purged by, 1,000 at most. Stores do not
	// return them.
	Tags []string
	// Body is what belongs to the entry and was written to a BodyStore before,
	// or zero. It goes with the entry.
	Body Body

	// What follows is returned by stores and ignored by Fill and Write.

	// Age is how long ago the entry was stored.
	Age time.Duration
	// Version tells entries under one key apart, and what a soft purge of the
	// key has made of them. Never zero.
	Version uint64
	// Local: the entry was in this process.
	Local bool
	// Damaged: there is no entry, and Kind is zero, but where it should be there
	// are bytes: of a damaged one, of another version, or somebody else's.
	Damaged bool
	// Memo keeps what a caller has decoded of Data, if the entry stays in this
	// process, or if an Engine has handed it to several callers at once, who share it;
	// else it is nil.
	Memo *Memo
	// Handle finds the entry again, if the store has such and the entry stays in this
	// process; else it is nil.
	Handle Handle
}

// A Handle finds an entry again that a store has returned, for less than it costs to look
// for its key. It is safe for concurrent use. Whoever keeps one does not keep the entry: the
// store lets go of that as ever.
type Handle interface {
	// Peek returns the entry that the store's Peek would return, without its times, and
	// its Age and TTL. Nobody may change it. It reports false if the store has another
	// entry under the key by now, or none.
	Peek() (e *Entry, age, ttl time.Duration, ok bool)
}

// Memo keeps the decoded value of an entry along with it. It is safe for
// concurrent use. A nil Memo keeps nothing.
type Memo struct {
	state atomic.Uint32
	value any // it does not change once state is memoKept
}

// The states of a Memo. It begins with none.
const (
	memoTaken = iota + 1 // by the one who is putting a value in
	memoKept
)

// Load returns the value that was kept, or nil.
func (m *Memo) Load() any {
	if m == nil || m.state.Load() != memoKept {
		return nil
	}
	return m.value
}

// Store keeps value, which everybody who loads it shares and nobody may change. The
// first value stays.
func (m *Memo) Store(value any) {
	if m != nil && m.state.CompareAndSwap(0, memoTaken) {
		m.value = value
		m.state.Store(memoKept)
	}
}

// A BodyStore is a Store for values that are too big to be held in memory at
// once. MemoryStore and rediscache.Store are BodyStores.
type BodyStore interface {
	Store

	// CreateBody begins a body that is to belong to an entry under key. Nobody
	// knows of it until an entry with it is filled; ttl, which is to be at
	// least the entry's TTL and StaleFor together and the time until then, is
	// how long it is kept if that never happens. ctx bounds all that is done
	// with the writer.
	CreateBody(ctx context.Context, key string, ttl time.Duration) (BodyWriter, error)

	// OpenBody returns the bytes of a body of an entry under key. If some are
	// missing or damaged it fails with ErrNoBody, or reading does before the
	// end: what was read without an error up to io.EOF is whole. ctx bounds the
	// reading, too. If what it returns is an io.Seeker, a part can be read
	// without what lies before it; then whole is what was read from there on.
	OpenBody(ctx context.Context, key string, b Body) (io.ReadCloser, error)
}

// A Listener is a Store that hears of what others purge and write. MemoryStore and
// rediscache.Store are Listeners. With any other Store an Engine goes by what its own
// process purges and writes.
type Listener interface {
	Store

	// Stands reports whether the fill of key that was begun with that ticket and
	// has not ended still stands, if its entry is to have those tags: as far as
	// this process has heard, no purge, hard or soft, and no write has reached it
	// since. It asks nobody and never waits.
	Stands(key string, t Ticket, tags []string) bool
}

// ErrNoBody is the error of a BodyStore where a body is not there, or not whole.
var ErrNoBody = errors.New("cache: the body is gone")

// Body names the bytes that were written to a BodyStore.
type Body struct {
	// ID is the store's. Empty: no body.
	ID string
	// Size is its length in bytes.
	Size int64
}

// BodyWriter writes a body. It is not safe for concurrent use.
type BodyWriter interface {
	io.Writer
	// Finish ends the body. Without it the body is never complete.
	Finish() (Body, error)
	// Abort removes what was written, if Finish has not been called.
	Abort()
}

// Filling announces a fill.
type Filling struct {
	// Token is the fencing token of the filler's lease.
	Token uint64
	// Seen is the Version of the entry that the filler wants to replace
	// although it is fresh, or zero.
	Seen uint64
	// TTL is after how long the announcement is forgotten, and the fill
	// refused.
	TTL time.Duration
}

// Ticket names a fill or a write that has begun. Its fields are the store's.
type Ticket struct {
	// Token is the fill's, or the number of the write.
	Token uint64
	// Epoch says which purges came before.
	Epoch uint64
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
	// Ticket is what to Fill with, if Outcome is Begun.
	Ticket Ticket
}

// Purge names entries. Each part costs the same whatever the number of entries
// that it names, and reaches also the fills and writes of them that have begun.
type Purge struct {
	// Keys are the keys of entries. Their watchers are woken.
	Keys []string
	// Tags are tags of entries.
	Tags []string
	// Prefixes are what keys begin with.
	Prefixes []string
	// All is everything in the store.
	All bool
	// Soft makes entries stale, so that they can still be had while a new
	// value is computed. Otherwise they are gone.
	Soft bool
}
