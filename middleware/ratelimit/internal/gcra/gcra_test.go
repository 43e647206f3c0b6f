package gcra_test

import (
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/herdless/herdless/middleware/ratelimit/internal/gcra"
)

// exact returns s in microseconds.
func exact(r gcra.Rule, s gcra.Span) *big.Rat {
	sum := big.NewRat(s.Num, r.Den)
	return sum.Add(sum, new(big.Rat).SetInt64(s.Micros))
}

func TestSpansAreExactAndFitIntoADouble(t *testing.T) {
	const double = 1 << 53
	rapid.Check(t, func(t *rapid.T) {
		rate := int(rapid.Int64Range(1, gcra.MaxRate).Draw(t, "rate"))
		period := time.Duration(rapid.Int64Range(1, int64(24*365*time.Hour)).Draw(t, "period"))
		burst := int(rapid.Int64Range(0, 2*gcra.MaxRate).Draw(t, "burst"))
		r, err := gcra.NewRule(rate, period, burst)
		if burst == 0 {
			burst = rate
		}
		unit := big.NewRat(int64(period), 1000)
		unit.Quo(unit, new(big.Rat).SetInt64(int64(rate)))
		units := func(n int) *big.Rat { return new(big.Rat).Mul(unit, new(big.Rat).SetInt64(int64(n))) }

		const century = 100 * 365 * 24 * 3600 * 1_000_000
		tooSlow := units(burst).Cmp(big.NewRat(century+1, 1)) >= 0
		require.Equal(t, tooSlow, err != nil, "a rule is refused if, and only if, its burst takes more than 100 years: %v", err)
		if tooSlow {
			return
		}
		a := rapid.IntRange(0, burst).Draw(t, "a")
		b := rapid.IntRange(0, burst-a).Draw(t, "b")

		sum := r.Add(r.Cost(a), r.Cost(b))
		assert.Zero(t, exact(r, sum).Cmp(units(a+b)), "Cost(a) + Cost(b)")
		assert.Zero(t, exact(r, r.Capacity).Cmp(units(burst)), "Capacity")
		assert.Equal(t, r.Cost(a+b), sum, "spans are in lowest form")
		assert.Equal(t, burst-a, r.Remaining(r.Cost(a)))
		assert.Zero(t, r.Wait(r.Cost(a), b), "a + b fit")
		if burst-a > b {
			assert.Zero(t, r.Wait(r.Cost(a), b+1), "a + b + 1 fit")
		}
		assert.True(t, r.Capacity.Less(r.Cost(burst+1)), "more than the burst does not fit")

		const year2155 = 185 * 365 * 24 * 3600 * 1_000_000
		tat := r.Add(r.Capacity, gcra.Span{Micros: year2155})
		assert.Less(t, tat.Micros, int64(double))
		assert.Less(t, 2*r.Den, int64(double))
		assert.Less(t, sum.Num, r.Den)
	})
}

func TestWaitIsRoundedUp(t *testing.T) {
	r, err := gcra.NewRule(7, time.Minute, 0)
	require.NoError(t, err)
	assert.Equal(t, 8_571_429*time.Microsecond, r.Wait(r.Capacity, 1)) // 8,571,428 4/7
	assert.Equal(t, time.Minute, r.Wait(r.Capacity, 7))
	assert.Equal(t, time.Duration(-1), r.Wait(gcra.Span{}, 8))
}

func TestDebt(t *testing.T) {
	r, err := gcra.NewRule(7, time.Second, 0)
	require.NoError(t, err)
	require.EqualValues(t, 7, r.Den)
	tests := []struct {
		name string
		tat  gcra.Span
		den  int64
		want gcra.Span
	}{
		{"long ago", gcra.Span{Micros: 10}, 7, gcra.Span{}},
		{"less than a microsecond ago", gcra.Span{Micros: 99, Num: 6}, 7, gcra.Span{}},
		{"now", gcra.Span{Micros: 100}, 7, gcra.Span{}},
		{"in less than a microsecond", gcra.Span{Micros: 100, Num: 3}, 7, gcra.Span{Num: 3}},
		{"of another rate", gcra.Span{Micros: 100, Num: 3}, 11, gcra.Span{Micros: 1}},
		{"of another rate, whole", gcra.Span{Micros: 105}, 11, gcra.Span{Micros: 5}},
		{"the capacity", gcra.Span{Micros: 1_000_100}, 7, gcra.Span{Micros: 1_000_000}},
		{"more than the capacity", gcra.Span{Micros: 1_000_100, Num: 1}, 7, gcra.Span{Micros: 1_000_000}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			debt, mended := r.Debt(tt.tat, tt.den, 100)
			assert.Equal(t, tt.want, debt)
			assert.Equal(t, tt.name == "more than the capacity", mended)
		})
	}
}

func TestFaults(t *testing.T) {
	_, err := gcra.NewRule(0, -time.Second, -1)
	require.Error(t, err)
	for _, want := range []string{"rate is 0", "period is -1s", "burst is -1"} {
		assert.ErrorContains(t, err, want)
	}
	_, err = gcra.NewRule(1, 1<<63-1, 1<<40)
	assert.ErrorContains(t, err, "100 years")
	_, err = gcra.NewRule(1, 24*365*time.Hour, 101)
	assert.ErrorContains(t, err, "100 years")
	_, err = gcra.NewRule(1, 24*365*time.Hour, 100)
	assert.NoError(t, err)
	_, err = gcra.NewRule(gcra.MaxRate+1, time.Second, 0)
	assert.ErrorContains(t, err, "between 1 and")
}
