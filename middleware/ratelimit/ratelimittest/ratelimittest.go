// Package ratelimittest holds the rules of ratelimit.Store and ratelimit.PermitStore
// as tests, for every implementation of them.
package ratelimittest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/herdless/herdless/middleware/ratelimit"
)

// Run tests a Store against the rules of its contract, one subtest each, which
// quotes its rule when it fails. newStore returns a store that holds nothing;
// checks of different keys must be possible together in it. The subtests run in
// parallel and take less than a second of waiting.
func Run(t *testing.T, newStore func(t *testing.T) ratelimit.Store) {
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("the rule is: %s", r.rule)
				}
			})
			r.test(&fixture{T: t, store: newStore(t)})
		})
	}
}

type rule struct {
	name string
	rule string
	test func(*fixture)
}

// fixture is a test with its store.
type fixture struct {
	*testing.T
	store ratelimit.Store
}

// ctx bounds one call, so that a store that hangs fails its test.
func (f *fixture) ctx() context.Context {
	ctx, cancel := context.WithTimeout(f.Context(), 30*time.Second)
	f.Cleanup(cancel)
	return ctx
}

// check is a Check of key.
func check(key string, limit ratelimit.Limit) ratelimit.Check {
	return ratelimit.Check{Key: key, Name: "limit", Limit: limit}
}

// of returns the checks, each for n units.
func of(n int, checks []ratelimit.Check) []ratelimit.Check {
	list := slices.Clone(checks)
	for i := range list {
		list[i].N = n
	}
	return list
}

// take asks for n units under the checks. The answer has a state for each.
func (f *fixture) take(n int, checks ...ratelimit.Check) ratelimit.Decision {
	f.Helper()
	return f.takeMore(n, 0, checks...)
}

// takeMore asks for extra units besides.
func (f *fixture) takeMore(n, extra int, checks ...ratelimit.Check) ratelimit.Decision {
	f.Helper()
	d, err := f.store.Take(f.ctx(), ratelimit.Request{Checks: of(n, checks), Extra: extra})
	if err != nil {
		f.Fatalf("Take(%d, %v): %v", n, checks, err)
	}
	if len(d.States) != len(checks) {
		f.Fatalf("Take(%d, %v) returned %d states, want one per check", n, checks, len(d.States))
	}
	return d
}

// want asks for n units and says whether they must be allowed.
func (f *fixture) want(allowed bool, n int, checks ...ratelimit.Check) ratelimit.Decision {
	f.Helper()
	d := f.take(n, checks...)
	if d.Allowed != allowed {
		f.Errorf("Take(%d, %v).Allowed = %v, want %v; states: %+v", n, checks, d.Allowed, allowed, d.States)
	}
	return d
}

// wantRemaining asks how the check stands.
func (f *fixture) wantRemaining(want int, c ratelimit.Check) {
	f.Helper()
	if got := f.want(true, 0, c).States[0].Remaining; got != want {
		f.Errorf("%v has %d units left, want %d", c, got, want)
	}
}

// wantBetween reports a duration that is not in (over, atMost].
func (f *fixture) wantBetween(what string, got, over, atMost time.Duration) {
	f.Helper()
	if got <= over || got > atMost {
		f.Errorf("%s = %v, want more than %v and at most %v", what, got, over, atMost)
	}
}
