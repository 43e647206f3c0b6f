// Package sessiontest helps to test programs that use package session: Request
// makes a request of a client that has a session, and Clock lets sessions end.
// Run states the rules of session.Store as tests, for the stores of this module and
// for anybody's own.
package sessiontest

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/herdless/herdless/session"
	"github.com/stretchr/testify/require"
)

// Run tests the stores that newStore returns against every rule of
// session.Store, each in a subtest that quotes the rule when it fails. The
// stores may share a backend: every test makes up its own session ids. A run
// takes some seconds of real time, because the clock is the store's.
func Run(t *testing.T, newStore func(t *testing.T) session.Store) {
	t.Helper()
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("the rule: %s", r.rule)
				}
			})
			r.test(&fixture{T: t, store: newStore(t)})
		})
	}
	t.Run("agrees with a model", func(t *testing.T) { testModel(t, newStore(t)) })
}

// rule is one rule of session.Store.
type rule struct {
	name, rule string
	test       func(f *fixture)
}

// fixture is a store under test, and short ways to use it.
type fixture struct {
	*testing.T
	store session.Store
}

const (
	idle     = time.Hour
	absolute = 3 * time.Hour
	// slack is how much later than expected a store may be on a busy machine.
	slack = time.Minute
)

func newID() string { return rand.Text() }

// newOwner returns an owner in a place of its own, ownedID the id of a session
// of it.
func newOwner() string            { return rand.Text() }
func ownedID(owner string) string { return owner[:4] + rand.Text() }

func newDigest() (d session.Digest) {
	rand.Read(d[:])
	return d
}

// create begins a session with the values, given as name and value in turn.
func (f *fixture) create(values ...string) (id string, digest session.Digest) {
	f.Helper()
	id, digest = newID(), newDigest()
	f.commit(session.Committed, session.Delta{
		ID: id, Digest: digest, Create: true, Set: set(values...), IdleTimeout: idle, AbsoluteTimeout: absolute,
	})
	return id, digest
}

func (f *fixture) commit(want session.Outcome, d session.Delta) session.Result {
	f.Helper()
	res, err := f.store.Commit(f.Context(), d)
	require.NoError(f, err)
	require.Equal(f, want, res.Outcome, "outcome of the commit")
	if want != session.Committed {
		require.Equal(f, session.Result{Outcome: want}, res, "all but Outcome is set only if it is Committed")
	}
	return res
}

func (f *fixture) load(want session.State, id string, digest session.Digest) session.Record {
	f.Helper()
	rec, err := f.store.Load(f.Context(), id, digest)
	require.NoError(f, err)
	require.Equal(f, want, rec.State, "state on load")
	if want == session.Missing || want == session.Reused {
		require.Equal(f, session.Record{State: want}, rec, "for Missing and Reused nothing else is set")
		return rec
	}
	all, err := f.store.LoadAll(f.Context(), id, digest, false)
	require.NoError(f, err)
	require.Equal(f, want, all.State, "state on LoadAll")
	leavesOut(f, rec.Values, all.Values)
	rec.Values = all.Values
	return rec
}

// leavesOut requires some to be all, but for what is left out and said to be.
func leavesOut(t require.TestingT, some, all session.Values) {
	require.Len(t, some, len(all))
	for i, e := range all {
		require.Zero(t, e.LeftOut, "LoadAll leaves out nothing")
		if some[i].LeftOut > 0 {
			e = session.Entry{Name: e.Name, LeftOut: len(e.Data)}
		}
		require.Equal(t, e, some[i])
	}
}

// values requires the session to have exactly these values.
func (f *fixture) values(id string, digest session.Digest, want ...string) {
	f.Helper()
	require.Equal(f, set(want...), f.load(session.Current, id, digest).Values.Map())
}

// eventually polls until ok, within a few seconds.
func (f *fixture) eventually(ok func() bool, what string) {
	f.Helper()
	require.Eventually(f, ok, 10*time.Second, 2*time.Millisecond, what)
}

func set(namesAndValues ...string) map[string][]byte {
	m := map[string][]byte{}
	for i := 0; i < len(namesAndValues); i += 2 {
		m[namesAndValues[i]] = []byte(namesAndValues[i+1])
	}
	return m
}

func between[T int64 | time.Duration](f *fixture, low, high, got T, what string) {
	f.Helper()
	if got < low || got > high {
		f.Fatalf("%s is %v, want between %v and %v", what, got, low, high)
	}
}
