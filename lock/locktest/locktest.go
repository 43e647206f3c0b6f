// Package locktest checks that a [lock.Store] keeps the rules of its contract.
package locktest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
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
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("the rule that is broken: %s", r.rule)
				}
			})
			r.check(tester{t, newStore(t)})
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
}

func (t tester) try(name, owner string, ttl time.Duration) lock.Grant {
	t.Helper()
	grant, err := t.store.TryAcquire(t.Context(), lock.Request{Name: name, Owner: owner, TTL: ttl})
	if err != nil {
		t.Fatalf("TryAcquire(%.40q, %q, %v): %v", name, owner, ttl, err)
	}
	return grant
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
// it for owner.
func (t tester) outlast(name, owner string) uint64 {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		grant := t.try(name, owner, long)
		if grant.Acquired {
			return grant.Token
		}
		time.Sleep(grant.HeldFor + time.Millisecond) // what a store says is to be believed
	}
	t.Fatalf("the lease of %q did not end within %v", name, patience)
	return 0
}

func (t tester) extend(name, owner string, ttl time.Duration, want bool) {
	t.Helper()
	got, err := t.store.Extend(t.Context(), name, owner, ttl)
	if err != nil || got != want {
		t.Fatalf("Extend(%.40q, %q, %v) = %v, %v, want %v", name, owner, ttl, got, err, want)
	}
}

func (t tester) release(name, owner string, want bool) {
	t.Helper()
	got, err := t.store.Release(t.Context(), name, owner)
	if err != nil || got != want {
		t.Fatalf("Release(%.40q, %q) = %v, %v, want %v", name, owner, got, err, want)
	}
}

func (t tester) watch(name string) (<-chan struct{}, func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	released, stop, err := t.store.Watch(ctx, name)
	if err != nil {
		t.Fatalf("Watch(%.40q): %v", name, err)
	}
	t.Cleanup(stop)
	return released, stop
}

func (t tester) woken(released <-chan struct{}) {
	t.Helper()
	select {
	case <-released:
	case <-time.After(patience):
		t.Fatalf("the watcher was not woken within %v", patience)
	}
}

// hostileNames are names that have broken key schemes. A store must keep them
// apart.
var hostileNames = []string{
	"a", "A", "a ", " a", "", "0", "a:fence", "a:released", "a}:fence", "{a}", "{a", "a}", "{}", "}{", "{}a", "{{a}}", "{{a}",
	"%7Ba%7D", "sha256:", "sha256:" + strings.Repeat("0", 64), "\x00", "a\x00", "a\x00b", "a\r\nb", "*", "a*", "[a]", "?", "\\",
	"\xff\xfe", "é", "e\u0301", "鍵", "🔒", "\u202ea", strings.Repeat("n", 512), strings.Repeat("n", 513), strings.Repeat("n", 10_000),
	strings.Repeat("{", 10_000),
}

