package lock_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/lock"
	"pgregory.net/rapid"
)

// model is the smallest that a store can be: the leases of one name, and those
// who wait for one.
type model struct {
	leases []modelLease
	queue  []modelLease
	last   uint64
}

type modelLease struct {
	req lock.Request
	end time.Time
}

// expire forgets what is over.
func (m *model) expire() {
	over := func(l modelLease) bool { return !time.Now().Before(l.end) }
	m.leases = slices.DeleteFunc(m.leases, over)
	m.queue = slices.DeleteFunc(m.queue, over)
}

func find(leases []modelLease, owner string) int {
	return slices.IndexFunc(leases, func(l modelLease) bool { return l.req.Owner == owner })
}

// fits reports whether a lease for req can be held together with those of with.
func fits(req lock.Request, with []modelLease) bool {
	for _, l := range with {
		if !l.req.Shared || !req.Shared {
			return false
		}
	}
	return !req.Shared || req.Limit == 0 || len(with) < req.Limit
}

// admits reports whether the owner of req holds a lease, or is given one now: it
// must fit together with all that there are, and all that are ahead.
func (m *model) admits(req lock.Request) bool {
	ahead := m.queue
	if i := find(m.queue, req.Owner); i >= 0 {
		ahead = m.queue[:i]
	}
	return find(m.leases, req.Owner) >= 0 || fits(req, append(slices.Clone(m.leases), ahead...))
}

// The memory store, step by step against the model.
func TestMemoryStoreAgainstAModel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		synctest.Test(t, func(t *testing.T) {
			store, m := lock.NewMemoryStore(), new(model)
			// An owner asks for one kind of lease only.
			requests := []lock.Request{
				{Owner: "x1"},
				{Owner: "x2"},
				{Owner: "x3"},
				{Owner: "r1", Shared: true},
				{Owner: "r2", Shared: true},
				{Owner: "p1", Shared: true, Limit: 2},
				{Owner: "p2", Shared: true, Limit: 2},
				{Owner: "p3", Shared: true, Limit: 2},
			}
			seconds := rapid.Custom(func(r *rapid.T) time.Duration { return time.Duration(rapid.IntRange(1, 9).Draw(r, "s")) * time.Second })
			for range rapid.IntRange(1, 80).Draw(r, "steps") {
				req := rapid.SampledFrom(requests).Draw(r, "request")
				req.Name, req.TTL = "n", seconds.Draw(r, "ttl")
				m.expire()
				held := find(m.leases, req.Owner)
				acquire := func(ask func() (lock.Grant, error)) {
					held := find(m.leases, req.Owner)
					want, place := m.admits(req), find(m.queue, req.Owner)
					grant, err := ask()
					switch {
					case err != nil || grant.Acquired != want:
						r.Fatalf("TryAcquire(%+v) = %+v, %v, want acquired: %v\nof %+v", req, grant, err, want, m)
					case want && grant.Token <= m.last:
						r.Fatalf("token %d follows %d", grant.Token, m.last)
					case !want && grant.HeldFor <= 0:
						r.Fatalf("the refusal %+v does not say for how long", grant)
					case want:
						m.last = grant.Token + uint64(max(req.Tokens, 1)) - 1
						if place >= 0 {
							m.queue = slices.Delete(m.queue, place, place+1)
						}
						if held >= 0 {
							m.leases = slices.Delete(m.leases, held, held+1)
						}
						m.leases = append(m.leases, modelLease{req, time.Now().Add(req.TTL)})
					case req.Place > 0 && place >= 0:
						m.queue[place].end = time.Now().Add(req.Place)
					case req.Place > 0:
						m.queue = append(m.queue, modelLease{req, time.Now().Add(req.Place)})
					}
				}
				// release is of what the model has of an owner.
				release := func(owner string) {
					if held := find(m.leases, owner); held >= 0 {
						m.leases = slices.Delete(m.leases, held, held+1)
					}
					if place := find(m.queue, owner); place >= 0 {
						m.queue = slices.Delete(m.queue, place, place+1)
					}
				}
				switch step := rapid.SampledFrom([]string{"try", "wait for it", "relay", "extend", "release", "time"}).Draw(r, "step"); step {
				case "wait for it":
					req.Place = seconds.Draw(r, "place")
					fallthrough
				case "try":
					req.Tokens = rapid.IntRange(0, 3).Draw(r, "tokens")
					acquire(func() (lock.Grant, error) { return store.TryAcquire(t.Context(), req) })
				case "relay":
					from := rapid.SampledFrom(requests).Draw(r, "from")
					from.Name = "n"
					had := find(m.leases, from.Owner)
					if had >= 0 {
						from.Tokens = m.leases[had].req.Tokens // all were used
					}
					req.Place = seconds.Draw(r, "place")
					release(from.Owner)
					acquire(func() (lock.Grant, error) {
						got, grant, err := store.Relay(t.Context(), from, req)
						if got != (had >= 0) {
							r.Fatalf("Relay(%+v, %+v) = %v, of %+v", from, req, got, m)
						}
						return grant, err
					})
				case "extend":
					if got, err := store.Extend(t.Context(), req); err != nil || got != (held >= 0) {
						r.Fatalf("Extend(%+v) = %v, %v, of %+v", req, got, err, m)
					}
					if held >= 0 {
						m.leases[held].end = time.Now().Add(req.TTL)
					}
				case "release":
					if held >= 0 {
						req.Tokens = m.leases[held].req.Tokens // all were used
					}
					if got, err := store.Release(t.Context(), req); err != nil || got != (held >= 0) {
						r.Fatalf("Release(%+v) = %v, %v, of %+v", req, got, err, m)
					}
					release(req.Owner)
				case "time":
					time.Sleep(req.TTL)
				}
			}
		})
	})
}
