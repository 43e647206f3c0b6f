package fence

import (
	"errors"
	"fmt"
	"sync"
)

// ErrStale says that a write was refused because its token is smaller than one
// that the resource has seen: the lease it was made under is over, and a later
// holder has been here. To repeat the write is of no use; a new lease is needed,
// and the work must be done again from what is there now.
var ErrStale = errors.New("fence: stale token: a later holder has been here")

// ErrMissing says that a write came without a token. The zero token is none.
var ErrMissing = errors.New("fence: no fencing token")

// StaleError is the error for a token that is known to be stale. It matches
// [ErrStale]. Where a resource cannot tell the largest token, as after an UPDATE
// that affected no row, ErrStale itself does.
type StaleError struct {
	// Token is the one that was refused.
	Token uint64
	// Largest is the largest that the resource has seen.
	Largest uint64
}

// Error names both tokens.
func (e *StaleError) Error() string {
	return fmt.Sprintf("fence: stale token %d: a holder with token %d has been here", e.Token, e.Largest)
}

// Is reports whether target is [ErrStale].
func (e *StaleError) Is(target error) bool { return target == ErrStale }

// Guard guards one resource within this process. The zero value is ready and has
// seen no token. A Guard is safe for concurrent use and must not be copied.
//
// Where there are many resources, each has a Guard of its own, which is kept for as
// long as the resource: a Guard that is dropped forgets, and its successor lets a
// stale write in. The same goes for a resource that outlives the process, such as
// a file. Keep the token with the data there, and begin with
//
//	err := guard.Do(kept, func() error { return nil })
type Guard struct {
	mu      sync.Mutex
	largest uint64
}

// Do calls write, unless it has seen a larger token. Then it returns a
// [*StaleError], or for a zero token [ErrMissing], and write is not called.
// Otherwise it returns what write returns.
//
// One write runs at a time; who comes meanwhile waits, without a deadline, and is
// compared when it is his turn. So write should end soon. It must not call Do of
// the same Guard. The token counts as seen before write is called, also if write
// fails or panics: part of it may have been done.
func (g *Guard) Do(token uint64, write func() error) error {
	if token == 0 {
		return ErrMissing
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if token < g.largest {
		return &StaleError{Token: token, Largest: g.largest}
	}
	g.largest = token
	return write()
}
