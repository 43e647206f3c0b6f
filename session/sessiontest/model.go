package sessiontest

import (
	"bytes"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/herdless/herdless/session"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// model is what a session is by the rules, without the passing of time.
type model struct {
	current, superseded session.Digest
	grace               bool
	version             uint64
	meta                string
	values              map[string][]byte
}

func (m *model) state(d session.Digest) session.State {
	switch {
	case m == nil || d != m.current && d != m.superseded:
		return session.Missing
	case d == m.current:
		return session.Current
	}
	return session.Superseded
}

func (m *model) size() (size int) {
	for name, value := range m.values {
		size += len(name) + len(value)
	}
	return size
}

// commit returns the session after d and the outcome. m is nil if there is no
// session, and is never changed.
func (m *model) commit(d session.Delta) (*model, session.Outcome) {
	state := m.state(d.Digest)
	repeated := m != nil && d.Rotate != nil && d.Rotate.Digest == m.current
	switch {
	case d.Create && m == nil:
		m = &model{current: d.Digest, superseded: d.Digest}
	case d.Create && state != session.Current:
		return m, session.Exists
	case state != session.Current && state != session.Superseded && !repeated:
		return m, session.Gone
	}
	for name, want := range d.If {
		got, there := m.values[name]
		again, set := d.Set[name]
		as := there == (want != nil) && bytes.Equal(got, want)
		if repeated := there && set && bytes.Equal(got, again); !as && !repeated {
			if m.version == 0 {
				m = nil
			}
			return m, session.Conflict
		}
	}
	next := *m
	next.values = maps.Clone(m.values)
	if next.values == nil {
		next.values = map[string][]byte{}
	}
	maps.Copy(next.values, d.Set)
	for _, name := range d.Delete {
		delete(next.values, name)
	}
	if d.MaxBytes > 0 && next.size() > d.MaxBytes {
		if m.version == 0 {
			m = nil
		}
		return m, session.TooLarge
	}
	next.version++
	if d.Meta != nil {
		next.meta = string(d.Meta)
	}
	if r := d.Rotate; r != nil && r.Digest != next.current && (!r.Once || d.Digest == next.current) {
		next.superseded, next.grace, next.current = next.current, r.Grace > 0, r.Digest
		if !next.grace {
			next.superseded = next.current // forgotten
		}
	}
	return &next, session.Committed
}

// testModel compares a store with the model over random steps.
func testModel(t *testing.T, store session.Store) {
	var (
		name  = rapid.SampledFrom([]string{"", "a", "b", "v", "d", "n", "{x}"})
		short = rapid.SliceOfN(rapid.Byte(), 0, 8)
		value = rapid.Custom(func(r *rapid.T) []byte { // some are long
			return bytes.Repeat(short.Draw(r, "part"), rapid.SampledFrom([]int{1, 1, 1, 300, 1000}).Draw(r, "times"))
		})
		digest = rapid.Map(rapid.IntRange(1, 3), func(i int) session.Digest { return session.Digest{byte(i)} })
		delta  = rapid.Custom(func(r *rapid.T) session.Delta {
			d := session.Delta{Digest: digest.Draw(r, "digest"), Set: rapid.MapOfN(name, value, 0, 3).Draw(r, "set")}
			d.Delete = slices.DeleteFunc(rapid.SliceOfNDistinct(name, 0, 3, rapid.ID).Draw(r, "delete"), func(name string) bool {
				_, both := d.Set[name]
				return both
			})
			if rapid.Bool().Draw(r, "meta?") {
				d.Meta = value.Draw(r, "meta")
			}
			for name := range d.Set {
				if rapid.IntRange(0, 3).Draw(r, "if?") == 0 {
					d.If = map[string][]byte{name: nil}
					if rapid.Bool().Draw(r, "there?") {
						d.If[name] = value.Draw(r, "if")
					}
					break
				}
			}
			if rapid.Bool().Draw(r, "rotate") {
				grace := rapid.SampledFrom([]time.Duration{0, time.Hour}).Draw(r, "grace")
				d.Rotate = &session.Rotation{Digest: digest.Draw(r, "next"), Grace: grace, Once: rapid.Bool().Draw(r, "once")}
			}
			if rapid.IntRange(0, 2).Draw(r, "create") == 0 {
				d.Create, d.IdleTimeout, d.AbsoluteTimeout = true, idle, absolute
			}
			d.MaxBytes = rapid.SampledFrom([]int{0, 5, 20}).Draw(r, "max")
			return d
		})
	)
	rapid.Check(t, func(r *rapid.T) {
		ctx := t.Context()
		var m *model
		var basis any // of a Load of this session, at any time before
		id := newID()
		r.Repeat(map[string]func(*rapid.T){
			"commit": func(r *rapid.T) {
				d := delta.Draw(r, "delta")
				d.ID = id
				if rapid.Bool().Draw(r, "basis") {
					d.Basis = basis
				}
				next, want := m.commit(d)
				res, err := store.Commit(ctx, d)
				require.NoError(r, err)
				require.Equal(r, want, res.Outcome)
				m = next
				if want == session.Committed {
					require.Equal(r, m.version, res.Version)
					require.Positive(r, res.ExpiresIn)
				}
			},
			"delete": func(r *rapid.T) {
				deleted, err := store.Delete(ctx, id)
				require.NoError(r, err)
				require.Equal(r, m != nil, deleted)
				m, basis = nil, nil
			},
			"": func(r *rapid.T) {
				d := digest.Draw(r, "load")
				rec, err := store.Load(ctx, id, d)
				require.NoError(r, err)
				require.Equal(r, m.state(d), rec.State)
				if rec.State == session.Missing {
					return
				}
				require.Equal(r, m.version, rec.Version)
				require.Equal(r, m.meta, string(rec.Meta))
				all, err := store.LoadAll(ctx, id, d, rapid.Bool().Draw(r, "again"))
				require.NoError(r, err)
				require.Equal(r, m.version, all.Version)
				require.Equal(r, m.values, all.Values.Map())
				leavesOut(r, rec.Values, all.Values)
				if basis == nil || rapid.Bool().Draw(r, "keep") {
					basis = rec.Basis
				}
			},
		})
	})
}
