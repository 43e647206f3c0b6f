// Package locktest checks that a [lock.Store] keeps the rules of its contract.
package locktest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/lock"
)

const (
	// long is a TTL that does not end while a test runs.
	long = time.Minute
	// short is one whose end is waited for.
	short = 50 * time.Millisecond
	// patience is how long something may take that should happen soon.
	patience = 10 * time.Second
)

// Run runs every rule as a subtest on a store of its own, which newStore returns.
// Stores that share data must keep their names apart. It takes a second or two,
// as leases must end by the store's own clock.
func Run(t *testing.T, newStore func(t *testing.T) lock.Store) {
	t.Helper()
	run(t, newStore, rules)
	run(t, newStore, queueRules)
	if _, ok := newStore(t).(lock.Relay); ok {
		run(t, newStore, relayRules)
	}
}

// RunExclusive is Run for a store that has exclusive leases only, and no queue:
// it must refuse what it does not have, and wake all watchers at each release.
func RunExclusive(t *testing.T, newStore func(t *testing.T) lock.Store) {
	t.Helper()
	run(t, newStore, rules)
	run(t, newStore, exclusiveRules)
}

func run(t *testing.T, newStore func(t *testing.T) lock.Store, rules []rule) {
	t.Helper()
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("the rule that is broken: %s", r.rule)
				}
			})
			r.check(tester{T: t, store: newStore(t)})
		})
	}
}

type rule struct {
	name, rule string
	check      func(t tester)
}

// tester is a store under test. Its methods fail the test on an error.
type tester struct {
	*testing.T
	store lock.Store
	trial bool // see inTime
}

// failed is a failure in a trial.
type failed string

// Fatalf is that of testing.T, outside of a trial.
func (t tester) Fatalf(format string, args ...any) {
	t.Helper()
	if t.trial {
		panic(failed(fmt.Sprintf(format, args...)))
	}
	t.T.Fatalf(format, args...)
}

// Errorf is that of testing.T, outside of a trial.
func (t tester) Errorf(format string, args ...any) {
	t.Helper()
	if t.trial {
		panic(failed(fmt.Sprintf(format, args...)))
	}
	t.T.Errorf(format, args...)
}

// acquireBriefly acquires a lease, under the name that it returns, which soon ends.
func (t tester) acquireBriefly(owner string) (name string, ttl time.Duration, token uint64) {
	t.Helper()
	name, ttl = t.inTime(func(t tester, name string, ttl time.Duration) { token = t.acquire(name, owner, ttl) })
	return name, ttl, token
}

// inTime tries steps that must be done well before a TTL that they use is over. If
// they were not, it tries them again under another name with a TTL of twice the
// length: what a busy machine makes of them says nothing about the store. It
// returns the name and the TTL of the last try.
func (t tester) inTime(steps func(t tester, name string, ttl time.Duration)) (name string, ttl time.Duration) {
	t.Helper()
	trial := t
	trial.trial = true
	for ttl = short; ; ttl *= 2 {
		name = fmt.Sprint("n for ", ttl)
		began := time.Now()
		said := attempt(func() { steps(trial, name, ttl) })
		if time.Since(began) > ttl/2 && ttl < patience {
			continue
		}
		if said != "" {
			t.Fatalf("%s", said)
		}
		return name, ttl
	}
}

// attempt returns what fn has failed with.
func attempt(fn func()) (said failed) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case failed:
			said = r
		default:
			panic(r)
		}
	}()
	fn()
	return ""
}

func (t tester) ask(req lock.Request) lock.Grant {
	t.Helper()
	grant, err := t.store.TryAcquire(t.Context(), req)
	if err != nil {
		t.Fatalf("TryAcquire(%.200q): %v", fmt.Sprint(req), err)
	}
	return grant
}

func (t tester) try(name, owner string, ttl time.Duration) lock.Grant {
	t.Helper()
	return t.ask(lock.Request{Name: name, Owner: owner, TTL: ttl})
}