var rules = []rule{
	{"a held lease is refused", "TryAcquire takes the lease if nobody holds it, and says how long the holder has left at most", func(t tester) {
		t.acquire("n", "a", long)
		if grant := t.refused("n", "b"); grant.HeldFor <= 0 || grant.HeldFor > long || grant.Token != 0 {
			t.Errorf("the refusal is %+v, want HeldFor within (0, %v] and no token", grant, long)
		}
	}},
	{"one of many acquires", "each method is one atomic step", func(t tester) {
		var wg sync.WaitGroup
		granted := make(chan string, 32)
		for i := range cap(granted) {
			wg.Go(func() {
				owner := fmt.Sprint("owner", i)
				grant, err := t.store.TryAcquire(t.Context(), lock.Request{Name: "n", Owner: owner, TTL: long})
				if err != nil {
					t.Error(err)
				}
				if grant.Acquired {
					granted <- owner
				}
			})
		}
		wg.Wait()
		if len(granted) != 1 {
			t.Errorf("%d of %d acquired the same lease", len(granted), cap(granted))
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
		for _, owner := range []string{"a", "A", "a\x00", "\x00", "+a", "-a", "\xff", strings.Repeat("a", 1000)} {
			t.acquire("n", owner, long)
			for _, other := range []string{"", "b", owner + "\x00", owner + "a", owner[:len(owner)-1]} {
				t.refused("n", other)
				t.extend("n", other, long, false)
				t.release("n", other, false)
			}
			t.release("n", owner, true)
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
		grows(t.acquire("n", "a", short))
		grows(t.outlast("n", "b"))
	}},
	{"a repeat is the same grant", "an owner that holds the lease is granted it again under the same token", func(t tester) {
		token := t.acquire("n", "a", short)
		if again := t.acquire("n", "a", long); again != token {
			t.Errorf("the repeat has token %d, the first had %d", again, token)
		}
		if grant := t.refused("n", "b"); grant.HeldFor <= short {
			t.Errorf("the repeat of %v did not prolong the lease: it has %v left", long, grant.HeldFor)
		}
	}},
	{"a lease ends", "a lease that is not extended ends when its TTL is over", func(t tester) {
		t.acquire("n", "a", short)
		t.outlast("n", "b")
		t.extend("n", "a", long, false)
		t.release("n", "a", false)
		t.refused("n", "c")
	}},
	{"extend moves the end", "after Extend the lease ends ttl from then", func(t tester) {
		t.acquire("n", "a", long)
		t.extend("n", "a", 2*long, true)
		if grant := t.refused("n", "b"); grant.HeldFor <= long || grant.HeldFor > 2*long {
			t.Errorf("after an extension by %v the lease has %v left", 2*long, grant.HeldFor)
		}
		t.extend("n", "a", short, true)
		t.outlast("n", "b")
	}},
	{"extend takes nothing", "Extend never takes a lease that has ended", func(t tester) {
		t.extend("n", "a", long, false)
		t.acquire("n", "a", long)
		t.release("n", "a", true)
		t.extend("n", "a", long, false)
		t.acquire("n", "b", short)
		time.Sleep(2 * short) // on the store's clock: nobody may ask meanwhile
		t.extend("n", "b", long, false)
		t.acquire("n", "c", long)
	}},
	{"release ends the lease", "Release ends the lease if owner still holds it, and reports whether it did", func(t tester) {
		t.release("n", "a", false)
		t.acquire("n", "b", long)
		t.release("n", "b", true)
		t.acquire("n", "c", long)
		if _, err := t.store.Release(t.Context(), "n", "b"); err != nil {
			t.Errorf("Release once more: %v", err)
		}
		t.refused("n", "d")
	}},
	{"release wakes the watchers", "Release wakes the watchers of the name, all of them, each time", func(t tester) {
		w1, _ := t.watch("n")
		w2, _ := t.watch("n")
		for range 20 {
			owner := rand.Text()
			t.acquire("n", owner, long)
			t.release("n", owner, true)
			t.woken(w1)
			t.woken(w2)
		}
	}},
	{"hostile names can be watched", "the watchers of a name hear of its releases, whatever bytes it has", func(t tester) {
		for _, name := range hostileNames {
			released, stop := t.watch(name)
			t.acquire(name, "a", long)
			t.release(name, "a", true)
			t.woken(released)
			stop()
		}
	}},
	{"a stopped watch does not hinder", "stop ends the watch, and may be called more than once", func(t tester) {
		_, stop := t.watch("n")
		other, _ := t.watch("n")
		stop()
		stop()
		t.acquire("n", "a", long)
		t.release("n", "a", true)
		t.woken(other)
	}},
	{"a watch outlives its context", "ctx bounds only the call of Watch itself", func(t tester) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		released, stop, err := t.store.Watch(ctx, "n")
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		t.acquire("n", "a", long)
		t.release("n", "a", true)
		t.woken(released)
	}},
	{"errors carry the context's", "the error of a call whose context has ended matches the context's own", func(t tester) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, tryErr := t.store.TryAcquire(ctx, lock.Request{Name: "n", Owner: "a", TTL: short})
		_, extendErr := t.store.Extend(ctx, "n", "a", short)
		_, releaseErr := t.store.Release(ctx, "n", "a")
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
