// Package window holds the arithmetic of the sliding-window counter, which the
// stores share.
//
// Time is cut into windows as long as the limit's period, on the store's clock.
// For each key a store keeps what was taken in the present window and in the one
// before. The previous window counts in proportion to how much of it the last
// period still covers, as if what was taken had been spread evenly in it. (The
// method is Cloudflare's, https://blog.cloudflare.com/counting-things-a-lot-of-different-things/.)
//
// Everything is multiplied by the period instead of divided, in whole numbers
// that stay within the 53 bits which Lua's numbers have.
package window

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// maxProduct bounds limit × period, so that the sum of three such products stays
// within 53 bits.
const maxProduct = 1 << 51

// A Rule is a limit, ready to calculate with.
type Rule struct {
	// Limit is how many units a window has.
	Limit int64
	// Period is how long a window is, in ticks.
	Period int64
	// Tick is how many microseconds a tick is.
	Tick int64
}

// Count is what was taken of a key.
type Count struct {
	Window    int64 // the number of the window: ticks since the clock's zero / Period
	Prev, Cur int64 // in the window before, and in this one
}

// NewRule returns the rule of limit units per period. It reports all that is
// wrong with them.
func NewRule(limit int, period time.Duration) (Rule, error) {
	var faults []string
	if limit < 1 {
		faults = append(faults, fmt.Sprintf("the rate is %d, but must be positive", limit))
	}
	if period < time.Microsecond {
		faults = append(faults, fmt.Sprintf("the period is %v, but must be a microsecond at least", period))
	}
	if len(faults) > 0 {
		return Rule{}, errors.New(strings.Join(faults, "; "))
	}
	for _, tick := range []time.Duration{time.Microsecond, time.Millisecond} {
		ticks := int64(period / tick)
		if period%tick == 0 && int64(limit) <= maxProduct/ticks {
			return Rule{Limit: int64(limit), Period: ticks, Tick: int64(tick / time.Microsecond)}, nil
		}
	}
	return Rule{}, fmt.Errorf("a window of %v for %d units cannot be counted exactly: "+
		"take a period of whole milliseconds, a smaller rate, or a limit that is no window", period, limit)
}

// At returns c as it is at now, in microseconds: older windows end, and more than
// a window holds, after the limit was lowered, counts as a full one. A clock that
// went back prolongs the present window.
func (r Rule) At(c Count, now int64) Count {
	window := r.Window(now)
	switch age := window - c.Window; {
	case age == 1:
		c.Prev, c.Cur = c.Cur, 0
	case age > 1:
		c.Prev, c.Cur = 0, 0
	}
	return Count{Window: window, Prev: min(c.Prev, r.Limit), Cur: min(c.Cur, r.Limit)}
}

// Window returns the number of the window in which now lies.
func (r Rule) Window(now int64) int64 { return now / r.Tick / r.Period }

// elapsed returns how much of the window is over at now, in ticks.
func (r Rule) elapsed(now int64) int64 { return now / r.Tick % r.Period }

// used returns what counts at now, multiplied by the period.
func (r Rule) used(c Count, now int64) int64 {
	return c.Prev*(r.Period-r.elapsed(now)) + c.Cur*r.Period
}

// Remaining returns how many units there is room for.
func (r Rule) Remaining(c Count, now int64) int {
	return int(max(0, r.Limit*r.Period-r.used(c, now)) / r.Period)
}

// Wait returns how long it takes until there is room for n more units, to the
// microsecond: zero if there is now, -1 if there never will be.
func (r Rule) Wait(c Count, now int64, n int) time.Duration {
	e, units := r.elapsed(now), int64(n)
	switch {
	case units > r.Limit:
		return -1
	case units == 0, r.used(c, now)+units*r.Period <= r.Limit*r.Period:
		return 0
	}
	// When the count of the previous window has shrunk enough, or else that of
	// this one, once it is the previous one.
	shrinks, room, until := c.Prev, r.Limit-c.Cur-units, -e
	if room < 0 {
		shrinks, room, until = c.Cur, r.Limit-units, r.Period-e
	}
	until += max(0, r.Period-room*r.Period/shrinks)
	return time.Duration(until*r.Tick-now%r.Tick) * time.Microsecond
}

// Reset returns how long it takes until nothing counts any more.
func (r Rule) Reset(c Count, now int64) time.Duration {
	ends := int64(0)
	if c.Prev > 0 {
		ends = r.Period
	}
	if c.Cur > 0 {
		ends = 2 * r.Period
	}
	if ends == 0 {
		return 0
	}
	return time.Duration((ends-r.elapsed(now))*r.Tick-now%r.Tick) * time.Microsecond
}
