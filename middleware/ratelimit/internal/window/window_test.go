package window_test

import (
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/herdless/herdless/middleware/ratelimit/internal/window"
)

// used returns what counts of c at now, in units.
func used(r window.Rule, c window.Count, now int64) *big.Rat {
	c = r.At(c, now)
	elapsed := now / r.Tick % r.Period
	u := big.NewRat(r.Period-elapsed, r.Period)
	u.Mul(u, new(big.Rat).SetInt64(c.Prev))
	return u.Add(u, new(big.Rat).SetInt64(c.Cur))
}

// Against rational numbers: what remains fits and no more does, and after Wait it fits
// and a microsecond earlier it does not.
func TestWindowsAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 1_000_000).Draw(t, "limit")
		ticks := rapid.Int64Range(1, int64(48*time.Hour/time.Millisecond)).Draw(t, "ticks")
		tick := rapid.SampledFrom([]int64{1_000, 1_000_000}).Draw(t, "nanoseconds")
		period := time.Duration(ticks * tick)
		r, err := window.NewRule(limit, period)
		if err != nil {
			require.Greater(t, float64(limit)*float64(period/time.Microsecond), float64(1<<51))
			return
		}
		now := int64(1_800_000_000_000_000) + rapid.Int64Range(0, 1<<40).Draw(t, "now")
		c := window.Count{
			Window: r.Window(now) - rapid.Int64Range(0, 2).Draw(t, "age"),
			Prev:   rapid.Int64Range(0, int64(limit)).Draw(t, "previous"),
			Cur:    rapid.Int64Range(0, int64(limit)).Draw(t, "present"),
		}
		c = r.At(c, now)
		left := new(big.Rat).Sub(new(big.Rat).SetInt64(int64(limit)), used(r, c, now))
		room := 0
		if left.Sign() > 0 {
			room = int(new(big.Int).Quo(left.Num(), left.Denom()).Int64())
		}
		require.Equal(t, room, r.Remaining(c, now))

		n := rapid.IntRange(0, limit+1).Draw(t, "n")
		wait := r.Wait(c, now, n)
		switch {
		case n > limit:
			require.Equal(t, time.Duration(-1), wait)
		case n <= room:
			require.Zero(t, wait)
		default:
			later := now + wait.Microseconds()
			fits := func(at int64) bool {
				sum := used(r, c, at)
				return sum.Add(sum, new(big.Rat).SetInt64(int64(n))).Cmp(new(big.Rat).SetInt64(int64(limit))) <= 0
			}
			require.Positive(t, wait)
			require.True(t, fits(later), "after %v", wait)
			require.False(t, fits(later-1), "a microsecond before %v are over", wait)
		}
		reset := now + r.Reset(c, now).Microseconds()
		require.Zero(t, used(r, c, reset).Sign())
		if reset > now {
			require.Positive(t, used(r, c, reset-1).Sign())
		}
	})
}

func TestWindowsThatCannotBe(t *testing.T) {
	for _, bad := range []struct {
		limit  int
		period time.Duration
	}{{0, time.Second}, {-1, time.Second}, {1, 0}, {1, time.Nanosecond}, {1, time.Second + time.Nanosecond}, {1_000_000_000, 24 * 365 * time.Hour}} {
		_, err := window.NewRule(bad.limit, bad.period)
		assert.Error(t, err, bad)
	}
}

func TestAClockThatGoesBackProlongsTheWindow(t *testing.T) {
	r, err := window.NewRule(10, time.Second)
	require.NoError(t, err)
	c := window.Count{Window: r.Window(5_500_000), Prev: 3, Cur: 7}
	back := r.At(c, 4_900_000)
	assert.Equal(t, window.Count{Window: 4, Prev: 3, Cur: 7}, back)
	assert.Equal(t, 2, r.Remaining(back, 4_900_000))
}
