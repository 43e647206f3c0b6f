// Package idempotencytest states the rules of idempotency.Store as tests, for the
// stores of this module and for anybody's own.
package idempotencytest

import (
	"context"
	"crypto/rand"
	"sync"
	"testing"
	"time"

	"github.com/herdless/herdless/middleware/idempotency"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Run tests the stores that newStore returns against every rule of
// idempotency.Store, each in a subtest that quotes the rule when it fails. The
// stores may share a backend: every test makes up its own keys.
func Run(t *testing.T, newStore func(t *testing.T) idempotency.Store) {
	t.Helper()
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("the rule: %s", r.rule)
				}
			})
			r.test(&fixture{T: t, store: newStore(t), key: rand.Text()})
		})
	}
}

type rule struct {
	name, rule string
	test       func(f *fixture)
}

type fixture struct {
	*testing.T
	store idempotency.Store
	key   string
}

const (
	long  = time.Hour
	slack = time.Minute // how much later than expected a store may be on a busy machine
)

var print1, print2 = idempotency.Fingerprint{1}, idempotency.Fingerprint{2}

func (f *fixture) begin(owner string, print idempotency.Fingerprint, lease, ttl time.Duration) idempotency.State {
	f.Helper()
	s, err := f.store.Begin(f.Context(), f.key, idempotency.Begin{Owner: owner, Fingerprint: print, Lease: lease, TTL: ttl})
	require.NoError(f, err)
	return s
}

func (f *fixture) started(attempt int, owner string) {
	f.Helper()
	require.Equal(f, idempotency.State{Phase: idempotency.Started, Attempt: attempt}, f.begin(owner, print1, long, long))
}

func (f *fixture) finish(want bool, owner, response string) {
	f.Helper()
	stored, err := f.store.Finish(f.Context(), f.key, owner, []byte(response), long)
	require.NoError(f, err)
	require.Equal(f, want, stored, "whether it was stored")
}

func (f *fixture) extend(want bool, owner string, lease time.Duration) {
	f.Helper()
	ok, err := f.store.Extend(f.Context(), f.key, owner, lease)
	require.NoError(f, err)
	require.Equal(f, want, ok, "whether it was extended")
}

func (f *fixture) finished(response string) {
	f.Helper()
	require.Equal(f, idempotency.State{Phase: idempotency.Finished, Response: []byte(response)}, f.begin("late", print1, long, long))
}

func (f *fixture) eventually(ok func() bool, what string) {
	f.Helper()
	require.Eventually(f, ok, 10*time.Second, 2*time.Millisecond, what)
}

