package ratelimittest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/middleware/ratelimit"
)

// RunPermits tests a PermitStore against the rules of its contract, as Run does a
// Store.
func RunPermits(t *testing.T, newStore func(t *testing.T) ratelimit.PermitStore) {
	for _, r := range permitRules {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("the rule is: %s", r.rule)
				}
			})
			r.test(&permitFixture{T: t, store: newStore(t)})
		})
	}
}

type permitRule struct {
	name string
	rule string
	test func(*permitFixture)
}

// permitFixture is a test with its store.
type permitFixture struct {
	*testing.T
	store ratelimit.PermitStore
}

func (f *permitFixture) ctx() context.Context {
	ctx, cancel := context.WithTimeout(f.Context(), 30*time.Second)
	f.Cleanup(cancel)
	return ctx
}

// permit is one of three of key.
func permit(key, id string) ratelimit.PermitRequest {
	return ratelimit.PermitRequest{Key: key, Name: "limit", ID: id, Limit: 3, TTL: time.Minute}
}

func (f *permitFixture) acquire(p ratelimit.PermitRequest, acquired bool, held int) {
	f.Helper()
	state, err := f.store.Acquire(f.ctx(), p)
	if want := (ratelimit.PermitState{Acquired: acquired, Held: held}); err != nil || state != want {
		f.Errorf("Acquire(%+v) = %+v, %v, want %+v", p, state, err, want)
	}
}

func (f *permitFixture) extend(p ratelimit.PermitRequest, want bool) {
	f.Helper()
	if there, err := f.store.Extend(f.ctx(), p); err != nil || there != want {
		f.Errorf("Extend(%+v) = %v, %v, want %v", p, there, err, want)
	}
}

func (f *permitFixture) release(p ratelimit.PermitRequest) {
	f.Helper()
	if err := f.store.Release(f.ctx(), p); err != nil {
		f.Errorf("Release(%+v): %v", p, err)
	}
}

// acquireShort acquires p for a short time, which it returns, and extends it in time.
func (f *permitFixture) acquireShort(p ratelimit.PermitRequest) time.Duration {
	f.Helper()
	short := p
	for short.TTL = 20 * time.Millisecond; ; short.TTL *= 2 {
		sent := time.Now()
		f.acquire(short, true, 1)
		there, err := f.store.Extend(f.ctx(), p)
		switch held := time.Since(sent); {
		case err != nil:
			f.Fatalf("Extend: %v", err)
		case there:
			return short.TTL
		case held < short.TTL-clockSlack:
			f.Fatalf("a permit of %v was gone after %v", short.TTL, held)
		}
		// This machine was held up.
	}
}

// await acquires p as soon as it can, and returns when it was seen to be denied last.
func (f *permitFixture) await(p ratelimit.PermitRequest) (denied time.Time) {
	f.Helper()
	for began := time.Now(); time.Since(began) < slack; <-time.After(time.Millisecond) {
		sent := time.Now()
		state, err := f.store.Acquire(f.ctx(), p)
		if err != nil {
			f.Fatalf("Acquire: %v", err)
		}
		if state.Acquired {
			return denied
		}
		denied = sent
	}
	f.Fatalf("Acquire(%+v) got no permit within %v", p, slack)
	return denied
}

