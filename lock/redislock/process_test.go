package redislock_test

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/rpc"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A process that is killed keeps others out for its TTL, at whatever moment
// between two renewals it is killed.
func TestTheHolderIsKilled(t *testing.T) {
	server := redistest.Standalone(t)
	prefix := redistest.Prefix(t)
	holder, next := startProcess(t, server.Addr(), prefix), startProcess(t, server.Addr(), prefix)
	const ttl, leases, target = time.Second, 10, 250 * time.Millisecond
	name := func(i int) string { return fmt.Sprint("n", i) }
	var first []Held
	var waiting []<-chan *rpc.Call
	for i := range leases {
		first = append(first, holder.acquire(t, Order{Name: name(i), TTL: ttl}))
		time.Sleep(rand.N(ttl / 3 / leases))
	}
	for i := range leases {
		waiting = append(waiting, next.acquireSoon(Order{Name: name(i), TTL: ttl}))
	}
	time.Sleep(2*ttl + rand.N(ttl/3)) // the holder renews
	for _, call := range waiting {
		require.Empty(t, call, "the holder lives")
	}
	worst := stalls(t, next)
	killed := holder.signal(t, syscall.SIGKILL)

	var took []time.Duration
	for i := range leases {
		second := held(t, waiting[i])
		assert.Greater(t, second.Token, first[i].Token)
		took = append(took, second.At.Sub(killed))
		next.release(t, name(i))
	}
	slices.Sort(took)
	t.Logf("another process had the lease %v to %v after the death of the holder; target: TTL + 250 ms = %v; this machine stalls for up to %v",
		took[0], took[leases-1], ttl+target, worst())
	assert.LessOrEqual(t, took[leases-1], ttl+target+worst())
}

// Those behind a waiter that died wait for the end of its place as well.
func TestTheHolderIsKilledWithAWaiter(t *testing.T) {
	tests := []struct {
		name       string
		kind       string // of the Locker of the waiter that dies
		elsewhere  bool   // it is in a process of its own, which dies as well
		inTheQueue bool
	}{
		{"that stands in the same line", "", false, false},
		{"that stands in the queue", "fair", false, true},
		{"that is a reader", "shared", false, true},
		{"of another process", "", true, true},
	}
	server := redistest.Standalone(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // the processes do next to nothing
			rdb, prefix := server.Client(t), redistest.Prefix(t)
			const ttl = time.Second
			holder, next := startProcess(t, server.Addr(), prefix), startProcess(t, server.Addr(), prefix)
			first, waiter := holder.acquire(t, Order{Name: "n", TTL: ttl}), holder
			if tt.elsewhere {
				waiter = startProcess(t, server.Addr(), prefix)
			}
			waiter.acquireSoon(Order{Kind: tt.kind, Name: "n", TTL: ttl})
			queued := int64(0)
			if tt.inTheQueue {
				queued = 1
			}
			length := func() int64 { return rdb.ZCard(t.Context(), prefix+"{n}:queue").Val() }
			eventually(t, patience, "the one that dies stands in the queue", func() bool { return length() == queued })
			waiting := next.acquireSoon(Order{Name: "n", TTL: ttl})
			eventually(t, patience, "the other one stands in the queue", func() bool { return length() == queued+1 })
			time.Sleep(ttl + rand.N(ttl)) // both keep asking
			require.Empty(t, waiting, "the holder lives")
			worst := stalls(t, next)
			killed := holder.signal(t, syscall.SIGKILL)
			if tt.elsewhere {
				waiter.signal(t, syscall.SIGKILL)
			}

			second := held(t, waiting)
			t.Logf("another process had the lease %v after; target: max(TTL, 2 s) = 2s; this machine stalls for up to %v", second.At.Sub(killed), worst())
			assert.LessOrEqual(t, second.At.Sub(killed), max(ttl, 2*time.Second)+worst())
			assert.Greater(t, second.Token, first.Token)
			next.release(t, "n")
		})
	}
}

// What no lease can prevent, and the fencing token does: a holder who is paused,
// by the garbage collector, a debugger or the machine, and writes when its lease
// has long been another's.
func TestAPausedHolderWritesLate(t *testing.T) {
	server := redistest.Standalone(t)
	prefix := redistest.Prefix(t)
	rdb := server.Client(t)
	holder, next := startProcess(t, server.Addr(), prefix), startProcess(t, server.Addr(), prefix)
	const ttl, rounds, writes, target = 500 * time.Millisecond, 3, 100, 50 * time.Millisecond
	stalled := stalls(t)
	var worst time.Duration
	for round := range rounds {
		name, key := fmt.Sprint("n", round), fmt.Sprint(prefix, "ledger", round)
		o := WriteOrder{Name: name, Key: key, Value: "late", Times: writes, Pause: ttl}
		first := holder.acquire(t, Order{Name: name, TTL: ttl})
		require.NoError(t, holder.Call("Process.Write", o, new(struct{})), "a holder can write")
		require.NoError(t, holder.Call("Process.AwaitPause", o, new(struct{})))
		time.Sleep(rand.N(ttl / 3)) // at any moment between two renewals
		stopped := holder.signal(t, syscall.SIGSTOP)

		second := next.acquire(t, Order{Name: name, TTL: ttl})
		assert.Greater(t, second.Token, first.Token)
		require.NoError(t, next.Call("Process.Write", WriteOrder{Name: name, Key: key, Value: "right"}, new(struct{})))
		time.Sleep(time.Until(stopped.Add(2 * ttl)))
		continued := holder.signal(t, syscall.SIGCONT)
		var got Overtaken
		require.NoError(t, holder.Call("Process.Overtaken", struct{}{}, &got))
		assert.Zero(t, got.Accepted)
		assert.Equal(t, writes, got.Refused)
		assert.True(t, got.Lost, "the cause must be ErrLost")
		late := got.Ended.Sub(continued)
		assert.LessOrEqual(t, late, target+max(stalled(), got.Stalled))
		worst = max(worst, late)
		assert.Equal(t, "right", rdb.HGet(t.Context(), key, "value").Val())
		require.NoError(t, rdb.Del(t.Context(), key).Err())
		next.release(t, name)
	}
	t.Logf("accepted 0 of %d late writes; the context ended %v after SIGCONT at the latest; target: %v; this machine stalls for up to %v", rounds*writes, worst, target, stalled())
}