var rules = []rule{
	{
		"the first one runs it",
		"If nobody has asked before, it is Started, and owner's for the time of lease.",
		func(f *fixture) {
			f.started(1, "a")
			s := f.begin("b", print1, long, long)
			require.Equal(f, idempotency.Running, s.Phase)
			require.True(f, s.Remaining > long-slack && s.Remaining <= long, "%v", s.Remaining)
			f.key = rand.Text()
			f.started(1, "b")
		},
	},
	{
		"a response is there for all who come later",
		"Finish stores the response.",
		func(f *fixture) {
			f.started(1, "a")
			f.finish(true, "a", "the response\x00\xff")
			f.finished("the response\x00\xff")
			f.finish(false, "b", "another")
			f.extend(false, "a", long)
			require.NoError(f, f.store.Abandon(f.Context(), f.key, "a"))
			f.finished("the response\x00\xff")
		},
	},
	{
		"an empty response is one",
		"Finish stores the response.",
		func(f *fixture) {
			f.started(1, "a")
			f.finish(true, "a", "")
			require.Equal(f, idempotency.Finished, f.begin("b", print1, long, long).Phase)
		},
	},
	{
		"a key belongs to one request",
		"Mismatched: the key belongs to a request with another fingerprint.",
		func(f *fixture) {
			f.started(1, "a")
			require.Equal(f, idempotency.State{Phase: idempotency.Mismatched}, f.begin("b", print2, long, long))
			f.finish(true, "a", "r")
			require.Equal(f, idempotency.State{Phase: idempotency.Mismatched}, f.begin("b", print2, long, long))
			f.finished("r")
		},
	},
	{
		"who died is replaced",
		"If the one who runs it has neither finished nor extended its lease in time, it may. Finish reports false if owner is not the one who runs the request any more.",
		func(f *fixture) {
			f.begin("a", print1, 30*time.Millisecond, long)
			f.eventually(func() bool {
				s := f.begin("b", print1, long, long)
				return s.Phase == idempotency.Started && s.Attempt == 2
			}, "the lease must end")
			f.finish(false, "a", "late")
			f.extend(false, "a", long)
			require.NoError(f, f.store.Abandon(f.Context(), f.key, "a"))
			require.Equal(f, idempotency.Running, f.begin("c", print1, long, long).Phase)
			f.finish(true, "b", "in time")
			f.finished("in time")
		},
	},
	{
		"who extends is not replaced",
		"Extend gives owner the lease anew, also after the lease was over, as long as nobody else has begun.",
		func(f *fixture) {
			f.begin("a", print1, time.Millisecond, long)
			time.Sleep(5 * time.Millisecond)
			f.extend(true, "a", long)
			require.Equal(f, idempotency.Running, f.begin("b", print1, long, long).Phase)
			f.finish(true, "a", "r")
			f.finished("r")
		},
	},
	{
		"what is abandoned can be begun again",
		"Abandon lets the next one run the request, if owner is the one who does.",
		func(f *fixture) {
			f.started(1, "a")
			require.NoError(f, f.store.Abandon(f.Context(), f.key, "b"))
			require.Equal(f, idempotency.Running, f.begin("b", print1, long, long).Phase)
			require.NoError(f, f.store.Abandon(f.Context(), f.key, "a"))
			f.finish(false, "a", "r")
			f.started(2, "b")
			require.NoError(f, f.store.Abandon(f.Context(), f.key, "b"))
			f.started(3, "a")
		},
	},
	{
		"a step may arrive twice",
		"Steps may arrive twice: then they have the outcome of the first.",
		func(f *fixture) {
			f.started(1, "a")
			f.started(1, "a")
			f.finish(true, "a", "r")
			f.finish(true, "a", "r")
			f.finished("r")
		},
	},
	{
		"a key is forgotten",
		"The key is forgotten ttl after the last Begin that started it; Finish stores the response for ttl.",
		func(f *fixture) {
			f.begin("a", print1, 20*time.Millisecond, 20*time.Millisecond)
			f.eventually(func() bool {
				s := f.begin("b", print2, time.Millisecond, long)
				return s.Phase == idempotency.Started && s.Attempt == 1
			}, "the key must be forgotten, with its fingerprint")
			stored, err := f.store.Finish(f.Context(), f.key, "b", []byte("r"), 20*time.Millisecond)
			require.NoError(f, err)
			require.True(f, stored)
			f.eventually(func() bool { return f.begin("c", print1, long, long).Phase == idempotency.Started }, "the response must be forgotten")
		},
	},
	{
		"a key is not forgotten before its lease is over",
		"The key is forgotten ttl after the last Begin that started it, or at the end of the lease if that is later.",
		func(f *fixture) {
			f.begin("a", print1, time.Second, time.Second)
			f.extend(true, "a", long)
			<-time.After(1100 * time.Millisecond)
			require.Equal(f, idempotency.Running, f.begin("b", print1, long, long).Phase)
			f.extend(true, "a", long)
			f.finish(true, "a", "r")
			f.finished("r")
		},
	},
	{
		"who watches is woken",
		"Watch tells when the request may have been finished or abandoned.",
		func(f *fixture) {
			for _, end := range []func(){
				func() { require.NoError(f, f.store.Abandon(f.Context(), f.key, "a")) },
				func() { f.finish(true, "a", "r") },
			} {
				f.begin("a", print1, long, long)
				ctx, cancel := context.WithTimeout(f.Context(), 10*time.Second)
				woken, stop, err := f.store.Watch(ctx, f.key)
				cancel()
				require.NoError(f, err)
				end()
				select {
				case <-woken:
				case <-time.After(10 * time.Second):
					f.Fatal("nobody was woken")
				}
				stop()
				stop()
			}
		},
	},
	{
		"of many one runs it",
		"Each method is one atomic step.",
		func(f *fixture) {
			phases := make(chan idempotency.Phase, 50)
			var running sync.WaitGroup
			for range cap(phases) {
				running.Go(func() {
					s, err := f.store.Begin(f.Context(), f.key, idempotency.Begin{Owner: rand.Text(), Fingerprint: print1, Lease: long, TTL: long})
					assert.NoError(f, err)
					phases <- s.Phase
				})
			}
			running.Wait()
			close(phases)
			count := map[idempotency.Phase]int{}
			for p := range phases {
				count[p]++
			}
			require.Equal(f, map[idempotency.Phase]int{idempotency.Started: 1, idempotency.Running: 49}, count)
		},
	},
	{
		"a context that is done",
		"A call with a context that is done is an error.",
		func(f *fixture) {
			done, cancel := context.WithCancel(f.Context())
			cancel()
			_, err := f.store.Begin(done, f.key, idempotency.Begin{Owner: "a", Lease: long, TTL: long})
			require.ErrorIs(f, err, context.Canceled)
			f.started(1, "b")
		},
	},
}