var permitRules = []permitRule{
	{
		name: "no more than the limit",
		rule: "a key has as many permits as the limit says, and what is released is there for the next",
		test: func(f *permitFixture) {
			for i := range 3 {
				f.acquire(permit("k", fmt.Sprint(i)), true, i+1)
			}
			f.acquire(permit("k", "3"), false, 3)
			f.release(permit("k", "1"))
			f.acquire(permit("k", "3"), true, 3)
			f.acquire(permit("k", "4"), false, 3)
		},
	},
	{
		name: "who has one keeps it",
		rule: "Acquire with an id that has a permit extends that, also when all are held",
		test: func(f *permitFixture) {
			for i := range 3 {
				f.acquire(permit("k", fmt.Sprint(i)), true, i+1)
			}
			f.acquire(permit("k", "1"), true, 3)
			short := permit("k", "1")
			short.TTL = time.Millisecond // its TTL is what counts from then
			f.acquire(short, true, 3)
			f.await(permit("k", "other"))
			f.extend(permit("k", "1"), false)
		},
	},
	{
		name: "keys and names are apart",
		rule: "every key and name counts on its own",
		test: func(f *permitFixture) {
			other := permit("k", "d")
			other.Name = "other"
			all := []ratelimit.PermitRequest{permit("k", "a"), permit("", "b"), permit("}{", "c"), other}
			for i, p := range all {
				p.Limit = 1
				f.acquire(p, true, 1)
				p.ID = fmt.Sprint(i)
				f.acquire(p, false, 1)
				p.ID = all[(i+1)%len(all)].ID // that of another one, there
				f.extend(p, false)
				f.release(p)
			}
			for _, p := range all {
				f.extend(p, true)
			}
		},
	},
	{
		name: "release twice",
		rule: "Release is no error for a permit that is not there, and frees nobody else's",
		test: func(f *permitFixture) {
			f.acquire(permit("k", "a"), true, 1)
			f.acquire(permit("k", "b"), true, 2)
			for range 3 {
				f.release(permit("k", "a"))
			}
			f.release(permit("new", "a"))
			f.acquire(permit("k", "c"), true, 2)
		},
	},
	{
		name: "permits end",
		rule: "a permit that is not extended ends after its TTL, and not before",
		test: func(f *permitFixture) {
			p := permit("k", "a")
			p.Limit, p.TTL = 1, 150*time.Millisecond
			sent := time.Now()
			f.acquire(p, true, 1)
			seen := time.Now()
			next := permit("k", "b")
			next.Limit = 1
			denied := f.await(next)
			if free := time.Now(); free.Sub(sent) < p.TTL-clockSlack {
				f.Errorf("it was free after %v", free.Sub(sent))
			}
			if denied.Sub(seen) > p.TTL+clockSlack {
				f.Errorf("it was held for %v", denied.Sub(seen))
			}
			f.extend(p, false)
			f.acquire(p, false, 1)
		},
	},
	{
		name: "permits are extended",
		rule: "Extend has the permit end its TTL from then, whatever other permits do, and reports one that has ended",
		test: func(f *permitFixture) {
			long, short := permit("k", "long"), permit("k", "short")
			long.TTL, short.TTL = time.Hour, time.Minute
			first := f.acquireShort(short)
			f.acquire(long, true, 2)
			f.extend(short, true)
			<-time.After(2 * first)
			f.acquire(permit("k", "third"), true, 3)
			f.extend(permit("k", "nobody"), false)
			f.acquire(permit("k", "nobody"), false, 3)
			long.TTL = time.Millisecond // shortens it
			f.extend(long, true)
			<-time.After(20 * time.Millisecond)
			f.extend(short, true) // it did not go with that
			f.await(permit("k", "fourth"))
			f.extend(permit("new", "a"), false)
		},
	},
	{
		name: "many at once",
		rule: "each step is atomic: however many ask at once, never more than the limit hold a permit",
		test: func(f *permitFixture) {
			var holders, worst atomic.Int64
			var wg sync.WaitGroup
			for i := range 20 {
				wg.Go(func() {
					p := permit("k", fmt.Sprint(i))
					for range 10 {
						state, err := f.store.Acquire(f.ctx(), p)
						if err != nil {
							f.Errorf("Acquire: %v", err)
						}
						if !state.Acquired {
							continue
						}
						n := holders.Add(1)
						for old := worst.Load(); n > old && !worst.CompareAndSwap(old, n); old = worst.Load() {
						}
						holders.Add(-1)
						f.release(p)
					}
				})
			}
			wg.Wait()
			if worst.Load() > 3 || worst.Load() == 0 {
				f.Errorf("up to %d held a permit, want 1 to 3", worst.Load())
			}
		},
	},
	{
		name: "what does not count",
		rule: "Extend and Release go by who has a permit: they ignore the Limit, and Release the TTL",
		test: func(f *permitFixture) {
			p := permit("k", "a")
			f.acquire(p, true, 1)
			p.Limit = 0
			f.extend(p, true)
			p.TTL = 0
			f.release(p)
			f.acquire(permit("k", "b"), true, 1)
		},
	},
	{
		name: "invalid requests",
		rule: "a request that makes no sense is an error and takes nothing",
		test: func(f *permitFixture) {
			for name, change := range map[string]func(*ratelimit.PermitRequest){
				"no permits": func(p *ratelimit.PermitRequest) { p.Limit = 0 },
				"no id":      func(p *ratelimit.PermitRequest) { p.ID = "" },
				"no TTL":     func(p *ratelimit.PermitRequest) { p.TTL = 0 },
				"no name":    func(p *ratelimit.PermitRequest) { p.Name = "" },
			} {
				p := permit("k", "a")
				change(&p)
				if state, err := f.store.Acquire(f.ctx(), p); err == nil || state.Acquired {
					f.Errorf("%s: Acquire = %+v, %v, want an error", name, state, err)
				}
			}
			f.acquire(permit("k", "b"), true, 1)
		},
	},
	{
		name: "a context that is done",
		rule: "a call with a context that is done is an error that says so, and changes nothing",
		test: func(f *permitFixture) {
			f.acquire(permit("k", "a"), true, 1)
			done, cancel := context.WithCancel(f.Context())
			cancel()
			if state, err := f.store.Acquire(done, permit("k", "b")); !errors.Is(err, context.Canceled) || state.Acquired {
				f.Errorf("Acquire = %+v, %v, want an error that is context.Canceled", state, err)
			}
			if there, err := f.store.Extend(done, permit("k", "a")); !errors.Is(err, context.Canceled) || there {
				f.Errorf("Extend = %v, %v, want an error that is context.Canceled", there, err)
			}
			if err := f.store.Release(done, permit("k", "a")); !errors.Is(err, context.Canceled) {
				f.Errorf("Release = %v, want an error that is context.Canceled", err)
			}
			f.acquire(permit("k", "c"), true, 2)
		},
	},
}
