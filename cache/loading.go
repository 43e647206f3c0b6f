package cache

import (
	"context"
	"errors"
)

// Load computes an entry. It runs in the goroutine that called Do. Its context
// has the values of Do's, but does not end with it, because others may be
// waiting for the outcome.
//
// An entry without a TTL is not stored: those who wait try again, one by one. A
// Load whose outcome must not be shared says so by an entry of kind Uncacheable
// with a TTL, so that for as long they do not queue at all. A Load that returns
// an error or panics counts as Uncacheable for a second: its failure is its own
// caller's, and the others need not fail one after the other.
type Load func(ctx context.Context, l *Loading) (Entry, error)

// Loading is a computation under way, for the Load that does it. Its methods are
// not safe for concurrent use.
type Loading struct {
	kept   bool
	stale  func() Entry // what stands since the fill has begun; nil: none
	share  func(Entry)
	add    func(ctx context.Context, key string, entry Entry, seen uint64) error // nil: nothing is kept
	settle func(Entry) (stored bool)                                             // nil once settled
}

// Stale returns the entry that was found and judged to FallBack, which what is
// computed is to replace, and whether there is one. It asks the store once more, for
// a purge may have come before the fill was announced, and nothing else would keep out
// what is made of that entry.
func (l *Loading) Stale() (Entry, bool) {
	if l.stale == nil {
		return Entry{}, false
	}
	e := l.stale()
	return e, e.Kind != 0
}

// Share hands entry to those of this process who wait, and who come before the
// end, without storing it: a Memo in it can lead them to what is still being made.
// Only the first call counts, and only until this process hears of a purge or write
// that has reached the key, or one of the tags in entry; with a Store that is no
// Listener, until it purges or writes something itself. That of an entry of kind
// Uncacheable holds whatever happens: they are to compute for themselves.
func (l *Loading) Share(entry Entry) { l.share(entry) }

// Kept reports whether the store would take the outcome, as far as is known.
// It would not where it is out of reach, or where this caller has waited too
// long for another one.
func (l *Loading) Kept() bool { return l.kept }

// Add stores entry under another key, which belongs to what is computed, as if it
// had been begun together with it: a purge since then that reaches it keeps it out.
// It replaces a fresh entry only if that has the Version seen. An error is the
// store's, or says that nothing is kept.
func (l *Loading) Add(ctx context.Context, key string, entry Entry, seen uint64) error {
	if l.add == nil {
		return errNotKept
	}
	return l.add(ctx, key, entry, seen)
}

var errNotKept = errors.New("cache: the store takes nothing from this load")

// Settle makes entry the outcome for everybody else now, before Load returns:
// those who wait go on, and the key is anybody's. A Load calls it when it finds
// out early that the outcome cannot be shared, and goes on for its own caller
// only. Only the first call counts, and what Load returns counts for its own
// caller only then. It reports whether the store has taken entry, and with it what was
// added: if a purge or a write of the key has come since the fill began, it has not.
func (l *Loading) Settle(entry Entry) (stored bool) {
	if settle := l.settle; settle != nil {
		l.settle = nil
		return settle(entry)
	}
	return false
}
