package redislimit_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/middleware/ratelimit"
	"github.com/herdless/herdless/middleware/ratelimit/internal/gcra"
	"github.com/herdless/herdless/middleware/ratelimit/internal/window"
	"github.com/herdless/herdless/middleware/ratelimit/redislimit"
)

// testScript returns a script with a clock that the test sets, by two more
// ARGV, and with keys that outlive the test: the debts under test are over
// sooner than real time passes.
func testScript(t *testing.T, src string, ttls ...string) *redis.Script {
	replacements := map[string]string{"redis.call('TIME')": "{ ARGV[#ARGV - 1], ARGV[#ARGV] }"}
	for _, ttl := range ttls {
		replacements[ttl] = "600000)"
	}
	for old, replacement := range replacements {
		require.Equal(t, 1, strings.Count(src, old), "the script has changed, adapt this test")
		src = strings.Replace(src, old, replacement, 1)
	}
	return redis.NewScript(src)
}

// scriptRule is a limit of the model: one of the two.
type scriptRule struct {
	spread  gcra.Rule
	sliding window.Rule
}

func (r scriptRule) slides() bool { return r.sliding.Limit > 0 }

// scriptKey is what the model keeps of a key.
type scriptKey struct {
	at     gcra.Span
	den    int64
	count  window.Count
	micros int64 // of the window
}

// standing is how a check stands in the model.
type standing struct {
	rule  scriptRule
	now   int64
	debt  gcra.Span
	count window.Count
	// mended says that it is to be kept although nothing is taken.
	mended bool
}

func (s *standing) key() scriptKey {
	return scriptKey{
		at: s.rule.spread.Add(s.debt, gcra.Span{Micros: s.now}), den: s.rule.spread.Den,
		count: s.count, micros: s.rule.sliding.Period * s.rule.sliding.Tick,
	}
}

func (s *standing) fits(n int) bool {
	if s.rule.slides() {
		return s.rule.sliding.Wait(s.count, s.now, n) == 0
	}
	return s.rule.spread.Wait(s.debt, n) == 0
}

func (s *standing) take(n int) {
	if s.rule.slides() {
		s.count.Cur += int64(n)
	} else {
		s.debt = s.rule.spread.Add(s.debt, s.rule.spread.Cost(n))
	}
}

