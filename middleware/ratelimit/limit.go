package ratelimit

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"time"

	"github.com/herdless/herdless/middleware/ratelimit/internal/gcra"
	"github.com/herdless/herdless/middleware/ratelimit/internal/window"
)

// Limit is how much a key may use: Rate units per Period.
//
// By default they are evenly spread, with Burst at once (GCRA). What was taken
// comes back continuously, a unit every Period/Rate, so there is no window at
// whose edge a client could take twice: in any stretch of time, at most Burst
// plus Rate for every Period of it are admitted.
type Limit struct {
	// Rate is how many units come back per Period, from 1 to 10^12.
	Rate int
	// Period is the time that Rate refers to. It must be positive.
	Period time.Duration
	// Burst is how many units can be taken at once by a client that has taken
	// nothing for a while. Zero means as many as Rate.
	Burst int
	// Sliding makes it a sliding-window counter, see [Window]. There is no Burst
	// then, and Period is a whole number of microseconds; of milliseconds, if
	// Rate × Period is more than 2^51 microseconds.
	Sliding bool
}

// PerSecond is a Limit of n per second, all n at once.
func PerSecond(n int) Limit { return Limit{Rate: n, Period: time.Second} }

// PerMinute is a Limit of n per minute, all n at once.
func PerMinute(n int) Limit { return Limit{Rate: n, Period: time.Minute} }

// PerHour is a Limit of n per hour, all n at once.
func PerHour(n int) Limit { return Limit{Rate: n, Period: time.Hour} }

// Window is a Limit of n in a sliding window of the given length. Time is cut
// into windows on the store's clock; what was taken in the present one counts
// whole, and what was taken in the one before in proportion to how much of it
// the last period still covers. After a burst nothing comes back before the
// window ends, where the default gives back a unit every period/n. What is
// promised is the same: in any stretch of time, at most n plus n for every period
// of it.
func Window(n int, period time.Duration) Limit {
	return Limit{Rate: n, Period: period, Sliding: true}
}

// burst returns how many units can be taken at once.
func (l Limit) burst() int {
	if l.Burst == 0 {
		return l.Rate
	}
	return l.Burst
}

// window returns the time in which as many units come back as can be taken at
// once: exactly, since tiers are told apart by it.
func (l Limit) window() time.Duration {
	hi, lo := bits.Mul64(uint64(l.Period), uint64(l.burst()))
	ns, _ := bits.Div64(hi, lo, uint64(l.Rate)) // fits: a valid limit is full again within 100 years
	return time.Duration(ns)
}

// validate says what is wrong with the limit.
func (l Limit) validate() error {
	if l.Sliding {
		_, err := window.NewRule(l.Rate, l.Period)
		if l.Burst != 0 {
			err = errors.Join(err, errors.New("a sliding window has no burst"))
		}
		return err
	}
	_, err := gcra.NewRule(l.Rate, l.Period, l.Burst)
	return err
}

// String returns the limit as "100/1m0s", with a burst as "100/1m0s/20", and a
// sliding window as "100/1m0s/window".
func (l Limit) String() string {
	s := fmt.Sprintf("%d/%s", l.Rate, length(l.Period))
	if l.Burst != 0 {
		s += fmt.Sprintf("/%d", l.Burst)
	}
	if l.Sliding {
		s += "/window"
	}
	return s
}

// length returns d as names can hold it.
func length(d time.Duration) string { return strings.ReplaceAll(d.String(), "µ", "u") }
