package sessiontest

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/herdless/herdless/session"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// createOwned begins a session of owner.
func (f *fixture) createOwned(owner string) (id string, digest session.Digest) {
	f.Helper()
	id, digest = ownedID(owner), newDigest()
	f.commit(session.Committed, owned(owner, id, digest))
	return id, digest
}

func owned(owner, id string, digest session.Digest) session.Delta {
	return session.Delta{
		ID: id, Digest: digest, Create: true, Owner: owner, Meta: []byte("of " + id), Authenticated: true,
		IdleTimeout: idle, AbsoluteTimeout: absolute,
	}
}

// listed requires the owner to have exactly these sessions.
func (f *fixture) listed(owner string, want ...string) {
	f.Helper()
	list, err := f.store.List(f.Context(), owner)
	require.NoError(f, err)
	got := []string{}
	for _, l := range list {
		got = append(got, l.ID)
	}
	require.ElementsMatch(f, want, got, "the list of the owner")
}

func (f *fixture) revoke(owner string, which session.Selection, want ...string) {
	f.Helper()
	ids, ok, err := f.store.Revoke(f.Context(), owner, which)
	require.NoError(f, err)
	require.True(f, ok)
	require.ElementsMatch(f, want, ids, "the sessions that were ended")
}

var ownedRules = []rule{
	{
		"the sessions of an owner are listed",
		"List returns the sessions of owner.",
		func(f *fixture) {
			owner, other := newOwner(), newOwner()
			f.listed(owner)
			before := time.Now()
			a, digest := f.createOwned(owner)
			b, _ := f.createOwned(owner)
			c, _ := f.createOwned(other)
			f.create("a", "1") // of nobody
			f.listed(owner, a, b)
			f.listed(other, c)

			f.commit(session.Committed, session.Delta{ID: a, Digest: digest, Meta: []byte("new")})
			list, err := f.store.List(f.Context(), owner)
			require.NoError(f, err)
			for _, l := range list {
				want := "of " + l.ID
				if l.ID == a {
					want = "new"
					assert.True(f, l.SeenAt.After(l.CreatedAt) || l.SeenAt.Equal(l.CreatedAt))
				}
				assert.Equal(f, want, string(l.Meta))
				assert.WithinDuration(f, before, l.CreatedAt, slack)
				assert.WithinDuration(f, before, l.AuthenticatedAt, slack)
				assert.WithinDuration(f, before, l.SeenAt, slack)
				between(f, idle-slack, idle, l.ExpiresIn, "Listed.ExpiresIn")
			}
			deleted, err := f.store.Delete(f.Context(), a)
			require.NoError(f, err)
			require.True(f, deleted)
			f.listed(owner, b)
		},
	},
	{
		"sessions that end by their time leave the list",
		"A session whose time is over is gone, exactly as if it had been deleted.",
		func(f *fixture) {
			owner := newOwner()
			stays, _ := f.createOwned(owner)
			d := owned(owner, ownedID(owner), newDigest())
			d.IdleTimeout = 30 * time.Millisecond
			f.commit(session.Committed, d)
			f.eventually(func() bool {
				list, err := f.store.List(f.Context(), owner)
				return err == nil && len(list) == 1 && list[0].ID == stays
			}, "the session must leave the list when its time is over")
			f.revoke(owner, session.Selection{}, stays)
		},
	},
	{
		"one session of an owner is revoked",
		"Revoke ends, for good, the sessions of owner that which selects.",
		func(f *fixture) {
			owner := newOwner()
			a, digestA := f.createOwned(owner)
			b, digestB := f.createOwned(owner)
			stranger, digestS := f.createOwned(owner[:4] + newOwner()) // in the same place
			nobodys, digestN := f.create("a", "1")
			f.revoke(owner, session.Selection{Only: a}, a)
			f.revoke(owner, session.Selection{Only: a})
			f.revoke(owner, session.Selection{Only: stranger})
			f.revoke(owner, session.Selection{Only: nobodys})
			f.load(session.Missing, a, digestA)
			f.commit(session.Gone, session.Delta{ID: a, Digest: digestA, Set: set("a", "1")})
			f.load(session.Current, b, digestB)
			f.load(session.Current, stranger, digestS)
			f.load(session.Current, nobodys, digestN)
			f.listed(owner, b)
		},
	},
	{
		"all others, or all, are revoked",
		"Selection selects the one called Only, or if that is empty all but the one called Except, or all if both are empty.",
		func(f *fixture) {
			owner := newOwner()
			a, digestA := f.createOwned(owner)
			b, digestB := f.createOwned(owner)
			c, _ := f.createOwned(owner)
			f.revoke(owner, session.Selection{Except: b}, a, c)
			f.load(session.Missing, a, digestA)
			f.load(session.Current, b, digestB)
			f.listed(owner, b)
			f.revoke(owner, session.Selection{}, b)
			f.revoke(owner, session.Selection{})
			f.listed(owner)
			f.commit(session.Gone, session.Delta{ID: b, Digest: digestB})
			f.listed(owner)
		},
	},
	{
		"who is gone revokes nobody",
		"If which.Except names no session of owner, or one that is gone, nothing ends and ok is false.",
		func(f *fixture) {
			owner, other := newOwner(), newOwner()
			a, digestA := f.createOwned(owner)
			b, digestB := f.createOwned(owner)
			neighbour, _ := f.createOwned(owner[:4] + newOwner())
			stranger, _ := f.createOwned(other)
			nobodys, _ := f.create()
			over := owned(owner, ownedID(owner), newDigest())
			over.IdleTimeout = 5 * time.Millisecond
			f.commit(session.Committed, over)
			f.eventually(func() bool {
				rec, err := f.store.Load(f.Context(), over.ID, over.Digest)
				return err == nil && rec.State == session.Missing
			}, "the session must end by its time")
			taken, digest := f.createOwned(owner)
			_, err := f.store.Take(f.Context(), taken, digest, "taker", time.Hour)
			require.NoError(f, err)
			f.revoke(owner, session.Selection{Only: a}, a)
			for what, except := range map[string]string{
				"was revoked": a, "is over": over.ID, "is withdrawn": taken, "never was": ownedID(owner), "never was anywhere": newID(),
				"is another owner's of the place": neighbour, "is another owner's": stranger, "is nobody's": nobodys,
			} {
				ids, ok, err := f.store.Revoke(f.Context(), owner, session.Selection{Except: except})
				require.NoError(f, err)
				require.False(f, ok, "by one that %s", what)
				require.Empty(f, ids)
			}
			f.load(session.Current, b, digestB)
			f.load(session.Missing, a, digestA)
			f.alive(true, neighbour)
			f.alive(true, stranger)
			f.revoke(owner, session.Selection{Except: b}, taken)
			f.listed(owner, b)
		},
	},
	{
		"of two that end each other one stays",
		"Every method is one atomic step.",
		func(f *fixture) {
			for range 20 {
				owner := newOwner()
				a, _ := f.createOwned(owner)
				b, _ := f.createOwned(owner)
				var running sync.WaitGroup
				for _, id := range []string{a, b} {
					running.Go(func() {
						_, _, err := f.store.Revoke(f.Context(), owner, session.Selection{Except: id})
						assert.NoError(f, err)
					})
				}
				running.Wait()
				list, err := f.store.List(f.Context(), owner)
				require.NoError(f, err)
				require.Len(f, list, 1)
			}
		},
	},
	{
		"a cap refuses",
		"If there were more, the answer is TooMany. A Delta that only arrives for the second time is not counted again.",
		func(f *fixture) {
			owner := newOwner()
			var ids []string
			for range 2 {
				d := owned(owner, ownedID(owner), newDigest())
				d.MaxOwned = 2
				f.commit(session.Committed, d)
				f.commit(session.Committed, d)
				ids = append(ids, d.ID)
			}
			d := owned(owner, ownedID(owner), newDigest())
			d.MaxOwned = 2
			f.commit(session.TooMany, d)
			f.load(session.Missing, d.ID, d.Digest)
			f.listed(owner, ids...)
			f.revoke(owner, session.Selection{Only: ids[0]}, ids[0])
			f.commit(session.Committed, d)
			f.listed(owner, ids[1], d.ID)
		},
	},
	{
		"a cap ends the oldest",
		"If there were more, those that began first are ended with EvictOldest.",
		func(f *fixture) {
			owner := newOwner()
			var ids []string
			var digests []session.Digest
			for range 4 {
				id, digest := f.createOwned(owner)
				ids, digests = append(ids, id), append(digests, digest)
				time.Sleep(3 * time.Millisecond) // the clock counts milliseconds
			}
			f.commit(session.Committed, session.Delta{ID: ids[0], Digest: digests[0]}) // use does not make it younger
			d := owned(owner, ownedID(owner), newDigest())
			d.MaxOwned, d.EvictOldest = 3, true
			res, err := f.store.Commit(f.Context(), d)
			require.NoError(f, err)
			require.Equal(f, session.Committed, res.Outcome)
			assert.ElementsMatch(f, ids[:2], res.Evicted)
			f.listed(owner, ids[2], ids[3], d.ID)
			f.load(session.Missing, ids[0], digests[0])
			f.load(session.Missing, ids[1], digests[1])
			f.load(session.Current, ids[2], digests[2])
		},
	},
	{
		"of many at once so many are alive as the cap says",
		"Every method is one atomic step.",
		func(f *fixture) {
			for _, evict := range []bool{false, true} {
				owner := newOwner()
				outcomes := make(chan session.Outcome, 20)
				var running sync.WaitGroup
				for range cap(outcomes) {
					running.Go(func() {
						d := owned(owner, ownedID(owner), newDigest())
						d.MaxOwned, d.EvictOldest = 3, evict
						res, err := f.store.Commit(f.Context(), d)
						assert.NoError(f, err)
						outcomes <- res.Outcome
					})
				}
				running.Wait()
				close(outcomes)
				count := map[session.Outcome]int{}
				for o := range outcomes {
					count[o]++
				}
				want := map[session.Outcome]int{session.Committed: 3, session.TooMany: 17}
				if evict {
					want = map[session.Outcome]int{session.Committed: 20}
				}
				assert.Equal(f, want, count)
				list, err := f.store.List(f.Context(), owner)
				require.NoError(f, err)
				assert.Len(f, list, 3)
			}
		},
	},
	{
		"sessions that have ended do not count",
		"MaxOwned is how many sessions Owner may have with the new one.",
		func(f *fixture) {
			owner := newOwner()
			d := owned(owner, ownedID(owner), newDigest())
			d.IdleTimeout, d.MaxOwned = 20*time.Millisecond, 1
			f.commit(session.Committed, d)
			d = owned(owner, ownedID(owner), newDigest())
			d.MaxOwned = 1
			f.eventually(func() bool {
				res, err := f.store.Commit(f.Context(), d)
				return err == nil && res.Outcome == session.Committed
			}, "an ended session must make room")
			f.listed(owner, d.ID)
		},
	},
	{
		"what is taken is withdrawn from everybody",
		"While it is withdrawn the session is gone for Load, Commit, Alive and Take by another taker; Delete ends it as usual.",
		func(f *fixture) {
			id, digest := f.create("a", "1")
			rec, err := f.store.Take(f.Context(), id, newDigest(), "taker", time.Hour)
			require.NoError(f, err)
			require.Equal(f, session.Record{}, rec)
			f.values(id, digest, "a", "1")

			rec, err = f.store.Take(f.Context(), id, digest, "taker", time.Hour)
			require.NoError(f, err)
			require.Equal(f, session.Current, rec.State)
			require.Equal(f, set("a", "1"), rec.Values.Map())
			between(f, idle-slack, idle, rec.ExpiresIn, "Record.ExpiresIn")
			f.load(session.Missing, id, digest)
			f.commit(session.Gone, session.Delta{ID: id, Digest: digest, Set: set("a", "2")})
			f.commit(session.Exists, session.Delta{ID: id, Digest: newDigest(), Create: true, IdleTimeout: idle, AbsoluteTimeout: absolute})
			f.alive(false, id)
			again, err := f.store.Take(f.Context(), id, digest, "another", time.Hour)
			require.NoError(f, err)
			require.Equal(f, session.Record{}, again)
			_, err = f.store.Take(f.Context(), id, digest, "another", 0)
			require.NoError(f, err)
			f.load(session.Missing, id, digest)
			again, err = f.store.Take(f.Context(), id, digest, "taker", time.Hour)
			require.NoError(f, err)
			require.Equal(f, rec.Values, again.Values, "the same command, that arrives twice")
			deleted, err := f.store.Delete(f.Context(), id)
			require.NoError(f, err)
			require.True(f, deleted)
			f.load(session.Missing, id, digest)
		},
	},
	{
		"what was taken comes back",
		"If nothing deletes it, it comes back. A hold of zero gives back at once what the same taker has taken.",
		func(f *fixture) {
			id, digest := f.create("a", "1")
			_, err := f.store.Take(f.Context(), id, digest, "taker", 30*time.Millisecond)
			require.NoError(f, err)
			f.eventually(func() bool {
				rec, err := f.store.Load(f.Context(), id, digest)
				return err == nil && rec.State == session.Current
			}, "the session must come back")
			f.values(id, digest, "a", "1")
			f.commit(session.Committed, session.Delta{ID: id, Digest: digest, Set: set("a", "2")})

			_, err = f.store.Take(f.Context(), id, digest, "taker", time.Hour)
			require.NoError(f, err)
			rec, err := f.store.Take(f.Context(), id, digest, "taker", 0)
			require.NoError(f, err)
			require.Equal(f, session.Current, rec.State)
			f.values(id, digest, "a", "2")
			f.alive(true, id)
		},
	},
	{
		"a superseded digest may take",
		"Take asks for the digest as Commit does.",
		func(f *fixture) {
			id, first := f.create("a", "1")
			f.rotate(id, first, time.Hour)
			rec, err := f.store.Take(f.Context(), id, first, "taker", time.Hour)
			require.NoError(f, err)
			require.Equal(f, session.Superseded, rec.State)
			require.Equal(f, set("a", "1"), rec.Values.Map())
		},
	},
	{
		"who looks sees what is alive",
		"Alive reports for each of the ids whether there is such a session.",
		func(f *fixture) {
			a, _ := f.create()
			b, _ := f.create()
			alive, err := f.store.Alive(f.Context(), []string{a, newID(), b})
			require.NoError(f, err)
			require.Equal(f, []bool{true, false, true}, alive)
			_, err = f.store.Delete(f.Context(), a)
			require.NoError(f, err)
			f.alive(false, a)
			alive, err = f.store.Alive(f.Context(), nil)
			require.NoError(f, err)
			require.Empty(f, alive)
		},
	},
	{
		"who watches is woken",
		"Watch sends to woken soon after the session was deleted or revoked.",
		func(f *fixture) {
			for name, end := range map[string]func(owner, id string) error{
				"Delete": func(_, id string) error {
					_, err := f.store.Delete(f.Context(), id)
					return err
				},
				"Revoke": func(owner, _ string) error {
					_, _, err := f.store.Revoke(f.Context(), owner, session.Selection{})
					return err
				},
				"a cap": func(owner, _ string) error {
					d := owned(owner, ownedID(owner), newDigest())
					d.MaxOwned, d.EvictOldest = 1, true
					_, err := f.store.Commit(f.Context(), d)
					return err
				},
			} {
				owner := newOwner()
				id, _ := f.createOwned(owner)
				woken := make(chan struct{}, 1)
				stop := f.watch(id, woken)
				require.NoError(f, end(owner, id))
				select {
				case <-woken:
				case <-time.After(10 * time.Second):
					f.Fatalf("nobody was woken by %s", name)
				}
				stop()
				stop()
			}
		},
	},
	{
		"values are compared before they are set",
		"If holds what values must be at the moment, nil for one that must not be there. If one is not, the answer is Conflict.",
		func(f *fixture) {
			id, digest := f.create("a", "1", "empty", "")
			conflict := func(d session.Delta, want ...string) {
				f.Helper()
				d.ID, d.Digest, d.Set, d.Meta = id, digest, set("a", "2"), []byte("no")
				res, err := f.store.Commit(f.Context(), d)
				require.NoError(f, err)
				require.Equal(f, session.Result{Outcome: session.Conflict, Values: set(want...)}, res)
				rec := f.load(session.Current, id, digest)
				require.Equal(f, set("a", "1", "empty", ""), rec.Values.Map())
				require.Empty(f, rec.Meta)
			}
			conflict(session.Delta{If: set("a", "0")}, "a", "1")
			conflict(session.Delta{If: map[string][]byte{"a": nil}}, "a", "1")
			conflict(session.Delta{If: map[string][]byte{"empty": nil}}, "empty", "")
			conflict(session.Delta{If: set("none", "")})
			conflict(session.Delta{If: set("a", "1", "empty", "x")}, "a", "1", "empty", "")
			f.commit(session.Committed, session.Delta{ID: id, Digest: digest, If: set("a", "1", "empty", ""), Set: set("a", "2")})
			f.commit(session.Committed, session.Delta{ID: id, Digest: digest, If: map[string][]byte{"b": nil}, Set: set("b", "\x00")})
			f.values(id, digest, "a", "2", "b", "\x00", "empty", "")
		},
	},
	{
		"a compared value may arrive twice",
		"A value named in If that is equal to what Set would make of it is taken for the second arrival.",
		func(f *fixture) {
			id, digest := f.create("a", "1")
			d := session.Delta{ID: id, Digest: digest, If: set("a", "1"), Set: set("a", "2")}
			f.commit(session.Committed, d)
			f.commit(session.Committed, d)
			f.values(id, digest, "a", "2")
		},
	},
	{
		"of many who compare one succeeds at a time",
		"Every method is one atomic step.",
		func(f *fixture) {
			id, digest := f.create("a", "start")
			var running sync.WaitGroup
			outcomes := make(chan session.Outcome, 20)
			for i := range cap(outcomes) {
				running.Go(func() {
					res, err := f.store.Commit(f.Context(), session.Delta{
						ID: id, Digest: digest, If: set("a", "start"), Set: set("a", string(rune('a'+i))),
					})
					assert.NoError(f, err)
					outcomes <- res.Outcome
				})
			}
			running.Wait()
			close(outcomes)
			var all []session.Outcome
			for o := range outcomes {
				all = append(all, o)
			}
			slices.Sort(all)
			assert.Equal(f, append([]session.Outcome{session.Committed}, slices.Repeat([]session.Outcome{session.Conflict}, 19)...), all)
		},
	},
}

func (f *fixture) alive(want bool, id string) {
	f.Helper()
	alive, err := f.store.Alive(f.Context(), []string{id})
	require.NoError(f, err)
	require.Equal(f, []bool{want}, alive)
}

func (f *fixture) watch(id string, woken chan struct{}) (stop func()) {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), 10*time.Second)
	defer cancel()
	stop, err := f.store.Watch(ctx, id, woken)
	require.NoError(f, err)
	return stop
}
