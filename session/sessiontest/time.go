package sessiontest

import (
	"sync"
	"time"

	"github.com/herdless/herdless/session"
	"github.com/stretchr/testify/assert"
)

var timeRules = []rule{
	{
		"an idle session ends",
		"A session whose time is over is gone, exactly as if it had been deleted.",
		func(f *fixture) {
			id, digest := newID(), newDigest()
			create := session.Delta{
				ID: id, Digest: digest, Create: true, Set: set("a", "1"), IdleTimeout: 40 * time.Millisecond, AbsoluteTimeout: absolute,
			}
			f.commit(session.Committed, create)
			f.eventually(func() bool {
				rec, err := f.store.Load(f.Context(), id, digest)
				return err == nil && rec.State == session.Missing
			}, "the session must end, and loading it must not prolong it")
			f.commit(session.Gone, session.Delta{ID: id, Digest: digest, Set: set("a", "2")})
			f.load(session.Missing, id, digest)
			deleted, err := f.store.Delete(f.Context(), id)
			assert.NoError(f, err)
			assert.False(f, deleted, "Delete must not report a session that has ended")
			create.Digest = newDigest()
			f.commit(session.Committed, create)
		},
	},
	{
		"the absolute time ends a session that is in use",
		"Every successful Commit starts the idle time anew, never beyond the end of the absolute time.",
		func(f *fixture) {
			id, digest := newID(), newDigest()
			f.commit(session.Committed, session.Delta{
				ID: id, Digest: digest, Create: true, IdleTimeout: time.Hour, AbsoluteTimeout: 150 * time.Millisecond,
			})
			f.eventually(func() bool {
				res, err := f.store.Commit(f.Context(), session.Delta{ID: id, Digest: digest})
				assert.NoError(f, err)
				assert.LessOrEqual(f, res.ExpiresIn, res.EndsIn)
				return res.Outcome == session.Gone
			}, "commits must not keep the session alive for ever")
		},
	},
	{
		"a commit starts the idle time anew",
		"Every successful Commit starts the idle time anew. Load changes nothing, not even the time that the session has left.",
		func(f *fixture) {
			id, digest := newID(), newDigest()
			f.commit(session.Committed, session.Delta{
				ID: id, Digest: digest, Create: true, IdleTimeout: idle, AbsoluteTimeout: absolute,
			})
			left := func() time.Duration { return f.load(session.Current, id, digest).ExpiresIn }
			f.eventually(func() bool { return left() < idle-50*time.Millisecond }, "the idle time must run down while it is loaded")
			low := left()
			res := f.commit(session.Committed, session.Delta{ID: id, Digest: digest})
			assert.Greater(f, res.ExpiresIn, low)
			assert.EqualValues(f, 2, res.Version)
			between(f, absolute-slack, absolute-50*time.Millisecond, res.EndsIn, "EndsIn, which must not begin anew,")
			between(f, absolute-slack, absolute-50*time.Millisecond, f.load(session.Current, id, digest).EndsIn, "EndsIn on load")
		},
	},
	{
		"the idle time is started anew by one of many",
		"IfExpiresWithin: where the session has so much time left or more, the Delta does nothing, and is Committed all the same.",
		func(f *fixture) {
			id, digest := f.create("a", "1")
			res := f.commit(session.Committed, session.Delta{ID: id, Digest: digest, IfExpiresWithin: idle / 2})
			assert.EqualValues(f, 1, res.Version, "nothing was to be done")
			between(f, idle-slack, idle, res.ExpiresIn, "ExpiresIn")
			between(f, absolute-slack, absolute, res.EndsIn, "EndsIn")
			f.eventually(func() bool { return f.load(session.Current, id, digest).ExpiresIn < idle-10*time.Millisecond }, "some time must pass")
			var running sync.WaitGroup
			for range 20 {
				running.Go(func() {
					res, err := f.store.Commit(f.Context(), session.Delta{ID: id, Digest: digest, IfExpiresWithin: idle - 10*time.Millisecond})
					assert.NoError(f, err)
					assert.Equal(f, session.Committed, res.Outcome)
				})
			}
			running.Wait()
			assert.GreaterOrEqual(f, f.load(session.Current, id, digest).Version, uint64(2))
			f.commit(session.Gone, session.Delta{ID: id, Digest: newDigest(), IfExpiresWithin: time.Nanosecond})
		},
	},
	{
		"the timeouts can be changed",
		"IdleTimeout and AbsoluteTimeout, where positive, become the session's own. The absolute time counts from the session's creation.",
		func(f *fixture) {
			id, digest := f.create("a", "1")
			created := f.load(session.Current, id, digest).CreatedAt
			res := f.commit(session.Committed, session.Delta{
				ID: id, Digest: digest, IdleTimeout: 5 * time.Hour, AbsoluteTimeout: 10 * time.Hour,
			})
			between(f, 5*time.Hour-slack, 5*time.Hour, res.ExpiresIn, "ExpiresIn")
			between(f, 10*time.Hour-slack, 10*time.Hour, res.EndsIn, "EndsIn")
			res = f.commit(session.Committed, session.Delta{ID: id, Digest: digest})
			between(f, 5*time.Hour-slack, 5*time.Hour, res.ExpiresIn, "ExpiresIn after a further commit")
			rec := f.load(session.Current, id, digest)
			assert.Equal(f, 5*time.Hour, rec.IdleTimeout)
			assert.Equal(f, created, rec.CreatedAt)

			res = f.commit(session.Committed, session.Delta{ID: id, Digest: digest, AbsoluteTimeout: 2 * time.Hour})
			between(f, 2*time.Hour-slack, 2*time.Hour, res.ExpiresIn, "ExpiresIn, which EndsIn bounds,")
		},
	},
	{
		"an absolute time that is over ends the session",
		"If a shorter absolute time puts that end into the past, the session is over, with ExpiresIn zero.",
		func(f *fixture) {
			id, digest := f.create("a", "1")
			created := f.load(session.Current, id, digest).ExpiresIn
			f.eventually(func() bool {
				return f.load(session.Current, id, digest).ExpiresIn < created-5*time.Millisecond
			}, "some time must pass")
			res := f.commit(session.Committed, session.Delta{ID: id, Digest: digest, AbsoluteTimeout: time.Millisecond})
			assert.Zero(f, res.ExpiresIn)
			assert.Zero(f, res.EndsIn)
			f.load(session.Missing, id, digest)
		},
	},
	{
		"the longest timeouts work",
		"Timeouts are any positive Duration.",
		func(f *fixture) {
			const longest time.Duration = 1<<63 - 1
			id, digest := newID(), newDigest()
			res := f.commit(session.Committed, session.Delta{
				ID: id, Digest: digest, Create: true, IdleTimeout: longest, AbsoluteTimeout: longest,
			})
			between(f, longest-slack, longest, res.ExpiresIn, "ExpiresIn")
			between(f, longest-slack, longest, f.load(session.Current, id, digest).EndsIn, "EndsIn")
		},
	},
}
