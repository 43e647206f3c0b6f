package ratelimit_test

import (
	"fmt"
	"math/big"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/herdless/herdless/middleware/ratelimit"
	"github.com/herdless/herdless/middleware/ratelimit/ratelimittest"
)

func TestMemoryStore(t *testing.T) {
	ratelimittest.Run(t, func(*testing.T) ratelimit.Store { return ratelimit.NewMemoryStore() })
}

func TestMemoryPermitStore(t *testing.T) {
	ratelimittest.RunPermits(t, func(*testing.T) ratelimit.PermitStore { return ratelimit.NewMemoryStore() })
}

// The limits of the model, by key: some divide the period, most do not.
var modelLimits = []ratelimit.Limit{
	ratelimit.PerMinute(7),
	{Rate: 3, Period: time.Second, Burst: 5},
	{Rate: 1, Period: time.Second, Burst: 1},
	{Rate: 1_000_000, Period: time.Second, Burst: 3},
	{Rate: 11, Period: 13 * time.Nanosecond, Burst: 4},
	{Rate: 999_983, Period: 24 * time.Hour, Burst: 10},
}

// model is GCRA in rational numbers: for each key, what it owes in units.
type model struct {
	owed []*big.Rat
	now  time.Duration
}

// unitsIn returns how many units come back in d.
func unitsIn(l ratelimit.Limit, d time.Duration) *big.Rat {
	return new(big.Rat).Mul(big.NewRat(int64(l.Rate), int64(l.Period)), new(big.Rat).SetInt64(int64(d)))
}

func burst(l ratelimit.Limit) int {
	if l.Burst == 0 {
		return l.Rate
	}
	return l.Burst
}

func (m *model) wait(d time.Duration) {
	m.now += d
	for k, owed := range m.owed {
		if owed.Sub(owed, unitsIn(modelLimits[k], d)); owed.Sign() < 0 {
			owed.SetInt64(0)
		}
	}
}

func (m *model) fits(k, n int) bool {
	sum := new(big.Rat).Add(m.owed[k], new(big.Rat).SetInt64(int64(n)))
	return sum.Cmp(new(big.Rat).SetInt64(int64(burst(modelLimits[k])))) <= 0
}

func (m *model) remaining(k int) int {
	left := new(big.Rat).Sub(new(big.Rat).SetInt64(int64(burst(modelLimits[k]))), m.owed[k])
	return int(new(big.Int).Quo(left.Num(), left.Denom()).Int64())
}

// micros returns how long units take to come back, rounded up to microseconds.
func micros(l ratelimit.Limit, units *big.Rat) time.Duration {
	if units.Sign() <= 0 {
		return 0
	}
	d := new(big.Rat).Mul(units, big.NewRat(int64(l.Period), 1000*int64(l.Rate)))
	up := new(big.Int).Add(d.Num(), new(big.Int).Sub(d.Denom(), big.NewInt(1)))
	return time.Duration(up.Quo(up, d.Denom()).Int64()) * time.Microsecond
}

func (m *model) retryAfter(k, n int) time.Duration {
	if n > burst(modelLimits[k]) {
		return -1
	}
	missing := new(big.Rat).Add(m.owed[k], new(big.Rat).SetInt64(int64(n-burst(modelLimits[k]))))
	return micros(modelLimits[k], missing)
}

