package sessiontest

import (
	"time"

	"github.com/herdless/herdless/session"
	"github.com/stretchr/testify/assert"
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
		"Grace zero means that the digest replaced is refused at once. Reused: a rotation replaced the digest, and its grace is over.",
		func(f *fixture) {
			id, first := f.create("a", "1")
			second := f.rotate(id, first, 0)
			f.load(session.Reused, id, first)
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
			assert.Equal(f, set("a", "1"), rec.Values)
			assert.EqualValues(f, 2, rec.Version)
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
			f.commit(session.Gone, session.Delta{ID: id, Digest: first, Set: set("a", "2")})
			f.values(id, second, "a", "1")
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