// waits asks for a lease that cannot be had yet, with a place in the queue.
func (t tester) waits(name, owner string) {
	t.Helper()
	if grant := t.ask(lock.Request{Name: name, Owner: owner, TTL: long, Place: long}); grant.Acquired || grant.HeldFor <= 0 {
		t.Fatalf("TryAcquire(%.40q, %q) = %+v, want it refused", name, owner, grant)
	}
}

// share acquires a shared lease.
func (t tester) share(name, owner string, limit int, ttl time.Duration) uint64 {
	t.Helper()
	grant := t.ask(lock.Request{Name: name, Owner: owner, TTL: ttl, Shared: true, Limit: limit})
	if !grant.Acquired || grant.Token == 0 {
		t.Fatalf("a shared lease for %q, of at most %d: %+v, want it acquired, with a token", owner, limit, grant)
	}
	return grant.Token
}

func (t tester) notShared(name, owner string, limit int) lock.Grant {
	t.Helper()
	grant := t.ask(lock.Request{Name: name, Owner: owner, TTL: long, Shared: true, Limit: limit})
	if grant.Acquired {
		t.Fatalf("a shared lease for %q, of at most %d: %+v, want it refused", owner, limit, grant)
	}
	return grant
}

func (t tester) waitsShared(name, owner string, limit int) {
	t.Helper()
	if grant := t.ask(lock.Request{Name: name, Owner: owner, TTL: long, Shared: true, Limit: limit, Place: long}); grant.Acquired || grant.HeldFor <= 0 {
		t.Fatalf("a shared lease for %q, of at most %d: %+v, want it refused", owner, limit, grant)
	}
}

func (t tester) extendShared(name, owner string, limit int, ttl time.Duration, want bool) {
	t.Helper()
	got, err := t.store.Extend(t.Context(), lock.Request{Name: name, Owner: owner, TTL: ttl, Shared: true, Limit: limit})
	if err != nil || got != want {
		t.Fatalf("Extend the shared lease of %q by %v: %v, %v, want %v", owner, ttl, got, err, want)
	}
}

func (t tester) releaseShared(name, owner string, limit int, want bool) {
	t.Helper()
	got, err := t.store.Release(t.Context(), lock.Request{Name: name, Owner: owner, TTL: long, Shared: true, Limit: limit})
	if err != nil || got != want {
		t.Fatalf("Release the shared lease of %q: %v, %v, want %v", owner, got, err, want)
	}
}

func (t tester) acquire(name, owner string, ttl time.Duration) uint64 {
	t.Helper()
	grant := t.try(name, owner, ttl)
	if !grant.Acquired || grant.Token == 0 {
		t.Fatalf("TryAcquire(%.40q, %q, %v) = %+v, want it acquired, with a token", name, owner, ttl, grant)
	}
	return grant.Token
}

func (t tester) refused(name, owner string) lock.Grant {
	t.Helper()
	grant := t.try(name, owner, long)
	if grant.Acquired {
		t.Fatalf("TryAcquire(%.40q, %q) = %+v, want it refused", name, owner, grant)
	}
	return grant
}

// outlast waits until the lease of name is over, whoever holds it, and acquires
// it for an owner of its own.
func (t tester) outlast(name string) uint64 {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		grant := t.try(name, rand.Text(), long) // who has no place asks as another one
		if grant.Acquired {
			return grant.Token
		}
		time.Sleep(min(grant.HeldFor+time.Millisecond, 2*short)) // it may be less
	}
	t.Fatalf("the lease of %q did not end within %v", name, patience)
	return 0
}

func (t tester) extend(name, owner string, ttl time.Duration, want bool) {
	t.Helper()
	got, err := t.store.Extend(t.Context(), lock.Request{Name: name, Owner: owner, TTL: ttl})
	if err != nil || got != want {
		t.Fatalf("Extend(%.40q, %q, %v) = %v, %v, want %v", name, owner, ttl, got, err, want)
	}
}

