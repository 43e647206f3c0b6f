package lock_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/lock"
	"pgregory.net/rapid"
)

// The memory store, step by step against the smallest model of a store.
func TestMemoryStoreAgainstAModel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		synctest.Test(t, func(t *testing.T) {
			type lease struct {
				owner string
				ends  time.Time
			}
			store, model, last := lock.NewMemoryStore(), map[string]lease{}, map[string]uint64{}
			holds := func(name, owner string) bool {
				l, ok := model[name]
				return ok && time.Now().Before(l.ends) && (owner == "" || l.owner == owner)
			}
			name, owner := rapid.SampledFrom([]string{"m", "n"}), rapid.SampledFrom([]string{"a", "b", "c"})
			ttl := rapid.Custom(func(r *rapid.T) time.Duration { return time.Duration(rapid.IntRange(1, 9).Draw(r, "s")) * time.Second })
			for range rapid.IntRange(1, 50).Draw(r, "steps") {
				n, o, d := name.Draw(r, "name"), owner.Draw(r, "owner"), ttl.Draw(r, "ttl")
				switch rapid.SampledFrom([]string{"try", "extend", "release", "wait"}).Draw(r, "step") {
				case "try":
					grant, err := store.TryAcquire(t.Context(), lock.Request{Name: n, Owner: o, TTL: d})
					repeat := holds(n, o)
					want := repeat || !holds(n, "")
					switch {
					case err != nil || grant.Acquired != want:
						r.Fatalf("TryAcquire(%s, %s) = %+v, %v, want acquired: %v", n, o, grant, err, want)
					case !want && grant.HeldFor != time.Until(model[n].ends):
						r.Fatalf("HeldFor is %v, want %v", grant.HeldFor, time.Until(model[n].ends))
					case repeat && grant.Token != last[n], want && !repeat && grant.Token <= last[n]:
						r.Fatalf("token %d follows %d, for a repeat: %v", grant.Token, last[n], repeat)
					case want:
						model[n], last[n] = lease{o, time.Now().Add(d)}, grant.Token
					}
				case "extend":
					want := holds(n, o)
					if got, err := store.Extend(t.Context(), n, o, d); err != nil || got != want {
						r.Fatalf("Extend(%s, %s) = %v, %v, want %v", n, o, got, err, want)
					}
					if want {
						model[n] = lease{o, time.Now().Add(d)}
					}
				case "release":
					want := holds(n, o)
					if got, err := store.Release(t.Context(), n, o); err != nil || got != want {
						r.Fatalf("Release(%s, %s) = %v, %v, want %v", n, o, got, err, want)
					}
					if want {
						delete(model, n)
					}
				case "wait":
					time.Sleep(d)
				}
			}
		})
	})
}
