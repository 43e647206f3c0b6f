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
	"github.com/herdless/herdless/middleware/ratelimit/internal/gcra"
	"github.com/herdless/herdless/middleware/ratelimit/redislimit"
)

// testScript returns the script with a clock that the test sets, by two more
// ARGV, and with keys that outlive the test: the debts under test are over
// sooner than real time passes.
func testScript(t *testing.T) *redis.Script {
	src := redislimit.TakeSource
	for old, replacement := range map[string]string{
		"redis.call('TIME')":            "{ ARGV[#ARGV - 1], ARGV[#ARGV] }",
		"math.ceil(l.debt / 1000) + 1)": "600000)",
	} {
		require.Equal(t, 1, strings.Count(src, old), "the script has changed, adapt this test")
		src = strings.Replace(src, old, replacement, 1)
	}
	return redis.NewScript(src)
}

// The script calculates in Lua's doubles what package gcra does in integers; to
// the last fraction of a microsecond, also when the limit of a key changes.
func TestTheScriptIsExact(t *testing.T) {
	rdb, script := redistest.Standalone(t).Client(t), testScript(t)
	rule := func(rate int, period time.Duration, burst int) gcra.Rule {
		r, err := gcra.NewRule(rate, period, burst)
		require.NoError(t, err)
		return r
	}
	rules := []gcra.Rule{
		rule(7, time.Minute, 0),
		rule(3, time.Second, 5),
		rule(1_000_000, time.Second, 10),
		rule(11, 13*time.Nanosecond, 4),
		rule(1, time.Nanosecond, 1_000_000),
		rule(999_983, 24*time.Hour, 0),
		rule(999_999_999_989, 99*365*24*time.Hour+time.Nanosecond, 0),
	}
	type arrival struct {
		at  gcra.Span
		den int64
	}
	rapid.Check(t, func(r *rapid.T) {
		prefix := redistest.Prefix(t)
		now := int64(1_800_000_000_000_000) + rapid.Int64Range(0, 1<<40).Draw(r, "now")
		model := map[string]arrival{}
		r.Repeat(map[string]func(*rapid.T){
			"take": func(r *rapid.T) {
				n := rapid.IntRange(0, 12).Draw(r, "n")
				names := rapid.SliceOfNDistinct(rapid.IntRange(0, 3), 1, 3, rapid.ID).Draw(r, "keys")
				keys := make([]string, len(names))
				used, debts := make([]gcra.Rule, len(names)), make([]gcra.Span, len(names))
				var args []any
				want := []int64{1}
				for i, name := range names {
					keys[i] = fmt.Sprint(prefix, name)
					used[i] = rapid.SampledFrom(rules).Draw(r, "rule")
					cost := used[i].Cost(n)
					args = append(args, cost.Micros, cost.Num, used[i].Capacity.Micros, used[i].Capacity.Num, used[i].Den)
					if tat, ok := model[keys[i]]; ok {
						debts[i] = used[i].Debt(tat.at, tat.den, now)
					}
					if used[i].Wait(debts[i], n) != 0 {
						want[0] = 0
					}
				}
				for i, key := range keys {
					if want[0] == 1 && n > 0 {
						debts[i] = used[i].Add(debts[i], used[i].Cost(n))
						model[key] = arrival{used[i].Add(debts[i], gcra.Span{Micros: now}), used[i].Den}
					}
					want = append(want, debts[i].Micros, debts[i].Num)
				}
				args = append(args, now/1_000_000, now%1_000_000)
				got, err := script.Run(t.Context(), rdb, keys, args...).Int64Slice()
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