func (t tester) release(name, owner string, want bool) {
	t.Helper()
	got, err := t.store.Release(t.Context(), lock.Request{Name: name, Owner: owner, TTL: long})
	if err != nil || got != want {
		t.Fatalf("Release(%.40q, %q) = %v, %v, want %v", name, owner, got, err, want)
	}
}

func (t tester) relay(from, to lock.Request, want bool) lock.Grant {
	t.Helper()
	held, grant, err := t.store.(lock.Relay).Relay(t.Context(), from, to)
	if err != nil || held != want {
		t.Fatalf("Relay from %q to %q = %v, %+v, %v, want %v", from.Owner, to.Owner, held, grant, err, want)
	}
	return grant
}

func (t tester) watch(name, owner string) (<-chan struct{}, func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	turn, stop, err := t.store.Watch(ctx, name, owner)
	if err != nil {
		t.Fatalf("Watch(%.40q, %q): %v", name, owner, err)
	}
	t.Cleanup(stop)
	return turn, stop
}

func (t tester) woken(turn <-chan struct{}) {
	t.Helper()
	select {
	case <-turn:
	case <-time.After(patience):
		t.Fatalf("the watcher was not woken within %v", patience)
	}
}

// many asks for req by so many owners at the same time, and returns how many
// acquired.
func (t tester) many(req lock.Request) int {
	var wg sync.WaitGroup
	var acquired atomic.Int32
	for i := range many {
		wg.Go(func() {
			req := req
			req.Owner = fmt.Sprint("owner", i)
			grant, err := t.store.TryAcquire(t.Context(), req)
			if err != nil {
				t.Error(err)
			}
			if grant.Acquired {
				acquired.Add(1)
			}
		})
	}
	wg.Wait()
	return int(acquired.Load())
}

const many = 32

// hostileNames are names that have broken key schemes. A store must keep them
// apart.
var hostileNames = []string{
	"a", "A", "a ", " a", "", "0", "a:fence", "a:released", "a}:fence", "{a}", "{a", "a}", "{}", "}{", "{}a", "{{a}}", "{{a}",
	"%7Ba%7D", "sha256:", "sha256:" + strings.Repeat("0", 64), "\x00", "a\x00", "a\x00b", "a\r\nb", "*", "a*", "[a]", "?", "\\",
	"\xff\xfe", "é", "e\u0301", "鍵", "🔒", "\u202ea", strings.Repeat("n", 512), strings.Repeat("n", 513), strings.Repeat("n", 10_000),
	strings.Repeat("{", 10_000),
}

