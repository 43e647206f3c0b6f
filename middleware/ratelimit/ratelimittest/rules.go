package ratelimittest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/herdless/herdless/middleware/ratelimit"
)

// slow is a limit under which nothing comes back during a test: a unit every
// 36 seconds.
var slow = ratelimit.PerHour(100)

// slack is how long a test may hang between two steps before it fails wrongly.
const slack = 30 * time.Second

var rules = []rule{
	{
		name: "a new key is full",
		rule: "a key of which nothing was taken has its whole burst, and waits for nothing",
		test: func(f *fixture) {
			d := f.want(true, 0, check("k", slow))
			if want := (ratelimit.CheckState{Remaining: 100}); d.States[0] != want {
				f.Errorf("state = %+v, want %+v", d.States[0], want)
			}
		},
	},
	{
		name: "the burst and no more",
		rule: "a client that has been quiet can take Burst units at once, one by one or together, and no more",
		test: func(f *fixture) {
			limit := ratelimit.Limit{Rate: 100, Period: time.Hour, Burst: 5}
			for i := range 5 {
				d := f.want(true, 1, check("one by one", limit))
				if got, want := d.States[0].Remaining, 4-i; got != want {
					f.Errorf("after unit %d: %d units left, want %d", i+1, got, want)
				}
			}
			f.want(false, 1, check("one by one", limit))
			f.want(true, 5, check("together", limit))
			f.want(false, 1, check("together", limit))
		},
	},
	{
		name: "no Burst means Rate",
		rule: "a zero Burst means as many as Rate",
		test: func(f *fixture) {
			f.want(true, 100, check("k", slow))
			f.want(false, 1, check("k", slow))
		},
	},
	{
		name: "denied requests take nothing",
		rule: "a denied request takes nothing, however often it is made, and what was there before is still there",
		test: func(f *fixture) {
			f.want(true, 60, check("k", slow))
			for range 20 {
				f.want(false, 41, check("k", slow))
			}
			f.want(true, 40, check("k", slow))
		},
	},
	{
		name: "zero units ask",
		rule: "a request for zero units is always allowed, takes nothing, and shows how things stand",
		test: func(f *fixture) {
			f.want(true, 99, check("k", slow))
			for range 20 {
				f.wantRemaining(1, check("k", slow))
			}
			f.want(true, 1, check("k", slow))
			d := f.want(true, 0, check("k", slow))
			if s := d.States[0]; s.Remaining != 0 || s.RetryAfter != 0 || s.ResetAfter <= 0 {
				f.Errorf("state of a spent key = %+v, want nothing remaining, no wait for zero units, and a time to reset", s)
			}
		},
	},
	{
		name: "more than the burst never passes",
		rule: "RetryAfter is negative if more units are asked for than the burst holds, and nothing is taken",
		test: func(f *fixture) {
			for _, n := range []int{101, 1_000_000, 1 << 30} {
				if s := f.want(false, n, check("k", slow)).States[0]; s.RetryAfter >= 0 || s.Remaining != 100 {
					f.Errorf("asked for %d units: state = %+v, want a negative RetryAfter and 100 remaining", n, s)
				}
			}
		},
	},
	{
		name: "states are after the decision",
		rule: "States says how things stand after the decision: RetryAfter until as many units fit again, ResetAfter until all are back",
		test: func(f *fixture) {
			limit := ratelimit.PerMinute(7) // a unit every 8.571428… s
			s := f.want(true, 3, check("k", limit)).States[0]
			if s.Remaining != 4 || s.RetryAfter != 0 {
				f.Errorf("after 3 of 7: state = %+v, want 4 remaining and room for 3 more", s)
			}
			f.wantBetween("ResetAfter of 3 units", s.ResetAfter, time.Minute*3/7-slack, time.Minute*3/7+time.Microsecond)
			s = f.want(true, 4, check("k", limit)).States[0]
			f.wantBetween("RetryAfter of 4 units", s.RetryAfter, time.Minute*4/7-slack, time.Minute*4/7+time.Microsecond)
			f.wantBetween("ResetAfter of 7 units", s.ResetAfter, time.Minute-slack, time.Minute)
		},
	},
	{
		name: "NextAfter is for one unit more",
		rule: "NextAfter is how long to wait until there is room for one unit more than Remaining, and zero if nothing is taken",
		test: func(f *fixture) {
			const day = 24 * time.Hour
			for _, limit := range []ratelimit.Limit{{Rate: 10, Period: 10 * day, Burst: 10}, ratelimit.Window(10, 10*day)} {
				c := check("k", limit)
				if s := f.want(true, 0, c).States[0]; s.NextAfter != 0 {
					f.Errorf("%v, of which nothing is taken: NextAfter = %v, want 0", limit, s.NextAfter)
				}
				s := f.want(true, 4, c).States[0]
				more := f.want(false, 7, c).States[0]
				f.wantBetween("NextAfter of 4 units of "+limit.String(), s.NextAfter, more.RetryAfter-time.Microsecond, more.RetryAfter+slack)
			}
		},
	},
	{
		name: "RetryAfter is exact",
		rule: "a request that comes back after RetryAfter passes, and one that comes a millisecond earlier does not",
		test: retryAfterIsExact,
	},
	{
		name: "rate holds over time",
		rule: "in any stretch of time at most Burst + Rate × elapsed units are admitted, and they do come back",
		test: rateHolds,
	},
	{
		name: "rates that do not divide the period",
		rule: "units are counted exactly: many small ones cost what one large request costs, at every rate",
		test: func(f *fixture) {
			for _, limit := range []ratelimit.Limit{
				{Rate: 7, Period: time.Hour, Burst: 1000},
				{Rate: 999_983, Period: 24 * 365 * time.Hour, Burst: 1000},
				{Rate: 3, Period: 1000*time.Hour + time.Nanosecond, Burst: 1000},
			} {
				c := check(limit.String(), limit)
				for range 100 {
					f.want(true, 10, c)
				}
				f.want(false, 1, c)
			}
			// The largest and oddest limits, at which a unit is nothing beside the
			// debt: too fast to be counted one by one.
			for _, limit := range []ratelimit.Limit{
				ratelimit.PerSecond(1_000_000),
				{Rate: 2_147_483_647, Period: time.Hour + time.Nanosecond},
				{Rate: 2_147_483_647, Period: 99 * 365 * 24 * time.Hour},
				{Rate: 1, Period: time.Nanosecond, Burst: 1 << 30},
			} {
				c := check("all of "+limit.String(), limit)
				burst := max(limit.Rate, limit.Burst)
				full := time.Duration(float64(limit.Period) / float64(limit.Rate) * float64(burst))
				d := f.want(true, burst, c)
				f.wantBetween("ResetAfter under "+limit.String(), d.States[0].ResetAfter,
					full-slack, full+time.Microsecond)
			}
		},
	},
	{
		name: "keys are apart",
		rule: "every key counts on its own, whatever bytes it has",
		test: func(f *fixture) {
			keys := []string{
				"", "k", "K", "k ", "k:k", "{k}", "}{", "{}", "}", "{", "k\x00", "k\r\nDEL k", "\xff\xfe", "*", "%s",
				"ключ", strings.Repeat("k", 1024),
			}
			for i, key := range keys {
				f.want(true, i+1, check(key, slow))
			}
			for i, key := range keys {
				f.wantRemaining(100-(i+1), check(key, slow))
			}
		},
	},
	{
		name: "all or nothing",
		rule: "units are taken under all checks or under none, and the states have the order of the checks",
		test: func(f *fixture) {
			perUser := check("user", ratelimit.PerHour(10))
			global := check("global", ratelimit.PerHour(25))
			d := f.want(true, 10, perUser, global)
			if a, b := d.States[0].Remaining, d.States[1].Remaining; a != 0 || b != 15 {
				f.Errorf("remaining = %d and %d, want 0 and 15", a, b)
			}
			for _, checks := range [][]ratelimit.Check{{perUser, global}, {global, perUser}} {
				d := f.want(false, 1, checks...)
				for i, s := range d.States {
					if full := checks[i] == perUser; full != (s.RetryAfter > 0) {
						f.Errorf("%v: state = %+v, want a wait only under the one that is spent", checks[i], s)
					}
				}
			}
			f.wantRemaining(15, global)
			f.want(true, 10, check("other", ratelimit.PerHour(10)), global)
			f.want(false, 6, check("third", ratelimit.PerHour(10)), global)
			f.wantRemaining(10, check("third", ratelimit.PerHour(10)))
			f.wantRemaining(5, global)
			// Of windows, and of rates at which a unit costs a fraction.
			for _, fresh := range []ratelimit.Check{check("window", ratelimit.Window(10, 1000*time.Hour)), check("odd", ratelimit.PerHour(7))} {
				left := f.want(true, 3, fresh).States[0].Remaining
				f.want(false, 1, fresh, perUser)
				f.wantRemaining(left, fresh)
				f.want(true, left, fresh)
				f.wantRemaining(0, fresh)
			}
		},
	},
	{
		name: "a changed limit",
		rule: "a key that owes more than a new, lower limit allows waits no longer than for a spent burst of the new one, and as long as it was told",
		test: func(f *fixture) {
			f.want(true, 100, check("k", slow))
			for _, limit := range []ratelimit.Limit{ratelimit.PerMinute(7), ratelimit.PerHour(11), ratelimit.PerSecond(3)} {
				s := f.want(false, limit.Rate, check("k", limit)).States[0]
				if s.Remaining < 0 || s.Remaining > limit.Rate {
					f.Errorf("under %v: %d remaining", limit, s.Remaining)
				}
				f.wantBetween("RetryAfter under "+limit.String(), s.RetryAfter, 0, limit.Period)
				f.wantBetween("ResetAfter under "+limit.String(), s.ResetAfter, 0, limit.Period)
				if limit.Period == time.Second {
					time.Sleep(s.RetryAfter)
					f.want(true, limit.Rate, check("k", limit))
				}
			}
			// Also who has only asked.
			f.want(true, 100, check("asked", slow))
			short := check("asked", ratelimit.Limit{Rate: 5, Period: time.Second})
			time.Sleep(f.want(true, 0, short).States[0].ResetAfter)
			f.want(true, 5, short)
			const period = 1000 * time.Hour
			f.want(true, 10, check("window", ratelimit.Window(10, period)))
			s := f.want(false, 1, check("window", ratelimit.Window(5, period))).States[0]
			// All are back at the end of the next window, the first after a fifth of that.
			f.wantBetween("RetryAfter under a lower window", s.RetryAfter, 0, s.ResetAfter-period*4/5+time.Millisecond)
			f.want(true, 10, check("shorter", ratelimit.Window(10, period)))
			shorter := check("shorter", ratelimit.Window(10, time.Second))
			time.Sleep(f.want(false, 10, shorter).States[0].RetryAfter)
			f.want(true, 10, shorter)
		},
	},
	{
		name: "reset",
		rule: "Reset forgets what was taken under its key and nothing else, and is no error for a key that is new",
		test: func(f *fixture) {
			f.want(true, 100, check("k", slow))
			f.want(true, 1, check("other", slow))
			for _, key := range []string{"k", "new"} {
				if err := f.store.Reset(f.ctx(), key, "limit"); err != nil {
					f.Errorf("Reset(%q): %v", key, err)
				}
			}
			f.wantRemaining(100, check("k", slow))
			f.wantRemaining(99, check("other", slow))
		},
	},
	{
		name: "concurrent requests",
		rule: "each decision is one atomic step: however many ask at once, exactly the burst is admitted",
		test: func(f *fixture) {
			other := check("other", ratelimit.Limit{Rate: 100, Period: time.Hour, Burst: 1000})
			var admitted atomic.Int64
			var wg sync.WaitGroup
			for i := range 50 {
				wg.Go(func() {
					for range 10 {
						checks := []ratelimit.Check{check("k", slow), other}
						if i%2 == 0 { // the other order, in which locks would wait for each other
							checks[0], checks[1] = checks[1], checks[0]
						}
						d, err := f.store.Take(f.ctx(), ratelimit.Request{Checks: of(1, checks)})
						if err != nil {
							f.Errorf("Take: %v", err)
						}
						if d.Allowed {
							admitted.Add(1)
						}
					}
				})
			}
			wg.Wait()
			if got := admitted.Load(); got != 100 {
				f.Errorf("of 500 concurrent requests %d were admitted, want 100", got)
			}
			f.wantRemaining(0, check("k", slow))
			f.wantRemaining(900, other)
		},
	},
	{
		name: "extra units",
		rule: "of Extra as many are taken as every check has room for, down to none, and all that come back are there the next time",
		test: func(f *fixture) {
			a, b := check("a", ratelimit.PerHour(10)), check("b", ratelimit.Window(1000, 1000*time.Hour))
			for _, want := range []struct{ n, extra, taken, left int }{
				{1, 4, 4, 5}, {0, 2, 2, 3}, {1, 100, 2, 0}, {0, 100, 0, 0},
			} {
				d := f.takeMore(want.n, want.extra, a, b)
				if !d.Allowed || d.Extra != want.taken || d.States[0].Remaining != want.left {
					f.Errorf("asked for %d units and %d extra: %+v, want %d extra and %d left", want.n, want.extra, d, want.taken, want.left)
				}
			}
			if d := f.takeMore(1, 100, a, b); d.Allowed || d.Extra != 0 {
				f.Errorf("nothing is left for the one that is asked for: %+v, want it denied, without extra units", d)
			}
			f.wantRemaining(990, b)
		},
	},
	{
		name: "extra units of odd rates",
		rule: "taking whole units leaves the fraction of one that is there besides, so that nothing is lost however often one asks",
		test: func(f *fixture) {
			// The burst takes long to come back, so that none is lost if this machine is held up.
			const rate, burst = 700, 50_000
			c := check("k", ratelimit.Limit{Rate: rate, Period: time.Second, Burst: burst})
			f.want(true, burst, c)
			emptied, taken := time.Now(), 0 // it was, a moment ago
			var asked time.Time
			for asked.Sub(emptied) < time.Second/2 {
				<-time.After(time.Millisecond)
				asked = time.Now()
				if d := f.takeMore(1, burst-1, c); d.Allowed {
					taken += 1 + d.Extra
				}
			}
			if due := rate * asked.Sub(emptied).Seconds(); float64(taken) < due-rate*clockSlack.Seconds()-1 {
				f.Errorf("%d units were taken in %v, of %v that were due", taken, asked.Sub(emptied), due)
			}
		},
	},
	{
		name: "shadow checks",
		rule: "a Shadow check denies nothing, says that it is Over, and is charged if it has room and the request is allowed",
		test: func(f *fixture) {
			shadow := check("shadow", ratelimit.PerHour(2))
			shadow.Shadow = true
			other := check("other", ratelimit.PerHour(3))
			for i, over := range []bool{false, false, true} {
				d := f.want(true, 1, shadow, other)
				if s := d.States[0]; s.Over != over || over != (s.RetryAfter > 0) && i != 1 {
					f.Errorf("request %d: state = %+v, want over: %v", i+1, s, over)
				}
			}
			f.want(false, 1, check("more", slow), other)
			f.wantRemaining(0, other)
			d := f.want(false, 1, ratelimit.Check{Key: "fresh", Name: "limit", Limit: slow, Shadow: true}, other)
			if s := d.States[0]; s.Over || s.Remaining != 100 {
				f.Errorf("state of a shadow check of a denied request = %+v, want it not charged", s)
			}
			f.want(true, 1, shadow)
			// Nor does it keep others from extra units, and what it has no room for takes nothing of it.
			few := check("few", ratelimit.PerHour(3))
			few.Shadow = true
			if d := f.takeMore(1, 5, few, check("many", slow)); !d.Allowed || d.Extra != 5 || d.States[0].Over {
				f.Errorf("asked for a unit and 5 extra: %+v, want all of them", d)
			}
			few.Key = "none of few"
			if d := f.want(true, 4, few, check("many", slow)); !d.States[0].Over {
				f.Errorf("asked for 4 units of 3 in Shadow: %+v, want it over", d.States[0])
			}
			few.Shadow = false
			f.wantRemaining(3, few)
		},
	},
	{
		name: "names",
		rule: "the limits of one key count each on its own, by their names, and Reset forgets those that it names",
		test: func(f *fixture) {
			second := ratelimit.Check{Key: "k", Name: "api/1s", Limit: slow}
			day := ratelimit.Check{Key: "k", Name: "api/24h0m0s", Limit: ratelimit.PerHour(1000)}
			f.want(true, 10, second, day)
			f.want(true, 5, day)
			f.wantRemaining(90, second)
			f.wantRemaining(985, day)
			if err := f.store.Reset(f.ctx(), "k", "api/1s", "none"); err != nil {
				f.Errorf("Reset: %v", err)
			}
			f.wantRemaining(100, second)
			f.wantRemaining(985, day)
			if err := f.store.Reset(f.ctx(), "k"); err != nil {
				f.Errorf("Reset of no names: %v", err)
			}
			f.wantRemaining(985, day)
		},
	},
	{
		name: "a window and no more",
		rule: "a sliding window has its units at once, and no more, and is no limit of the other kind with the same name",
		test: func(f *fixture) {
			w := check("k", ratelimit.Window(10, 1000*time.Hour))
			f.want(true, 4, w)
			s := f.want(true, 6, w).States[0]
			if s.Remaining != 0 || s.RetryAfter <= 0 || s.ResetAfter < s.RetryAfter {
				f.Errorf("state of a full window = %+v", s)
			}
			f.want(false, 1, w)
			if s := f.want(false, 11, w).States[0]; s.RetryAfter >= 0 {
				f.Errorf("asked for more than the window has: state = %+v, want a negative RetryAfter", s)
			}
			f.want(true, 30, check("k", slow))
			f.wantRemaining(70, check("k", slow))
			f.wantRemaining(0, w)
			// Under another limit, and of another length, what was taken still counts.
			f.wantRemaining(10, check("k", ratelimit.Window(20, 1000*time.Hour)))
			f.wantRemaining(0, check("k", ratelimit.Window(5, 1000*time.Hour)))
			f.wantRemaining(10, check("k", ratelimit.Window(20, 2000*time.Hour)))
			if err := f.store.Reset(f.ctx(), "k", "limit"); err != nil {
				f.Errorf("Reset: %v", err)
			}
			f.wantRemaining(10, w)
		},
	},
	{
		name: "a window's RetryAfter is exact",
		rule: "a request that comes back to a sliding window after RetryAfter passes, and one that comes a millisecond earlier does not",
		test: func(f *fixture) {
			c := check("k", ratelimit.Window(4, 400*time.Millisecond))
			for f.take(1, c).Allowed {
			}
			exactRetry(f, c, 1, 800*time.Millisecond)
		},
	},
	{
		name: "around a window's edge",
		rule: "in any stretch of time at most a sliding window's limit + rate × elapsed units are admitted, plus one, and they do come back",
		test: func(f *fixture) {
			const limit, period = 20, 200 * time.Millisecond
			c := check("k", ratelimit.Window(limit, period))
			var admitted []time.Time // when it was asked for
			begin := time.Now()
			for time.Since(begin) < 3*period || len(admitted) < 2*limit && time.Since(begin) < slack {
				sent := time.Now()
				if f.take(1, c).Allowed {
					admitted = append(admitted, sent)
				} else {
					<-time.After(time.Millisecond / 4)
				}
			}
			end := time.Now()
			for i, from := range admitted {
				// The last may have been decided at any time until the next was sent.
				for k, n := i, 1; k < len(admitted); k, n = k+1, n+1 {
					until := end
					if k+1 < len(admitted) {
						until = admitted[k+1]
					}
					elapsed := until.Sub(from) + clockSlack
					if most := limit + limit*elapsed.Seconds()/period.Seconds() + 1; float64(n) > most {
						f.Fatalf("%d units were admitted within %v, want at most %v", n, elapsed, most)
					}
				}
			}
			if len(admitted) < 2*limit {
				f.Errorf("%d units were admitted in %v: none come back", len(admitted), time.Since(begin))
			}
		},
	},
	{
		name: "invalid requests",
		rule: "a request that makes no sense is an error and takes nothing",
		test: func(f *fixture) {
			ok := check("k", slow)
			for name, req := range map[string]ratelimit.Request{
				"no checks":          {},
				"a negative N":       {Checks: of(-1, []ratelimit.Check{ok})},
				"a negative Extra":   {Checks: of(1, []ratelimit.Check{ok}), Extra: -1},
				"too large an Extra": {Checks: of(1, []ratelimit.Check{ok}), Extra: ratelimit.MaxExtra + 1},
				"one name twice":     {Checks: of(1, []ratelimit.Check{ok, check("k", ratelimit.PerSecond(1))})},
				"no name":            {Checks: of(1, []ratelimit.Check{ok, {Key: "k", Limit: slow}})},
				"a name with braces": {Checks: of(1, []ratelimit.Check{ok, {Key: "k", Name: "{}", Limit: slow}})},
				"no limit":           {Checks: of(1, []ratelimit.Check{ok, {Key: "other", Name: "limit"}})},
				"a negative rate":    {Checks: of(1, []ratelimit.Check{ok, check("other", ratelimit.PerSecond(-1))})},
				"a window with a burst": {Checks: of(1, []ratelimit.Check{ok, check("other", ratelimit.Limit{
					Rate: 1, Period: time.Second, Burst: 2, Sliding: true,
				})})},
				"a burst that takes 1000 years": {Checks: of(1, []ratelimit.Check{ok, check("other", ratelimit.Limit{
					Rate: 1, Period: 24 * 365 * time.Hour, Burst: 1000,
				})})},
			} {
				if d, err := f.store.Take(f.ctx(), req); err == nil || d.Allowed {
					f.Errorf("%s: Take = %+v, %v, want an error", name, d, err)
				}
			}
			f.wantRemaining(100, ok)
		},
	},
	{
		name: "a context that is done",
		rule: "a call with a context that is done is an error that says so, and changes nothing",
		test: func(f *fixture) {
			f.want(true, 1, check("k", slow))
			done, cancel := context.WithCancel(f.Context())
			cancel()
			d, err := f.store.Take(done, ratelimit.Request{Checks: of(1, []ratelimit.Check{check("k", slow)})})
			if !errors.Is(err, context.Canceled) || d.Allowed {
				f.Errorf("Take = %+v, %v, want an error that is context.Canceled", d, err)
			}
			if err := f.store.Reset(done, "k", "limit"); !errors.Is(err, context.Canceled) {
				f.Errorf("Reset = %v, want an error that is context.Canceled", err)
			}
			f.wantRemaining(99, check("k", slow))
		},
	},
}

