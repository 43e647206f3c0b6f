package sessiontest

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/herdless/herdless/session"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var rules = []rule{
	{
		"what was never there is missing",
		"Missing: there is no such session, or the digest has never been its own.",
		func(f *fixture) {
			f.load(session.Missing, newID(), newDigest())
			id, _ := f.create("a", "1")
			f.load(session.Missing, id, newDigest())
			f.load(session.Missing, id, session.Digest{})
		},
	},
	{
		"a session is loaded as it was created",
		"Load reads the session called id.",
		func(f *fixture) {
			owner := newOwner()
			id, digest := ownedID(owner), newDigest()
			before := time.Now()
			res := f.commit(session.Committed, session.Delta{
				ID: id, Digest: digest, Create: true, Owner: owner, Meta: []byte("meta"), Set: set("a", "1", "b", ""),
				IdleTimeout: idle, AbsoluteTimeout: absolute,
			})
			assert.EqualValues(f, 1, res.Version)
			between(f, idle-slack, idle, res.ExpiresIn, "Result.ExpiresIn")
			between(f, absolute-slack, absolute, res.EndsIn, "Result.EndsIn")

			rec := f.load(session.Current, id, digest)
			assert.EqualValues(f, 1, rec.Version)
			assert.Equal(f, owner, rec.Owner)
			assert.Equal(f, "meta", string(rec.Meta))
			assert.Zero(f, rec.AuthenticatedAt)
			between(f, 0, slack, rec.DigestAge, "Record.DigestAge")
			assert.Equal(f, set("a", "1", "b", ""), rec.Values.Map())
			assert.WithinDuration(f, before, rec.CreatedAt, slack)
			assert.Equal(f, idle, rec.IdleTimeout)
			between(f, idle-slack, idle, rec.ExpiresIn, "Record.ExpiresIn")
			between(f, absolute-slack, absolute, rec.EndsIn, "Record.EndsIn")
		},
	},
	{
		"names and values are any bytes",
		"Names and values are any bytes; no name collides with what else the store keeps.",
		func(f *fixture) {
			values := []string{
				"", "empty name", "nul\x00\xff\xfe", "\x00\r\n$5\r\n", "{a}", "}{", "v", "v", "long", strings.Repeat("x", 100_000),
			}
			for _, name := range "dpguncaiesv" {
				values = append(values, string(name)+"x", "1", string(name), "2")
			}
			id, digest := f.create(values...)
			f.values(id, digest, values...)
		},
	},
	{
		"create never takes over a session",
		"With Create it answers Exists where there already is one of that id.",
		func(f *fixture) {
			id, digest := f.create("a", "1")
			f.commit(session.Exists, session.Delta{
				ID: id, Digest: newDigest(), Create: true, Set: set("a", "2"), IdleTimeout: idle, AbsoluteTimeout: absolute,
			})
			f.values(id, digest, "a", "1")
		},
	},
	{
		"a step may arrive twice",
		"Create with the digest that is the current one already, and Rotate to it, are taken for the second arrival.",
		func(f *fixture) {
			id, first, second := newID(), newDigest(), newDigest()
			create := session.Delta{
				ID: id, Digest: first, Create: true, Set: set("a", "1"), IdleTimeout: idle, AbsoluteTimeout: absolute,
			}
			f.commit(session.Committed, create)
			f.commit(session.Committed, create)
			f.values(id, first, "a", "1")

			rotate := session.Delta{ID: id, Digest: first, Set: set("b", "2"), Rotate: &session.Rotation{Digest: second}}
			f.commit(session.Committed, rotate)
			f.commit(session.Committed, rotate)
			f.values(id, second, "a", "1", "b", "2")
			f.load(session.Missing, id, first)
			f.commit(session.Exists, create)
		},
	},
	{
		"only what changed is written",
		"Commit applies delta: values that it does not name stay as they are.",
		func(f *fixture) {
			id, digest := f.create("a", "1", "b", "2", "c", "3")
			res := f.commit(session.Committed, session.Delta{
				ID: id, Digest: digest, Set: set("a", "10", "d", "4"), Delete: []string{"b", "never there"},
			})
			assert.EqualValues(f, 2, res.Version)
			f.values(id, digest, "a", "10", "c", "3", "d", "4")
		},
	},
	{
		"concurrent changes of different values all survive",
		"Every method is one atomic step.",
		func(f *fixture) {
			id, digest := f.create()
			var running sync.WaitGroup
			want := []string{}
			for i := range 20 {
				name := string(rune('a' + i))
				want = append(want, name, name)
				running.Go(func() {
					res, err := f.store.Commit(f.Context(), session.Delta{ID: id, Digest: digest, Set: set(name, name)})
					assert.NoError(f, err)
					assert.Equal(f, session.Committed, res.Outcome)
				})
			}
			running.Wait()
			f.values(id, digest, want...)
			assert.EqualValues(f, 21, f.load(session.Current, id, digest).Version, "Version counts the commits")
		},
	},
	{
		"of concurrent creations one succeeds",
		"Every method is one atomic step.",
		func(f *fixture) {
			id := newID()
			results := make(chan session.Outcome, 20)
			for range cap(results) {
				go func() {
					res, err := f.store.Commit(f.Context(), session.Delta{
						ID: id, Digest: newDigest(), Create: true, IdleTimeout: idle, AbsoluteTimeout: absolute,
					})
					assert.NoError(f, err)
					results <- res.Outcome
				}()
			}
			count := map[session.Outcome]int{}
			for range cap(results) {
				count[<-results]++
			}
			assert.Equal(f, map[session.Outcome]int{session.Committed: 1, session.Exists: 19}, count)
		},
	},
	{
		"the meta is set with the rest",
		"Meta, if not nil, replaces the session's. Authenticated sets AuthenticatedAt to the present.",
		func(f *fixture) {
			id, digest := f.create("a", "1")
			assert.Zero(f, f.load(session.Current, id, digest).AuthenticatedAt)
			for _, meta := range []string{"alice", "bob\x00\xff", ""} {
				f.commit(session.Committed, session.Delta{ID: id, Digest: digest, Meta: []byte(meta)})
				assert.Equal(f, meta, string(f.load(session.Current, id, digest).Meta))
				f.commit(session.Committed, session.Delta{ID: id, Digest: digest})
				assert.Equal(f, meta, string(f.load(session.Current, id, digest).Meta), "after a commit without Meta")
			}
			res := f.commit(session.Committed, session.Delta{ID: id, Digest: digest, Authenticated: true})
			rec := f.load(session.Current, id, digest)
			assert.WithinDuration(f, res.At, rec.AuthenticatedAt, 0)
			assert.False(f, rec.AuthenticatedAt.Before(rec.CreatedAt) || rec.ReadAt.Before(rec.AuthenticatedAt), "%+v", rec)
			f.values(id, digest, "a", "1")
		},
	},
	{
		"an unknown digest changes nothing",
		"delta.Digest must be the current digest, or the superseded one within its grace; if not, the answer is Gone and nothing is written.",
		func(f *fixture) {
			id, digest := f.create("a", "1")
			for _, wrong := range []session.Digest{newDigest(), {}} {
				f.commit(session.Gone, session.Delta{
					ID: id, Digest: wrong, Set: set("a", "2"), Meta: []byte("mallory"), Rotate: &session.Rotation{Digest: wrong},
				})
			}
			rec := f.load(session.Current, id, digest)
			assert.Equal(f, set("a", "1"), rec.Values.Map())
			assert.Empty(f, rec.Meta)
			assert.EqualValues(f, 1, rec.Version)
		},
	},
	{
		"a deleted session never comes back",
		"A session that was deleted is never brought back. Delete reports whether there was one.",
		func(f *fixture) {
			id, digest := f.create("a", "1")
			deleted, err := f.store.Delete(f.Context(), id)
			require.NoError(f, err)
			assert.True(f, deleted)
			f.load(session.Missing, id, digest)
			f.commit(session.Gone, session.Delta{ID: id, Digest: digest, Set: set("a", "2")})
			f.commit(session.Gone, session.Delta{ID: id, Digest: digest, Rotate: &session.Rotation{Digest: newDigest()}})
			f.commit(session.Gone, session.Delta{ID: id, Digest: digest})
			f.load(session.Missing, id, digest)

			deleted, err = f.store.Delete(f.Context(), id)
			require.NoError(f, err)
			assert.False(f, deleted, "deleting it again")
		},
	},
	{
		"a change too large leaves everything as it was",
		"MaxBytes bounds the sum of the lengths of all names and values after the change; beyond it the answer is TooLarge.",
		func(f *fixture) {
			id, digest := f.create("a", "12345", "bb", "")
			large := session.Delta{
				ID: id, Digest: digest, Set: set("c", "123", "a", "1"), Delete: []string{"bb"},
				Meta: []byte("bob"), Rotate: &session.Rotation{Digest: newDigest()}, MaxBytes: 5,
			}
			f.commit(session.TooLarge, large)
			rec := f.load(session.Current, id, digest)
			assert.Equal(f, set("a", "12345", "bb", ""), rec.Values.Map())
			assert.Empty(f, rec.Meta)
			assert.EqualValues(f, 1, rec.Version)

			large.MaxBytes = 6 // "c", "123", "a", "1"
			f.commit(session.Committed, large)
			f.values(id, large.Rotate.Digest, "c", "123", "a", "1")
			f.commit(session.TooLarge, session.Delta{
				ID: newID(), Digest: digest, Create: true, Set: set("abc", "def"), IdleTimeout: idle, AbsoluteTimeout: absolute, MaxBytes: 5,
			})
			f.commit(session.Committed, session.Delta{ID: id, Digest: large.Rotate.Digest, Set: set("c", "1"), MaxBytes: 4})
		},
	},
	{
		"callers keep their maps and slices",
		"Implementations must not keep or change the slices and maps they are handed, and must return ones that the caller may keep, and but for Values change.",
		func(f *fixture) {
			id, digest := newID(), newDigest()
			d := session.Delta{
				ID: id, Digest: digest, Create: true, Set: set("a", "1"), Meta: []byte("m"), IdleTimeout: idle, AbsoluteTimeout: absolute,
			}
			f.commit(session.Committed, d)
			require.Equal(f, set("a", "1"), d.Set)
			d.Set["a"][0] = 'x'
			d.Set["b"] = nil
			d.Meta[0] = 'x'
			rec := f.load(session.Current, id, digest)
			require.Equal(f, set("a", "1"), rec.Values.Map())
			require.Equal(f, "m", string(rec.Meta))
			rec.Meta[0] = 'y'
			f.values(id, digest, "a", "1")
			require.Equal(f, "m", string(f.load(session.Current, id, digest).Meta))
		},
	},
	{
		"a basis is no more than a hint",
		"Basis may save the store looking for something, and has no other effect: the session may have changed since.",
		func(f *fixture) {
			for _, later := range []struct {
				what string
				then session.Outcome
				d    func(id string, digest session.Digest) session.Delta
				want []string
			}{
				{"nothing", session.Committed, nil, []string{"a", "new", "b", "22", "c", "3"}},
				{"the same value", session.Committed, func(id string, digest session.Digest) session.Delta {
					return session.Delta{ID: id, Digest: digest, Set: set("a", "something longer")}
				}, []string{"a", "new", "b", "22", "c", "3"}},
				{"one before it is deleted", session.Committed, func(id string, digest session.Digest) session.Delta {
					return session.Delta{ID: id, Digest: digest, Delete: []string{"", "b"}}
				}, []string{"a", "new", "c", "3"}},
				{"the value itself is deleted", session.Committed, func(id string, digest session.Digest) session.Delta {
					return session.Delta{ID: id, Digest: digest, Delete: []string{"a"}}
				}, []string{"a", "new", "b", "22", "c", "3"}},
				{"others come", session.Committed, func(id string, digest session.Digest) session.Delta {
					return session.Delta{ID: id, Digest: digest, Set: set("0", "x", "b", "333", "z", "")}
				}, []string{"0", "x", "a", "new", "b", "333", "c", "3", "z", ""}},
				{"the meta grows", session.Committed, func(id string, digest session.Digest) session.Delta {
					return session.Delta{ID: id, Digest: digest, Meta: make([]byte, 300)}
				}, []string{"a", "new", "b", "22", "c", "3"}},
				{"the digest is replaced", session.Gone, func(id string, digest session.Digest) session.Delta {
					return session.Delta{ID: id, Digest: digest, Rotate: &session.Rotation{Digest: newDigest()}}
				}, nil},
				{"the digest is superseded", session.Committed, func(id string, digest session.Digest) session.Delta {
					return session.Delta{ID: id, Digest: digest, Rotate: &session.Rotation{Digest: session.Digest{7}, Grace: time.Hour, Handover: []byte("h")}}
				}, []string{"a", "new", "b", "22", "c", "3"}},
			} {
				for _, was := range []string{"1", "one", "longer than the new one"} {
					id, digest := f.create("a", was, "b", "22", "c", "3")
					basis := f.load(session.Current, id, digest).Basis
					if later.d != nil {
						f.commit(session.Committed, later.d(id, digest))
					}
					f.commit(later.then, session.Delta{ID: id, Digest: digest, Set: set("a", "new"), Basis: basis})
					if later.then != session.Committed {
						continue
					}
					rec, err := f.store.Load(f.Context(), id, digest)
					require.NoError(f, err)
					require.Equal(f, set(later.want...), rec.Values.Map(), "%s: after %q", later.what, was)
				}
			}

			id, digest := f.create("a", "1", "b", "2")
			rec := f.load(session.Current, id, digest)
			for _, name := range []string{"b", "", "ab", "never seen"} {
				f.commit(session.TooLarge, session.Delta{ID: id, Digest: digest, Set: set(name, "12345"), MaxBytes: 6, Basis: rec.Basis})
			}
			f.commit(session.Committed, session.Delta{ID: id, Digest: digest, Set: set("b", "123"), MaxBytes: 6, Basis: rec.Basis})
			rec = f.load(session.Current, id, digest)
			f.commit(session.Gone, session.Delta{ID: id, Digest: newDigest(), Set: set("a", "2"), Basis: rec.Basis})
			_, err := f.store.Take(f.Context(), id, digest, "taker", time.Hour)
			require.NoError(f, err)
			f.commit(session.Gone, session.Delta{ID: id, Digest: digest, Set: set("a", "2"), Basis: rec.Basis})
			_, err = f.store.Take(f.Context(), id, digest, "taker", 0)
			require.NoError(f, err)
			f.values(id, digest, "a", "1", "b", "123")
			rec = f.load(session.Current, id, digest)
			_, err = f.store.Delete(f.Context(), id)
			require.NoError(f, err)
			f.commit(session.Gone, session.Delta{ID: id, Digest: digest, Set: set("a", "2"), Basis: rec.Basis})
			f.load(session.Missing, id, digest)
			for again := rec; again.CreatedAt.Equal(rec.CreatedAt); again = f.load(session.Current, id, digest) {
				_, err = f.store.Delete(f.Context(), id)
				require.NoError(f, err)
				f.commit(session.Committed, session.Delta{
					ID: id, Digest: digest, Create: true, Set: set("x", "1", "y", "123"), IdleTimeout: idle, AbsoluteTimeout: absolute,
				})
				f.commit(session.Committed, session.Delta{ID: id, Digest: digest}) // as many as before
			}
			f.commit(session.Committed, session.Delta{ID: id, Digest: digest, Set: set("a", "2"), Basis: rec.Basis})
			f.values(id, digest, "x", "1", "y", "123", "a", "2")
			other, theirs := f.create("b", "2", "a", "1")
			f.commit(session.Committed, session.Delta{ID: other, Digest: theirs, Set: set("a", "3"), Basis: rec.Basis})
			f.values(other, theirs, "a", "3", "b", "2")
		},
	},
	{
		"values are in the order of their names",
		"Values are in ascending order of the names, no two of which are equal.",
		func(f *fixture) {
			id, digest := f.create("m", "1", "z", "2", "", "empty")
			rec := f.load(session.Current, id, digest)
			for _, names := range [][]string{{"", "m", "z"}, {"", "a", "m", "y"}, {"", "a", "aa", "m", "y", "\xff"}} {
				rec = f.load(session.Current, id, digest)
				got := make([]string, len(rec.Values))
				for i, e := range rec.Values {
					got[i] = e.Name
				}
				require.Equal(f, names, got)
				d := session.Delta{ID: id, Digest: digest, Set: set("y", "3", "a", "4"), Delete: []string{"z"}}
				if len(names) == 4 {
					d = session.Delta{ID: id, Digest: digest, Set: set("\xff", "5", "aa", "6", "m", "7")}
				}
				f.commit(session.Committed, d)
			}
			require.Equal(f, set("", "empty", "a", "4", "aa", "6", "m", "7", "y", "3", "\xff", "5"), rec.Values.Map(), "as it was read")
		},
	},
	{
		"an ended context is an error",
		"Errors are for system faults only: a context that ended.",
		func(f *fixture) {
			id, digest := f.create("a", "1")
			ctx, cancel := context.WithCancel(f.Context())
			cancel()
			_, err := f.store.Load(ctx, id, digest)
			require.ErrorIs(f, err, context.Canceled)
			_, err = f.store.Commit(ctx, session.Delta{ID: id, Digest: digest, Set: set("a", "2")})
			require.ErrorIs(f, err, context.Canceled)
			_, err = f.store.Delete(ctx, id)
			require.ErrorIs(f, err, context.Canceled)
		},
	},
}

func init() { rules = slices.Concat(rules, rotationRules, ownedRules, timeRules) }