// rules are for every store.
var rules = []rule{
	{"a held lease is refused", "TryAcquire takes the lease if nobody holds it, and says how long the holder has left at most", func(t tester) {
		t.acquire("n", "a", long)
		if grant := t.refused("n", "b"); grant.HeldFor <= 0 || grant.HeldFor > long || grant.Token != 0 {
			t.Errorf("the refusal is %+v, want HeldFor within (0, %v] and no token", grant, long)
		}
	}},
	{"one of many acquires at most", "each method is one atomic step", func(t tester) {
		if n := t.many(lock.Request{Name: "n", TTL: long}); n > 1 {
			t.Errorf("%d of %d acquired the same lease", n, many)
		}
	}},
	{"names are apart", "whatever bytes a name has, it is another lease than every other name", func(t tester) {
		for i, name := range hostileNames {
			t.acquire(name, fmt.Sprint("owner", i), long)
		}
		for i, name := range hostileNames {
			t.refused(name, "x")
			t.extend(name, fmt.Sprint("owner", i), long, true)
			t.release(name, fmt.Sprint("owner", i), true)
		}
	}},
	{"owners are apart", "only the owner extends and releases, whatever bytes it has", func(t tester) {
		for i, owner := range []string{"a", "A", "a\x00", "\x00", "+a", "-a", "\xff", strings.Repeat("a", 1000)} {
			name := fmt.Sprint("n", i)
			t.acquire(name, owner, long)
			for _, other := range []string{"b", owner + "\x00", owner + "a", owner[:len(owner)-1]} {
				t.refused(name, other)
				t.extend(name, other, long, false)
				t.release(name, other, false)
			}
			t.release(name, owner, true)
		}
	}},
	{"tokens grow", "the token of a grant is larger than that of every earlier grant of the name", func(t tester) {
		last := uint64(0)
		grows := func(token uint64) {
			t.Helper()
			if token <= last {
				t.Fatalf("token %d follows token %d", token, last)
			}
			last = token
		}
		for range 100 {
			owner := rand.Text()
			grows(t.acquire("n", owner, long))
			t.release("n", owner, true)
		}
		name, _, last := t.acquireBriefly("a")
		if next := t.outlast(name); next <= last {
			t.Errorf("token %d follows token %d of a lease that has ended", next, last)
		}
	}},
	{"a repeat is granted", "an owner that holds the lease is granted it again, under the same or a larger token", func(t tester) {
		t.inTime(func(t tester, name string, ttl time.Duration) {
			token := t.acquire(name, "a", ttl)
			t.waits(name, "b")
			if again := t.acquire(name, "a", long); again < token {
				t.Errorf("the repeat has token %d, the first had %d", again, token)
			}
			if grant := t.refused(name, "b"); grant.HeldFor <= ttl {
				t.Errorf("the repeat of %v did not prolong the lease: it has %v left", long, grant.HeldFor)
			}
		})
	}},
	{"a lease ends", "a lease that is not extended ends when its TTL is over", func(t tester) {
		name, _, _ := t.acquireBriefly("a")
		t.outlast(name)
		t.extend(name, "a", long, false)
		t.release(name, "a", false)
		t.refused(name, "c")
	}},
	{"extend moves the end", "after Extend the lease ends ttl from then", func(t tester) {
		t.acquire("n", "a", long)
		t.extend("n", "a", 2*long, true)
		if grant := t.refused("n", "b"); grant.HeldFor <= long || grant.HeldFor > 2*long {
			t.Errorf("after an extension by %v the lease has %v left", 2*long, grant.HeldFor)
		}
		name, _ := t.inTime(func(t tester, name string, ttl time.Duration) {
			t.acquire(name, "a", long)
			t.extend(name, "a", ttl, true)
		})
		t.outlast(name)
	}},
	{"extend takes nothing", "Extend never takes a lease that has ended", func(t tester) {
		t.extend("n", "a", long, false)
		t.acquire("n", "a", long)
		t.release("n", "a", true)
		t.extend("n", "a", long, false)
		name, ttl, _ := t.acquireBriefly("b")
		time.Sleep(ttl + short) // on the store's clock: nobody may ask meanwhile
		t.extend(name, "b", long, false)
		t.acquire(name, "c", long)
	}},
	{"release ends the lease", "Release ends the lease if owner still holds it, and reports whether it did", func(t tester) {
		t.release("n", "a", false)
		t.acquire("n", "b", long)
		t.release("n", "b", true)
		t.acquire("n", "c", long)
		if _, err := t.store.Release(t.Context(), lock.Request{Name: "n", Owner: "b", TTL: long}); err != nil {
			t.Errorf("Release once more: %v", err)
		}
		t.refused("n", "d")
	}},
	{"hostile names can be watched", "the watchers of a name hear of its releases, whatever bytes it has", func(t tester) {
		for _, name := range hostileNames {
			t.acquire(name, "a", long)
			turn, stop := t.watch(name, "b")
			t.waits(name, "b")
			t.release(name, "a", true)
			t.woken(turn)
			stop()
		}
	}},
	{"hostile owners can watch", "the watcher of an owner is woken, whatever bytes it has", func(t tester) {
		for _, owner := range []string{"b", "b\x00", " ", "b c", "x0:b", "-b", "\xff", strings.Repeat("b", 1000)} {
			t.acquire("n", "a"+owner, long)
			turn, stop := t.watch("n", owner)
			t.waits("n", owner)
			t.release("n", "a"+owner, true)
			t.woken(turn)
			t.release("n", owner, false) // its place, if it has one
			stop()
		}
	}},
	{"a stopped watch does not hinder", "stop ends the watch, and may be called more than once", func(t tester) {
		t.acquire("n", "a", long)
		_, stop := t.watch("n", "b")
		other, _ := t.watch("n", "b")
		t.waits("n", "b")
		stop()
		stop()
		t.release("n", "a", true)
		t.woken(other)
	}},
	{"a watch outlives its context", "ctx bounds only the call of Watch itself", func(t tester) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		turn, stop, err := t.store.Watch(ctx, "n", "b")
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		t.acquire("n", "a", long)
		t.waits("n", "b")
		t.release("n", "a", true)
		t.woken(turn)
	}},
	{"who does not wait has no place", "a place of 0 means that the asker does not wait", func(t tester) {
		t.acquire("n", "a", long)
		t.refused("n", "b")
		t.release("n", "a", true)
		t.acquire("n", "c", long)
	}},
	{"tokens are given in blocks", "Tokens is how many consecutive tokens the lease gets", func(t tester) {
		grant := t.ask(lock.Request{Name: "n", Owner: "a", TTL: long, Tokens: 1_000_000_000})
		if !grant.Acquired {
			t.Fatal("a lease that nobody holds was refused")
		}
		used := lock.Request{Name: "n", Owner: "a", TTL: long, Tokens: 1_000_000_000}
		if held, err := t.store.Release(t.Context(), used); err != nil || !held {
			t.Fatalf("Release = %v, %v, want true", held, err)
		}
		if next := t.acquire("n", "b", long); next < grant.Token+1_000_000_000 {
			t.Errorf("token %d follows %d and the next 999,999,999", next, grant.Token)
		}
	}},
	{"errors carry the context's", "the error of a call whose context has ended matches the context's own", func(t tester) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, tryErr := t.store.TryAcquire(ctx, lock.Request{Name: "n", Owner: "a", TTL: short})
		_, extendErr := t.store.Extend(ctx, lock.Request{Name: "n", Owner: "a", TTL: short})
		_, releaseErr := t.store.Release(ctx, lock.Request{Name: "n", Owner: "a", TTL: short})
		for step, err := range map[string]error{"TryAcquire": tryErr, "Extend": extendErr, "Release": releaseErr} {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s with a cancelled context returns %v, want context.Canceled", step, err)
			}
		}
		ctx, cancel = context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		defer cancel()
		if _, err := t.store.TryAcquire(ctx, lock.Request{Name: "n", Owner: "a", TTL: short}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("TryAcquire past its deadline returns %v, want context.DeadlineExceeded", err)
		}
	}},
}