// clockSlack is by how much the store's clock and ours may differ in speed
// within a test.
const clockSlack = time.Millisecond

// retryAfterIsExact spends a key, and comes back to it: for one unit, and for all of them,
// for which it must be remembered all of the time.
func retryAfterIsExact(f *fixture) {
	for _, n := range []int{1, 2} {
		c := check(fmt.Sprint("k", n), ratelimit.Limit{Rate: 5, Period: time.Second, Burst: 2})
		f.want(true, 2, c)
		exactRetry(f, c, n, time.Duration(n)*200*time.Millisecond)
	}
}

// exactRetry asks without a pause until a spent key lets n units pass. The store's
// clock is not ours, but it is known that the first denial was decided between
// denialSent and denialSeen, so that the key has room at some time between ready
// and late. An answer seen before ready must deny, a request sent after late must
// pass.
func exactRetry(f *fixture, c ratelimit.Check, n int, longest time.Duration) {
	var denialSent, denialSeen time.Time
	denial := ratelimit.Decision{Allowed: true}
	for began := time.Now(); denial.Allowed; denialSeen = time.Now() {
		if time.Since(began) > slack {
			f.Fatalf("%v admits without end", c)
		}
		denialSent = time.Now()
		denial = f.take(n, c) // allowed only if this machine was held up since it was spent
	}
	wait := denial.States[0].RetryAfter
	f.wantBetween("RetryAfter", wait, 0, longest)

	ready, late := denialSent.Add(wait-clockSlack), denialSeen.Add(wait+clockSlack)
	for asked := 1; ; asked++ {
		sent := time.Now()
		allowed := f.take(n, c).Allowed
		seen := time.Now()
		switch {
		case allowed && seen.Before(ready):
			f.Errorf("a request %v before the end of RetryAfter passed", ready.Sub(seen))
		case !allowed && sent.After(late):
			f.Fatalf("a request %v after the end of RetryAfter was denied", sent.Sub(late))
		}
		if allowed {
			if asked < 3 {
				f.Logf("only %d requests were made within %v", asked, wait)
			}
			return
		}
		<-time.After(time.Millisecond / 2)
	}
}

// rateHolds asks without a pause until ten times the burst is admitted.
func rateHolds(f *fixture) {
	const burst, rate = 5, 300
	c := check("k", ratelimit.Limit{Rate: rate, Period: time.Second, Burst: burst})
	begin := time.Now()
	for admitted := 0; admitted < 10*burst; {
		if f.take(1, c).Allowed {
			admitted++
		} else {
			<-time.After(time.Millisecond / 4)
		}
		elapsed := time.Since(begin)
		if most := burst + int(rate*(elapsed+clockSlack).Seconds()); admitted > most {
			f.Fatalf("%d units were admitted in %v, want at most %d", admitted, elapsed, most)
		}
		if elapsed > slack {
			f.Fatalf("%d units were admitted in %v: none come back", admitted, elapsed)
		}
	}
}
