package sessiontest

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/herdless/herdless/session"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// rotate replaces the digest with a new one.
func (f *fixture) rotate(id string, digest session.Digest, grace time.Duration) session.Digest {
	f.Helper()
	next := newDigest()
	f.commit(session.Committed, session.Delta{
		ID: id, Digest: digest, Rotate: &session.Rotation{Digest: next, Grace: grace},
	})
	return next
}

var rotationRules = []rule{
	{
		"without grace the old digest is refused at once",
		"Grace zero means that the digest replaced is refused, and forgotten, at once.",
		func(f *fixture) {
			id, first := f.create("a", "1")
			second := f.rotate(id, first, 0)
			assert.Zero(f, f.load(session.Current, id, second).GraceLeft)
			f.load(session.Missing, id, first)
			f.commit(session.Gone, session.Delta{ID: id, Digest: first, Set: set("a", "2")})
			f.commit(session.Gone, session.Delta{ID: id, Digest: first, Rotate: &session.Rotation{Digest: newDigest()}})
			f.values(id, second, "a", "1")
		},
	},
	{
		"within its grace the old digest is accepted",
		"Superseded: a rotation replaced the digest, and its grace is not over.",
		func(f *fixture) {
			id, first := f.create("a", "1")
			second := f.rotate(id, first, time.Hour)
			rec := f.load(session.Superseded, id, first)
			assert.Equal(f, set("a", "1"), rec.Values.Map())
			assert.EqualValues(f, 2, rec.Version)
			for digest, state := range map[session.Digest]session.State{first: session.Superseded, second: session.Current} {
				between(f, time.Hour-slack, time.Hour, f.load(state, id, digest).GraceLeft, "Record.Grace")
			}
			f.commit(session.Committed, session.Delta{ID: id, Digest: first, Set: set("b", "2")})
			f.values(id, second, "a", "1", "b", "2")
			f.load(session.Superseded, id, first)
		},
	},
	{
		"a grace ends",
		"Reused: a rotation replaced the digest, and its grace is over.",
		func(f *fixture) {
			id, first := f.create("a", "1")
			second := f.rotate(id, first, 30*time.Millisecond)
			f.eventually(func() bool {
				rec, err := f.store.Load(f.Context(), id, first)
				return err == nil && rec.State == session.Reused
			}, "the old digest must be refused when its grace is over")
			f.load(session.Missing, id, first)
			f.commit(session.Gone, session.Delta{ID: id, Digest: first, Set: set("a", "2")})
			f.values(id, second, "a", "1")
		},
	},
	{
		"a digest is said to be reused once",
		"that a digest is Reused is said once, and it is Missing from then on.",
		func(f *fixture) {
			id, first := f.create("a", "1")
			f.rotate(id, first, time.Millisecond)
			time.Sleep(5 * time.Millisecond)
			var said atomic.Int64
			var running sync.WaitGroup
			for range 20 {
				running.Go(func() {
					rec, err := f.store.Load(f.Context(), id, first)
					assert.NoError(f, err)
					if rec.State == session.Reused {
						said.Add(1)
					}
				})
			}
			running.Wait()
			assert.EqualValues(f, 1, said.Load())
		},
	},
	{
		"earlier digests are said to be reused, too",
		"Reused: a rotation with a grace replaced the digest, one of the last few, and that grace is over.",
		func(f *fixture) {
			id, first := f.create("a", "1")
			digests := []session.Digest{first}
			for i := range 5 {
				digests = append(digests, f.rotate(id, digests[i], time.Millisecond))
				time.Sleep(5 * time.Millisecond)
			}
			for _, i := range []int{2, 0, 4, 1, 3} {
				f.load(session.Reused, id, digests[i])
				f.load(session.Missing, id, digests[i])
				f.commit(session.Gone, session.Delta{ID: id, Digest: digests[i], Set: set("a", "2")})
			}
			f.load(session.Missing, id, newDigest())
			f.values(id, digests[5], "a", "1")
		},
	},
	{
		"who reads a session again does not say that its digest is reused",
		"LoadAll: again is for who has read the session before; what would be Reused is Missing, and left to be said.",
		func(f *fixture) {
			id, first := f.create("a", "1")
			second := f.rotate(id, first, time.Millisecond)
			time.Sleep(5 * time.Millisecond)
			third := f.rotate(id, second, time.Millisecond)
			time.Sleep(5 * time.Millisecond)
			for _, old := range []session.Digest{first, second} {
				for _, again := range []bool{true, true, false} {
					rec, err := f.store.LoadAll(f.Context(), id, old, again)
					require.NoError(f, err)
					want := session.Record{State: session.Missing}
					if !again {
						want.State = session.Reused
					}
					require.Equal(f, want, rec, "again: %v", again)
				}
				f.load(session.Missing, id, old)
			}
			rec, err := f.store.LoadAll(f.Context(), id, third, true)
			require.NoError(f, err)
			require.Equal(f, set("a", "1"), rec.Values.Map())
		},
	},
	{
		"a handover goes to who has the superseded digest",
		"Handover is given to those who present the digest replaced now, during its grace.",
		func(f *fixture) {
			id, first := f.create("a", "1")
			second := newDigest()
			f.commit(session.Committed, session.Delta{
				ID: id, Digest: first, Rotate: &session.Rotation{Digest: second, Grace: time.Hour, Handover: []byte("to you\x00\xff")},
			})
			assert.Equal(f, "to you\x00\xff", string(f.load(session.Superseded, id, first).Handover))
			assert.Empty(f, f.load(session.Current, id, second).Handover)
		},
	},
	{
		"many who rotate once agree",
		"Once rotates only if the Delta's own digest is the current one; if it is superseded, the rest of the Delta is applied, and Result.Handover tells who rotated before.",
		func(f *fixture) {
			id, first := f.create()
			var mu sync.Mutex
			rotated, handed := []string{}, []string{}
			want := []string{}
			var running sync.WaitGroup
			for i := range 20 {
				name := string(rune('a' + i))
				want = append(want, name, "1")
				running.Go(func() {
					next := newDigest()
					res, err := f.store.Commit(f.Context(), session.Delta{
						ID: id, Digest: first, Set: set(name, "1"),
						Rotate: &session.Rotation{Digest: next, Grace: time.Hour, Handover: next[:], Once: true},
					})
					assert.NoError(f, err)
					assert.Equal(f, session.Committed, res.Outcome)
					mu.Lock()
					defer mu.Unlock()
					if res.Handover == nil {
						rotated = append(rotated, string(next[:]))
					} else {
						handed = append(handed, string(res.Handover))
					}
				})
			}
			running.Wait()
			require.Len(f, rotated, 1, "who rotated")
			require.Len(f, handed, 19)
			for _, h := range handed {
				assert.Equal(f, rotated[0], h)
			}
			f.values(id, session.Digest([]byte(rotated[0])), want...)
		},
	},
	{
		"how long a grace lasts is told",
		"GraceLeft is for how long the superseded digest is still accepted, zero if there is none.",
		func(f *fixture) {
			id, first := f.create("a", "1")
			assert.Zero(f, f.load(session.Current, id, first).GraceLeft)
			second := f.rotate(id, first, time.Hour)
			between(f, time.Hour-slack, time.Hour, f.load(session.Current, id, second).GraceLeft, "GraceLeft")
			between(f, time.Hour-slack, time.Hour, f.load(session.Superseded, id, first).GraceLeft, "GraceLeft")
			third := f.rotate(id, second, time.Millisecond)
			f.eventually(func() bool { return f.load(session.Current, id, third).GraceLeft == 0 }, "the grace must run down")
			fourth := f.rotate(id, third, time.Hour)
			fifth := f.rotate(id, fourth, 0)
			assert.Zero(f, f.load(session.Current, id, fifth).GraceLeft)
		},
	},
	{
		"only the last digest is superseded",
		"The digest that was current until then becomes the superseded one.",
		func(f *fixture) {
			id, first := f.create("a", "1")
			second := f.rotate(id, first, time.Hour)
			third := f.rotate(id, second, time.Hour)
			f.load(session.Missing, id, first)
			f.load(session.Superseded, id, second)
			f.load(session.Current, id, third)
			f.commit(session.Gone, session.Delta{ID: id, Digest: first})
		},
	},
	{
		"rotating to the current digest changes no grace",
		"Rotating to the digest that is current already changes no digest and no grace.",
		func(f *fixture) {
			id, first := f.create("a", "1")
			second := f.rotate(id, first, time.Hour)
			for _, from := range []session.Digest{first, second} {
				f.commit(session.Committed, session.Delta{
					ID: id, Digest: from, Rotate: &session.Rotation{Digest: second},
				})
				f.load(session.Superseded, id, first)
				f.load(session.Current, id, second)
			}
		},
	},
	{
		"a refused rotation rotates nothing",
		"Commit applies delta whole or not at all.",
		func(f *fixture) {
			id, first := f.create("a", "1")
			f.commit(session.TooLarge, session.Delta{
				ID: id, Digest: first, Set: set("b", "12345"), Rotate: &session.Rotation{Digest: newDigest()}, MaxBytes: 3,
			})
			f.values(id, first, "a", "1")
		},
	},
}