// Processes that contend for a lease, and die while they hold it, never hold it
// together with those whom it excludes.
func TestHoldersThatAreKilledExcludeOthers(t *testing.T) {
	server := redistest.Standalone(t)
	const ttl, lasts, dies = 500 * time.Millisecond, 5 * time.Second, 0.03
	repeat := func(kinds []string, n int) (processes [][]string) {
		for range n {
			processes = append(processes, kinds)
		}
		return processes
	}
	tests := []struct {
		name      string
		processes [][]string // the kind of each goroutine
		most      int        // holders at a time
	}{
		{"a semaphore of 3, 9 processes", repeat([]string{"3"}, 9), 3},
		{"a semaphore of 3, 3 processes of 3", repeat([]string{"3", "3", "3"}, 3), 3},
		{"one writer or 6 readers", repeat([]string{"", "shared", "shared"}, 3), 6},
		{"one writer or 2 of 6 readers", repeat([]string{"fair", "2", "2"}, 3), 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := ContendOrder{Name: "n", TTL: ttl, Hold: 20 * time.Millisecond, Dies: dies, Dir: t.TempDir()}
			prefix := redistest.Prefix(t)
			over := time.Now().Add(lasts)
			var wg sync.WaitGroup
			for i, kinds := range tt.processes {
				wg.Go(func() {
					o := o
					o.Kinds = kinds
					if i == 0 {
						o.Dies = 1 // with its first lease: one holder dies at least
					}
					for o.For = lasts; o.For > 0; o.For = time.Until(over) {
						p, err := newProcess(server.Addr(), prefix)
						if !assert.NoError(t, err) {
							return
						}
						err = p.Call("Process.Contend", o, new(struct{}))
						p.end()
						o.Dies = dies
						if said := rpc.ServerError(""); errors.As(err, &said) { // any other error: it has died
							assert.NoError(t, err)
							return
						}
					}
				})
			}
			wg.Wait()
			leases := readLeases(t, o.Dir)
			deaths := 0
			for _, l := range leases {
				if !l.released {
					deaths++
				}
			}
			seen := mostAtATime(t, leases)
			t.Logf("%d leases, %d holders died, %d at a time, at most %d may be", len(leases), deaths, seen, tt.most)
			assert.LessOrEqual(t, seen, tt.most, "holders at a time")
			assert.Greater(t, seen, 1, "holders at a time: nothing is tested otherwise")
			assert.NotZero(t, deaths)
		})
	}
}

// live is for how long a holder has found its lease alive.
type live struct {
	kind     string
	from, to int64 // ns
	released bool
}

// readLeases reads what Contend has recorded in dir.
func readLeases(t *testing.T, dir string) []*live {
	t.Helper()
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	leases := make(map[string]*live)
	for _, entry := range files {
		file, err := os.Open(filepath.Join(dir, entry.Name()))
		require.NoError(t, err)
		defer file.Close()
		for lines := bufio.NewScanner(file); lines.Scan(); {
			var kind, id string
			var at int64
			var last bool
			_, err := fmt.Sscanf(lines.Text(), "%q %s %d %v", &kind, &id, &at, &last)
			require.NoError(t, err)
			l := leases[id]
			if l == nil {
				l = &live{kind: kind, from: at}
				leases[id] = l
			}
			l.to, l.released = at, last
		}
	}
	list := make([]*live, 0, len(leases))
	for _, l := range leases {
		list = append(list, l)
	}
	return list
}

// mostAtATime returns how many were live at a time, and fails the test where an
// exclusive lease was not alone.
func mostAtATime(t *testing.T, leases []*live) (most int) {
	t.Helper()
	type event struct {
		at    int64
		begin bool
		lease *live
	}
	var events []event
	for _, l := range leases {
		events = append(events, event{l.from, true, l}, event{l.to, false, l})
	}
	// What ends at an instant makes room for what begins at it, unless it is the
	// same.
	rank := func(e event) int {
		switch {
		case e.begin:
			return 1
		case e.lease.from == e.lease.to:
			return 2
		}
		return 0
	}
	slices.SortFunc(events, func(a, b event) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(rank(a), rank(b))) })
	now := make(map[*live]bool)
	for _, e := range events {
		if !e.begin {
			delete(now, e.lease)
			continue
		}
		for other := range now {
			if writes(e.lease) || writes(other) {
				assert.Fail(t, "an exclusive lease is not alone", "%+v and %+v", *other, *e.lease)
			}
		}
		now[e.lease] = true
		most = max(most, len(now))
	}
	return most
}

// writes reports whether l is an exclusive lease.
func writes(l *live) bool { return l.kind == "" || l.kind == "fair" }
