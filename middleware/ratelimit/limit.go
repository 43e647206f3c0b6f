package ratelimit

import (
	"errors"
	"fmt"
	"time"

	"github.com/herdless/herdless/middleware/ratelimit/internal/gcra"
)

// Limit is how much a key may use: Rate units per Period, evenly spread, and
// Burst at once. What was taken comes back continuously, a unit every
// Period/Rate, so there is no window at whose edge a client could take twice:
// in any stretch of time, at most Burst plus Rate for every Period of it are
// admitted.
type Limit struct {
	// Rate is how many units come back per Period, from 1 to 10^12.
	Rate int
	// Period is the time that Rate refers to. It must be positive.
	Period time.Duration
	// Burst is how many units can be taken at once by a client that has taken
	// nothing for a while. Zero means as many as Rate.
	Burst int
}

// PerSecond is a Limit of n per second, all n at once.
func PerSecond(n int) Limit { return Limit{Rate: n, Period: time.Second} }

// PerMinute is a Limit of n per minute, all n at once.
func PerMinute(n int) Limit { return Limit{Rate: n, Period: time.Minute} }

// PerHour is a Limit of n per hour, all n at once.
func PerHour(n int) Limit { return Limit{Rate: n, Period: time.Hour} }

func (l Limit) rule() (gcra.Rule, error) {
	return gcra.NewRule(l.Rate, l.Period, l.Burst)
}

// String returns the limit as "100/1m0s" or, if it has a burst, "100/1m0s/20".
func (l Limit) String() string {
	s := fmt.Sprintf("%d/%v", l.Rate, l.Period)
	if l.Burst != 0 {
		s += fmt.Sprintf("/%d", l.Burst)
	}
	return s
}

// Validate reports everything that is wrong with the request, for stores: no
// checks, two checks with one key, a limit that cannot be, a negative N.
func (r Request) Validate() error {
	var faults []error
	if len(r.Checks) == 0 {
		faults = append(faults, errors.New("ratelimit: a request needs at least one check"))
	}
	if r.N < 0 {
		faults = append(faults, fmt.Errorf("ratelimit: cannot take %d units", r.N))
	}
	for i, c := range r.Checks {
		if _, err := c.Limit.rule(); err != nil {
			faults = append(faults, fmt.Errorf("ratelimit: limit of key %q: %w", c.Key, err))
		}
		for _, other := range r.Checks[:i] {
			if other.Key == c.Key {
				faults = append(faults, fmt.Errorf("ratelimit: two checks of one request have the key %q: "+
					"give each limit keys of its own", c.Key))
			}
		}
	}
	return errors.Join(faults...)
}