// queueRules are for stores with a queue and shared leases.
var queueRules = []rule{
	{"one of many acquires", "each method is one atomic step", func(t tester) {
		if n := t.many(lock.Request{Name: "n", TTL: long}); n != 1 {
			t.Errorf("%d of %d acquired the same lease", n, many)
		}
	}},
	{"release wakes the first in the queue", "Release wakes the watchers for whom there is room, and nobody else", func(t tester) {
		t.acquire("n", "a", long)
		turnB, _ := t.watch("n", "b")
		turnC, _ := t.watch("n", "c")
		t.waits("n", "b")
		t.waits("n", "c")
		t.release("n", "a", true)
		t.woken(turnB)
		t.acquire("n", "b", long)
		t.release("n", "b", true)
		t.woken(turnC)
		select {
		case <-turnB:
			t.Error("a release woke somebody who does not wait")
		default:
		}
	}},
	{"the queue is served in its order", "whoever entered the queue earlier is ahead", func(t tester) {
		t.acquire("n", "holder", long)
		const waiters = 20
		for i := range waiters {
			t.waits("n", fmt.Sprint("w", i))
		}
		for i := range waiters {
			t.waits("n", fmt.Sprint("w", waiters-1-i)) // asking again keeps the place
		}
		t.release("n", "holder", true)
		for i := range waiters {
			for j := range waiters {
				if i < j {
					t.waits("n", fmt.Sprint("w", j))
				}
			}
			t.refused("n", "who does not wait")
			t.acquire("n", fmt.Sprint("w", i), long)
			t.release("n", fmt.Sprint("w", i), true)
		}
		t.acquire("n", "who does not wait", long)
	}},
	{"release gives the place up", "Release ends a place in the queue, and wakes those behind it", func(t tester) {
		t.acquire("n", "a", long)
		turn, _ := t.watch("n", "c")
		t.waits("n", "b")
		t.waits("n", "c")
		t.release("n", "a", true)
		t.waits("n", "c")
		t.release("n", "b", false)
		t.woken(turn)
		t.acquire("n", "c", long)
	}},
	{"a place ends", "a place is kept for as long as was asked for, and not longer", func(t tester) {
		name, place := t.inTime(func(t tester, name string, place time.Duration) {
			t.acquire(name, "a", long)
			if grant := t.ask(lock.Request{Name: name, Owner: "dead", TTL: long, Place: place}); grant.Acquired {
				t.Fatalf("a lease that is held was granted")
			}
			t.waits(name, "b")
			t.release(name, "a", true)
			if grant := t.refused(name, "c"); grant.HeldFor <= 0 || grant.HeldFor > place {
				t.Errorf("the place ahead is kept for %v, and the store says %v", place, grant.HeldFor)
			}
		})
		time.Sleep(place + short)
		t.refused(name, "c")
		t.acquire(name, "b", long)
	}},
	{"shared leases do not exclude one another", "a shared lease can be held with others that are shared, and excludes exclusive ones", func(t tester) {
		last := uint64(0)
		for i := range 10 {
			token := t.share("n", fmt.Sprint("r", i), 0, long)
			if token <= last {
				t.Errorf("token %d follows token %d", token, last)
			}
			last = token
		}
		for i := range 10 {
			if grant := t.refused("n", "w"); grant.HeldFor <= 0 || grant.HeldFor > long {
				t.Errorf("the refusal is %+v, want HeldFor within (0, %v]", grant, long)
			}
			t.extendShared("n", fmt.Sprint("r", i), 0, long, true)
			t.releaseShared("n", fmt.Sprint("r", i), 0, true)
			t.extendShared("n", fmt.Sprint("r", i), 0, long, false)
		}
		if token := t.acquire("n", "w", long); token <= last {
			t.Errorf("token %d follows token %d", token, last)
		}
		t.notShared("n", "r", 0)
		t.release("n", "w", true)
		t.share("n", "r", 0, long)
	}},
	{"shared leases end one by one", "each shared lease has its own end, which extend moves", func(t tester) {
		name, ttl := t.inTime(func(t tester, name string, ttl time.Duration) {
			t.share(name, "a", 0, ttl)
			t.share(name, "b", 0, ttl)
			t.extendShared(name, "b", 0, long, true)
		})
		time.Sleep(ttl + short)
		t.extendShared(name, "a", 0, long, false)
		t.releaseShared(name, "a", 0, false)
		t.refused(name, "w")
		t.extendShared(name, "b", 0, short, true)
		t.outlast(name)
	}},
	{"there are as many permits as the limit", "fewer than Limit hold a shared lease for there to be room", func(t tester) {
		name, ttl := t.inTime(func(t tester, name string, ttl time.Duration) {
			for i := range 3 {
				t.share(name, fmt.Sprint("p", i), 3, long)
			}
			if grant := t.notShared(name, "p", 3); grant.HeldFor <= 0 || grant.HeldFor > long {
				t.Errorf("the refusal is %+v, want HeldFor within (0, %v]", grant, long)
			}
			t.share(name, "p0", 3, long) // a repeat
			t.notShared(name, "p", 3)
			t.releaseShared(name, "p1", 3, true)
			t.share(name, "p3", 3, ttl)
			t.notShared(name, "p", 3)
		})
		time.Sleep(ttl + short)
		t.extendShared(name, "p3", 3, long, false)
		t.share(name, "p", 3, long)
	}},
	{"permits are given out to so many", "each method is one atomic step, for shared leases too", func(t tester) {
		if n := t.many(lock.Request{Name: "n", TTL: long, Shared: true, Limit: 5}); n != 5 {
			t.Errorf("%d of %d got one of 5 permits", n, many)
		}
	}},
	{"readers do not overtake a writer", "whoever entered the queue earlier is ahead, whether its lease is shared or not", func(t tester) {
		t.share("n", "r1", 0, long)
		turn, _ := t.watch("n", "w")
		t.waits("n", "w")
		t.notShared("n", "r2", 0)
		t.waitsShared("n", "r2", 0)
		t.releaseShared("n", "r1", 0, true)
		t.woken(turn)
		t.notShared("n", "r2", 0)
		t.acquire("n", "w", long)
		t.release("n", "w", true)
		t.share("n", "r2", 0, long)
	}},
	{"readers come together", "shared leases for which there is room together do not wait for one another", func(t tester) {
		t.acquire("n", "w1", long)
		var turns []<-chan struct{}
		for i := range 5 {
			turn, _ := t.watch("n", fmt.Sprint("r", i))
			turns = append(turns, turn)
			t.waitsShared("n", fmt.Sprint("r", i), 0)
		}
		t.waits("n", "w2")
		t.waitsShared("n", "late", 0)
		t.release("n", "w1", true)
		for i, turn := range turns {
			t.woken(turn)
			t.share("n", fmt.Sprint("r", len(turns)-1-i), 0, long)
		}
		t.notShared("n", "late", 0)
		t.refused("n", "w2")
	}},
	{"permits come as there is room", "a release wakes as many as there is room for", func(t tester) {
		t.acquire("n", "x", long)
		for i := range 4 {
			t.waitsShared("n", fmt.Sprint("p", i), 2)
		}
		turn, _ := t.watch("n", "p1")
		third, _ := t.watch("n", "p2")
		t.release("n", "x", true)
		t.woken(turn)
		t.share("n", "p1", 2, long)
		t.notShared("n", "p2", 2)
		t.share("n", "p0", 2, long)
		t.notShared("n", "p2", 2)
		t.releaseShared("n", "p1", 2, true)
		t.woken(third)
		t.notShared("n", "p3", 2)
		t.share("n", "p2", 2, long)
	}},
}

