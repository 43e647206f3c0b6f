// Package gcra holds the arithmetic of the generic cell rate algorithm, which
// the stores share.
//
// For each key a store keeps one instant, the theoretical arrival time (TAT):
// the instant at which everything that was taken is given back. The distance
// from now to it is the debt. One unit costs Period/Rate of debt, and a request
// has room if the debt afterwards is not more than Burst units cost.
// (ITU-T I.371; the form with a single instant is Brandur Leach's,
// https://brandur.org/rate-limiting.)
//
// Period/Rate is rarely a whole number of anything: 7 a minute are 8571428 and
// 4/7 microseconds each. Rounding it would let a client slowly gain or lose
// units, and a binary fraction does not hold it either. So a span is kept as
// whole microseconds and a numerator over a denominator that belongs to the
// limit, and is only ever added and compared: exact, and within the 53 bits
// that Lua's numbers have. What needs multiplication or division (what n units
// cost, how many are left) is done here, in Go, in 128 bits.
package gcra

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"time"
)

// MaxRate is the largest rate: its thousandfold, the largest denominator, and
// the sum of two numerators below that stay within 53 bits.
const MaxRate = 1_000_000_000_000

// maxCapacity bounds how long a spent burst may take to come back. With it an
// instant in microseconds stays within 53 bits until the year 2155, and a span
// within a time.Duration.
const maxCapacity = 100 * 365 * 24 * time.Hour

// A Span is a non-negative length of time: Micros + Num/Den microseconds, where
// Den is its Rule's and Num < Den.
type Span struct{ Micros, Num int64 }

// Less reports whether s is shorter than t, which has the same denominator.
func (s Span) Less(t Span) bool {
	return s.Micros < t.Micros || s.Micros == t.Micros && s.Num < t.Num
}

// A Rule is a limit, ready to calculate with.
type Rule struct {
	// Den is the denominator of the rule's spans.
	Den int64
	// Capacity is the largest debt: what a whole burst costs.
	Capacity Span

	unit  int64 // what one unit costs, in microseconds / Den
	burst int
}

// NewRule returns the rule of rate units per period and burst at once, or rate
// at once if burst is zero. It reports all that is wrong with them.
func NewRule(rate int, period time.Duration, burst int) (Rule, error) {
	var faults []string
	if rate < 1 || int64(rate) > MaxRate {
		faults = append(faults, fmt.Sprintf("the rate is %d, but must be between 1 and %d", rate, int64(MaxRate)))
	}
	if period <= 0 {
		faults = append(faults, fmt.Sprintf("the period is %v, but must be positive", period))
	}
	if burst < 0 {
		faults = append(faults, fmt.Sprintf("the burst is %d, but must be positive, or zero for as many as the rate", burst))
	}
	if len(faults) > 0 {
		return Rule{}, errors.New(strings.Join(faults, "; "))
	}
	if burst == 0 {
		burst = rate
	}

	// One unit costs period/rate nanoseconds = period/(1000*rate) microseconds.
	unit, den := int64(period), 1000*int64(rate)
	divisor := gcd(unit, den)
	r := Rule{unit: unit / divisor, Den: den / divisor, burst: burst}
	hi, lo := bits.Mul64(uint64(burst), uint64(r.unit))
	if hi >= uint64(r.Den) {
		return Rule{}, tooSlow(burst)
	}
	micros, num := bits.Div64(hi, lo, uint64(r.Den))
	if micros > uint64(maxCapacity/time.Microsecond) {
		return Rule{}, tooSlow(burst)
	}
	r.Capacity = Span{Micros: int64(micros), Num: int64(num)}
	return r, nil
}

func tooSlow(burst int) error {
	return fmt.Errorf("a burst of %d takes more than 100 years to come back at this rate: "+
		"lower the burst, or raise the rate", burst)
}

// Burst returns how many units can be taken at once.
func (r Rule) Burst() int { return r.burst }

// Debt returns how far the instant tat, whose denominator is den, is ahead of
// now, and whether that would be more than the capacity: then the store has to keep
// what is returned in place of it. A store's script does the same; see there for
// why, and for the two roundings.
func (r Rule) Debt(tat Span, den, now int64) (debt Span, mended bool) {
	debt = Span{Micros: tat.Micros - now, Num: tat.Num}
	if den != r.Den && debt.Num > 0 {
		debt = Span{Micros: debt.Micros + 1}
	}
	switch {
	case debt.Micros < 0:
		return Span{}, false
	case r.Capacity.Less(debt):
		return r.Capacity, true
	default:
		return debt, false
	}
}

// Cost returns what n units cost. More than the burst cost more than the
// capacity; how much more is left open.
func (r Rule) Cost(n int) Span {
	if n > r.burst {
		return Span{Micros: r.Capacity.Micros + 1, Num: r.Capacity.Num}
	}
	hi, lo := bits.Mul64(uint64(n), uint64(r.unit))
	micros, num := bits.Div64(hi, lo, uint64(r.Den)) // fits, as it does for the burst
	return Span{Micros: int64(micros), Num: int64(num)}
}

// Add returns the sum of a and b.
func (r Rule) Add(a, b Span) Span {
	sum := Span{Micros: a.Micros + b.Micros, Num: a.Num + b.Num}
	if sum.Num >= r.Den {
		sum.Micros++
		sum.Num -= r.Den
	}
	return sum
}

// Remaining returns how many whole units fit on top of debt, which is not more
// than the capacity.
func (r Rule) Remaining(debt Span) int {
	free := r.sub(r.Capacity, debt)
	hi, lo := bits.Mul64(uint64(free.Micros), uint64(r.Den))
	lo, carry := bits.Add64(lo, uint64(free.Num), 0)
	n, _ := bits.Div64(hi+carry, lo, uint64(r.unit)) // fits: it is not more than the burst
	return int(n)
}

// Wait returns how long it takes until a debt has room for n more units, to the
// microsecond, rounded up: zero if it has room now, -1 if it never will.
func (r Rule) Wait(debt Span, n int) time.Duration {
	if n > r.burst {
		return -1
	}
	after := r.Add(debt, r.Cost(n))
	if !r.Capacity.Less(after) {
		return 0
	}
	return Ceil(r.sub(after, r.Capacity))
}

// sub returns a - b, where b is not longer than a.
func (r Rule) sub(a, b Span) Span {
	d := Span{Micros: a.Micros - b.Micros, Num: a.Num - b.Num}
	if d.Num < 0 {
		d.Micros--
		d.Num += r.Den
	}
	return d
}

// Ceil returns s as a Duration, rounded up to a whole microsecond.
func Ceil(s Span) time.Duration {
	micros := s.Micros
	if s.Num > 0 {
		micros++
	}
	return time.Duration(micros) * time.Microsecond
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