func TestMemoryStoreAgainstAModel(t *testing.T) {
	type admission struct {
		at time.Duration
		n  int
	}
	rapid.Check(t, func(r *rapid.T) {
		synctest.Test(t, func(t *testing.T) {
			store := ratelimit.NewMemoryStore()
			m := &model{}
			for range modelLimits {
				m.owed = append(m.owed, new(big.Rat))
			}
			admitted := make([][]admission, len(modelLimits))
			lastWait := time.Duration(0)

			sleep := func(d time.Duration) {
				time.Sleep(d)
				m.wait(d)
			}
			r.Repeat(map[string]func(*rapid.T){
				"take": func(r *rapid.T) {
					keys := rapid.SliceOfNDistinct(rapid.IntRange(0, len(modelLimits)-1), 1, 3, rapid.ID).Draw(r, "keys")
					n := rapid.IntRange(0, 8).Draw(r, "n")
					req, want := ratelimit.Request{}, true
					var fit []bool
					for _, k := range keys {
						req.Checks = append(req.Checks, ratelimit.Check{Key: fmt.Sprint(k), Name: "limit", Limit: modelLimits[k], N: n})
						fit = append(fit, m.fits(k, n))
						want = want && (n == 0 || m.fits(k, n))
					}
					d, err := store.Take(t.Context(), req)
					if err != nil || d.Allowed != want {
						r.Fatalf("Take(%v) = %+v, %v, want allowed: %v", req, d, err, want)
					}
					for i, k := range keys {
						if d.Allowed {
							m.owed[k].Add(m.owed[k], new(big.Rat).SetInt64(int64(n)))
							admitted[k] = append(admitted[k], admission{m.now, n})
						}
						next := max(0, m.retryAfter(k, m.remaining(k)+1))
						want := ratelimit.CheckState{
							Over:       n > 0 && !fit[i],
							NextAfter:  next,
							Remaining:  m.remaining(k),
							RetryAfter: m.retryAfter(k, n),
							ResetAfter: micros(modelLimits[k], m.owed[k]),
						}
						if d.States[i] != want {
							r.Fatalf("Take(%v).States[%d] = %+v, want %+v", req, i, d.States[i], want)
						}
						lastWait = max(lastWait, d.States[i].RetryAfter)
					}
				},
				"reset": func(r *rapid.T) {
					k := rapid.IntRange(0, len(modelLimits)-1).Draw(r, "key")
					if err := store.Reset(t.Context(), fmt.Sprint(k), "limit"); err != nil {
						r.Fatal(err)
					}
					m.owed[k], admitted[k] = new(big.Rat), nil
				},
				"wait": func(r *rapid.T) {
					sleep(time.Duration(rapid.IntRange(0, 3_000_000).Draw(r, "micros")) * time.Microsecond)
				},
				"wait just long enough": func(r *rapid.T) {
					sleep(lastWait)
					lastWait = 0
				},
				"wait a microsecond too short": func(r *rapid.T) {
					sleep(max(0, lastWait-time.Microsecond))
					lastWait = min(lastWait, time.Microsecond)
				},
				"": func(r *rapid.T) {
					// Without the model: over any window, at most burst + rate × elapsed.
					for k, list := range admitted {
						for i := range list {
							sum := new(big.Rat)
							for _, a := range list[i:] {
								sum.Add(sum, new(big.Rat).SetInt64(int64(a.n)))
								most := unitsIn(modelLimits[k], a.at-list[i].at)
								most.Add(most, new(big.Rat).SetInt64(int64(burst(modelLimits[k]))))
								if sum.Cmp(most) > 0 {
									r.Fatalf("key %d: %v units admitted between %v and %v, want at most %v",
										k, sum, list[i].at, a.at, most)
								}
							}
						}
					}
				},
			})
		})
	})
}

// A store that forgot a key too early or too late would show here as one more
// or one fewer: a client that always comes back exactly at RetryAfter.
func TestAPatientClientGetsExactlyTheRate(t *testing.T) {
	for _, limit := range []ratelimit.Limit{
		ratelimit.PerMinute(7),
		ratelimit.PerSecond(3),
		{Rate: 999_983, Period: 24 * time.Hour, Burst: 1},
	} {
		t.Run(limit.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := ratelimit.NewMemoryStore()
				begin := time.Now()
				admitted := 0
				for time.Since(begin) < 10*limit.Period {
					d, err := store.Take(t.Context(), ratelimit.Request{
						Checks: []ratelimit.Check{{Key: "k", Name: "limit", Limit: limit, N: 1}},
					})
					require.NoError(t, err)
					if d.Allowed {
						admitted++
					}
					time.Sleep(d.States[0].RetryAfter)
					if admitted > 100_000 {
						break
					}
				}
				elapsed := time.Since(begin)
				most := float64(burst(limit)) + float64(limit.Rate)*elapsed.Seconds()/limit.Period.Seconds()
				require.LessOrEqual(t, float64(admitted), most)
				// Each return is up to a microsecond late, because RetryAfter is rounded up.
				late := float64(limit.Rate) / float64(limit.Period.Microseconds())
				require.GreaterOrEqual(t, float64(admitted), most*(1-late)-2)
			})
		})
	}
}

func TestTheMemoryStoreForgetsFullKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := ratelimit.NewMemoryStore()
		for i := range 10_000 {
			_, err := store.Take(t.Context(), ratelimit.Request{
				Checks: []ratelimit.Check{{Key: fmt.Sprint(i), Name: "limit", Limit: ratelimit.PerSecond(1), N: 1}},
			})
			require.NoError(t, err)
			time.Sleep(time.Millisecond)
		}
		require.LessOrEqual(t, ratelimit.Len(store), 1_001, "10,000 keys, one a millisecond, each full after a second")
	})
}

// What was taken in the window before counts as well when a window gets another length.
func TestAWindowOfAnotherLength(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := ratelimit.NewMemoryStore()
		take := func(n int, period time.Duration) ratelimit.CheckState {
			d, err := store.Take(t.Context(), ratelimit.Request{Checks: []ratelimit.Check{
				{Key: "k", Name: "limit", Limit: ratelimit.Window(10, period), N: n},
			}})
			require.NoError(t, err)
			require.True(t, d.Allowed)
			return d.States[0]
		}
		time.Sleep(take(3, time.Hour).ResetAfter - time.Hour) // until the next window
		take(2, time.Hour)
		assert.Equal(t, 5, take(0, 2*time.Hour).Remaining)
	})
}
