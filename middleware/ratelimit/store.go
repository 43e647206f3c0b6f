package ratelimit

import (
	"context"
	"errors"
	"fmt"
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
	// Take asks for units under every one of req.Checks, all or nothing: either
	// all of them have room and all are charged, or none is. (Those that are
	// Shadow have no say.)
	//
	// A store that spreads keys over several servers may take the units on one
	// after the other, and give back what it has taken when one denies: nothing
	// is admitted over a limit, nor charged in the end, but in between what is
	// given back may have denied somebody else.
	Take(ctx context.Context, req Request) (Decision, error)

	// Reset forgets what was taken of key under the limits of these names.
	Reset(ctx context.Context, key string, names ...string) error
}

// ErrForeign says that something that is no rate limit is kept where one should
// be. Such an error concerns one key: the store itself works.
var ErrForeign = errors.New("something else is kept at the key of a rate limit")

// Request asks a Store for a decision.
type Request struct {
	// Checks are the limits to satisfy, at least one.
	Checks []Check
	// Extra is how many units to take besides under every check, or as many of
	// them as all have room for, down to none: from 0 to 2^30. If the request is
	// denied none is taken.
	Extra int
}

// MaxExtra is the largest Request.Extra.
const MaxExtra = 1 << 30

// Check is one limit for one key.
type Check struct {
	// Key says who is limited: any bytes. What is kept of one key is kept
	// together: on a Redis Cluster in one slot.
	Key string
	// Name says which of the key's limits this is: letters, digits and any of
	// "-_./", at least one. Checks of one Request must differ in Key or Name.
	Name string
	// Limit is what the key may use.
	Limit Limit
	// N is how many units to take. Zero asks how things stand: there is always
	// room for it, and it takes nothing.
	N int
	// Shadow keeps the check from denying. It is charged if it has room and the
	// request is allowed.
	Shadow bool
}

// Decision is the answer to a Request.
type Decision struct {
	// Allowed reports whether the units were taken.
	Allowed bool
	// Extra is how many of Request.Extra were taken.
	Extra int
	// States holds how each check stands after the decision, in the order of
	// Request.Checks.
	States []CheckState
}

// CheckState is how one check stands.
type CheckState struct {
	// Over reports that this check had no room for the units asked for.
	Over bool
	// Remaining is how many units could be taken at once now.
	Remaining int
	// RetryAfter is how long to wait until this check has room for the units
	// asked for (if they have just been taken, for as many again): zero if it
	// has room now, negative if it never will (more units than the burst).
	RetryAfter time.Duration
	// NextAfter is how long to wait until there is room for one unit more than
	// Remaining. Zero if nothing is taken.
	NextAfter time.Duration
	// ResetAfter is how long it takes until the full burst is available
	// again if nothing is taken.
	ResetAfter time.Duration
}

// Validate reports everything that is wrong with the request, for stores: no
// checks, two checks with one key and name, a limit that cannot be, a negative
// number of units.
func (r Request) Validate() error {
	var faults []error
	if len(r.Checks) == 0 {
		faults = append(faults, errors.New("ratelimit: a request needs at least one check"))
	}
	if r.Extra < 0 || r.Extra > MaxExtra {
		faults = append(faults, fmt.Errorf("ratelimit: Request.Extra is %d, but must be from 0 to 2^30", r.Extra))
	}
	for i, c := range r.Checks {
		if c.N < 0 {
			faults = append(faults, fmt.Errorf("ratelimit: cannot take %d units", c.N))
		}
		if !validName(c.Name) {
			faults = append(faults, fmt.Errorf("ratelimit: a limit of key %q has the name %q: %s", c.Key, c.Name, nameRule))
		}
		if err := c.Limit.validate(); err != nil {
			faults = append(faults, fmt.Errorf("ratelimit: limit %s of key %q: %w", c.Name, c.Key, err))
		}
		for _, other := range r.Checks[:i] {
			if other.Key == c.Key && other.Name == c.Name {
				faults = append(faults, fmt.Errorf("ratelimit: two checks of one request have the key %q and the name %q: "+
					"give each limit a name of its own", c.Key, c.Name))
			}
		}
	}
	return errors.Join(faults...)
}

const nameRule = "a name holds only letters, digits and any of \"-_./\", at least one"

func validName(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.', c == '/':
		default:
			return false
		}
	}
	return s != ""
}