// The script calculates in Lua's doubles what packages gcra and window do in
// integers; to the last fraction of a microsecond, also when the limit of a key
// changes.
func TestTheScriptIsExact(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	take := testScript(t, redislimit.TakeSource,
		"math.ceil(a / 1000) + 1)", "math.ceil((2 * l.period - l.elapsed) * l.tick / 1000) + 1)")
	takeOne := testScript(t, redislimit.OneSource, "(debt + -debt % 1000) / 1000 + 1)")
	spread := func(rate int, period time.Duration, burst int) scriptRule {
		r, err := gcra.NewRule(rate, period, burst)
		require.NoError(t, err)
		return scriptRule{spread: r}
	}
	sliding := func(rate int, period time.Duration) scriptRule {
		r, err := window.NewRule(rate, period)
		require.NoError(t, err)
		return scriptRule{sliding: r}
	}
	rules := [][]scriptRule{{
		spread(7, time.Minute, 0),
		spread(3, time.Second, 5),
		spread(1_000_000, time.Second, 10),
		spread(11, 13*time.Nanosecond, 4),
		spread(1, time.Nanosecond, 1_000_000),
		spread(999_983, 24*time.Hour, 0),
		spread(999_999_999_989, 99*365*24*time.Hour+time.Nanosecond, 0),
	}, {
		sliding(7, time.Second),
		sliding(3, 2*time.Microsecond),
		sliding(30, 10*time.Second),
		sliding(1_000_000, 24*time.Hour), // in milliseconds
		sliding(2_000_000_000, time.Second),
	}}
	rapid.Check(t, func(r *rapid.T) {
		prefix := redistest.Prefix(t)
		now := int64(1_800_000_000_000_000) + rapid.Int64Range(0, 1<<40).Draw(r, "now")
		model := map[string]scriptKey{}
		r.Repeat(map[string]func(*rapid.T){
			"take": func(r *rapid.T) {
				n := rapid.IntRange(0, 12).Draw(r, "n")
				steps := redislimit.Steps(rapid.SampledFrom([]int{0, 0, 1, 2, 5, 30}).Draw(r, "extra"))
				names := rapid.SliceOfNDistinct(rapid.IntRange(0, 7), 1, 3, rapid.ID).Draw(r, "keys")
				keys := make([]string, len(names))
				standings, over, shadow := make([]standing, len(names)), make([]bool, len(names)), make([]bool, len(names))
				args := []any{len(steps)}
				for _, size := range steps {
					args = append(args, size)
				}
				want := []int64{1, 0}
				for i, name := range names {
					keys[i] = fmt.Sprint(prefix, name)
					rule := rapid.SampledFrom(rules[name%2]).Draw(r, "rule") // a key does not change its kind
					shadow[i] = rapid.IntRange(0, 3).Draw(r, "shadow") == 0
					s := standing{rule: rule, now: now}
					held, ok := model[keys[i]]
					if w := rule.sliding; rule.slides() {
						args = append(args, "w", btoi(shadow[i]), w.Limit, w.Period, w.Tick, n)
						for _, size := range steps {
							args = append(args, size)
						}
						if ok && held.micros != w.Period*w.Tick {
							held.count, s.mended = window.Count{Window: w.Window(now), Cur: held.count.Prev + held.count.Cur}, true
						}
						s.mended = s.mended || held.count.Window > w.Window(now)
						s.count = w.At(held.count, now)
						if !ok {
							s.count = window.Count{Window: w.Window(now)}
						}
					} else {
						cost := rule.spread.Cost(n)
						args = append(args, "g", btoi(shadow[i]), rule.spread.Capacity.Micros, rule.spread.Capacity.Num, rule.spread.Den, cost.Micros, cost.Num)
						for _, size := range steps {
							cost := rule.spread.Cost(size)
							args = append(args, cost.Micros, cost.Num)
						}
						if ok {
							s.debt, s.mended = rule.spread.Debt(held.at, held.den, now)
						}
					}
					if s.mended {
						model[keys[i]] = s.key()
					}
					standings[i] = s
					over[i] = !s.fits(n)
					if over[i] && !shadow[i] {
						want[0] = 0
					}
				}
				takes := func(i, n int) { // if it fits
					if s := &standings[i]; want[0] == 1 && !over[i] && n > 0 && s.fits(n) {
						s.take(n)
						model[keys[i]] = s.key()
					}
				}
				for i := range keys {
					takes(i, n)
				}
				for _, size := range steps {
					fits := want[0] == 1
					for i := range keys {
						fits = fits && (shadow[i] || standings[i].fits(size))
					}
					if fits {
						want[1] += int64(size)
						for i := range keys {
							takes(i, size)
						}
					}
				}
				for i, s := range standings {
					if s.rule.slides() {
						want = append(want, int64(btoi(over[i])), s.count.Prev, s.count.Cur, now)
					} else {
						want = append(want, int64(btoi(over[i])), s.debt.Micros, s.debt.Num, 0)
					}
				}
				script, numbers := take, redislimit.Numbers
				if len(keys) == 1 && len(steps) == 0 && !standings[0].rule.slides() && rapid.Bool().Draw(r, "one") {
					spread := standings[0].rule.spread
					script, numbers, args = takeOne, redislimit.Owed, []any{redislimit.Asked(spread, spread.Cost(n))}
					want = want[2:5] // whether shadow matters is not the script's to say
				}
				args = append(args, now/1_000_000, now%1_000_000)
				value, err := script.Run(t.Context(), rdb, keys, args...).Result()
				require.NoError(r, err)
				got, err := numbers(value, nil)
				if err != nil || !slices.Equal(got, want) {
					r.Fatalf("at %d, %d units of %v, %v:\ngot  %v, %v\nwant %v", now, n, keys, args, got, err, want)
				}
			},
			"a moment": func(r *rapid.T) { now += rapid.Int64Range(0, 3).Draw(r, "micros") },
			"a while":  func(r *rapid.T) { now += rapid.Int64Range(0, 10_000_000).Draw(r, "micros") },
			"clock goes back": func(r *rapid.T) {
				now -= rapid.Int64Range(0, 10_000_000).Draw(r, "micros")
			},
		})
	})
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Every number up to n is the sum of the steps that fit into it, the largest
// first.
func TestSteps(t *testing.T) {
	for n := range 300 {
		steps := redislimit.Steps(n)
		for want := range n + 1 {
			sum := 0
			for _, size := range steps {
				if sum+size <= want {
					sum += size
				}
			}
			require.Equal(t, want, sum, "of %d in %v", n, steps)
		}
	}
	require.Empty(t, redislimit.Steps(0))
	require.Len(t, redislimit.Steps(ratelimit.MaxExtra), 31)
}