// relayRules are for stores that are a lock.Relay.
var relayRules = []rule{
	{"a relay releases and acquires", "Relay does what Release and then TryAcquire do", func(t tester) {
		grant := t.ask(lock.Request{Name: "n", Owner: "a", TTL: long, Tokens: 1_000_000_000})
		from := lock.Request{Name: "n", Owner: "a", TTL: long, Tokens: 10, Unused: 1_000_000_000 - 10}
		next := t.relay(from, lock.Request{Name: "n", Owner: "b", TTL: long, Place: long}, true)
		if !next.Acquired || next.Queued {
			t.Fatalf("nobody else waits, and Relay answers %+v, want the lease acquired", next)
		}
		if next.Token < grant.Token+10 || next.Token >= grant.Token+1_000_000_000 {
			t.Errorf("token %d follows %d and the next 9: those that were not used may be given out again", next.Token, grant.Token)
		}
		t.extend("n", "a", long, false)
		t.extend("n", "b", long, true)
		t.refused("n", "c")
		t.release("n", "b", true)
		t.acquire("n", "c", long)
	}},
	{"a relay is fair", "in a Relay, too, whoever entered the queue earlier is ahead, and is woken", func(t tester) {
		t.acquire("n", "a", long)
		turnW, _ := t.watch("n", "w")
		turnB, _ := t.watch("n", "b")
		t.waits("n", "w")
		grant := t.relay(lock.Request{Name: "n", Owner: "a", TTL: long}, lock.Request{Name: "n", Owner: "b", TTL: long, Place: long}, true)
		if grant.Acquired || !grant.Queued || grant.HeldFor <= 0 || grant.HeldFor > long {
			t.Fatalf("somebody else waits, and Relay answers %+v, want a place in the queue, and HeldFor within (0, %v]", grant, long)
		}
		t.woken(turnW)
		t.waits("n", "c")
		t.acquire("n", "w", long)
		t.release("n", "w", true)
		t.woken(turnB)
		t.refused("n", "c")
		t.acquire("n", "b", long)
		t.release("n", "b", true)
		t.acquire("n", "c", long)
	}},
	{"a relay can be repeated", "what is asked for in a Relay may be sent twice, and keeps its place then", func(t tester) {
		a, b := lock.Request{Name: "n", Owner: "a", TTL: long}, lock.Request{Name: "n", Owner: "b", TTL: long, Place: long}
		t.acquire("n", "a", long)
		t.waits("n", "w")
		t.relay(a, b, true)
		t.waits("n", "c")
		if _, grant, err := t.store.(lock.Relay).Relay(t.Context(), a, b); err != nil || grant.Acquired || !grant.Queued {
			t.Errorf("Relay once more = %+v, %v, want a place in the queue", grant, err)
		}
		t.release("n", "w", false) // its place
		t.refused("n", "c")
		token := t.acquire("n", "b", long)
		if _, grant, err := t.store.(lock.Relay).Relay(t.Context(), a, b); err != nil || !grant.Acquired || grant.Token < token {
			t.Errorf("Relay once more = %+v, %v, want the lease, under token %d or a larger one", grant, err, token)
		}
	}},
	{"a relay of nothing releases nothing", "Relay reports whether the owner did hold the lease", func(t tester) {
		t.acquire("n", "holder", long)
		a, b := lock.Request{Name: "n", Owner: "a", TTL: long}, lock.Request{Name: "n", Owner: "b", TTL: long}
		if grant := t.relay(a, b, false); grant.Acquired || grant.Queued {
			t.Errorf("Relay = %+v, want neither the lease, which is held, nor a place, which was not asked for", grant)
		}
		t.extend("n", "holder", long, true)
		t.release("n", "holder", true)
		t.acquire("n", "c", long)
	}},
	{"a relay is between kinds", "from and to may be of different kinds", func(t tester) {
		t.share("n", "r", 0, long)
		t.share("n", "s", 0, long)
		w := lock.Request{Name: "n", Owner: "w", TTL: long, Place: long}
		if grant := t.relay(lock.Request{Name: "n", Owner: "r", TTL: long, Shared: true}, w, true); grant.Acquired || !grant.Queued {
			t.Errorf("another shared lease is held, and Relay answers %+v, want a place in the queue", grant)
		}
		t.releaseShared("n", "s", 0, true)
		t.acquire("n", "w", long)
		if grant := t.relay(w, lock.Request{Name: "n", Owner: "t", TTL: long, Shared: true}, true); !grant.Acquired {
			t.Errorf("nobody else waits, and Relay answers %+v", grant)
		}
		t.share("n", "u", 0, long)
	}},
}

// exclusiveRules are for stores without.
var exclusiveRules = []rule{
	{"what there is not is refused", "a store without a queue or shared leases refuses what relies on them, with errors.ErrUnsupported", func(t tester) {
		for _, req := range []lock.Request{{Shared: true}, {Shared: true, Limit: 3}, {Fair: true, Place: long}} {
			req.Name, req.Owner, req.TTL = "n", rand.Text(), long
			if grant, err := t.store.TryAcquire(t.Context(), req); !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("TryAcquire(%+v) = %+v, %v, want errors.ErrUnsupported", req, grant, err)
			}
		}
		t.acquire("n", "a", long)
	}},
	{"a release wakes all", "without a queue a Release wakes all watchers of the name", func(t tester) {
		t.acquire("n", "a", long)
		b, _ := t.watch("n", "b")
		c, _ := t.watch("n", "c")
		t.release("n", "a", true)
		t.woken(b)
		t.woken(c)
	}},
}
