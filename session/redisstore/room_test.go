package redisstore_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
	"github.com/stretchr/testify/require"
)

// Values grow, shrink, come and go, thousands of times: none is lost or mixed up with
// another, and a session takes not much more room than what is in it.
func TestARestlessSession(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	prefix := redistest.Prefix(t)
	store := redisstore.New(rdb, &redisstore.Options{Prefix: prefix})
	for _, longest := range []int{3, 100, 5000} {
		t.Run(fmt.Sprint(longest), func(t *testing.T) {
			seed := rand.Uint64()
			r := rand.New(rand.NewPCG(seed, 0))
			id, digest := fmt.Sprintf("rest%d", longest), session.Digest{1}
			want, rest, basis := map[string][]byte{}, false, any(nil)
			d := session.Delta{ID: id, Digest: digest, Create: true, Owner: "restowner", IdleTimeout: time.Hour, AbsoluteTimeout: time.Hour}
			for step := range 3000 {
				res, err := store.Commit(t.Context(), d)
				require.NoError(t, err, "seed %d, step %d", seed, step)
				require.Equal(t, session.Committed, res.Outcome, "seed %d, step %d", seed, step)
				if step%10 == 0 || rest {
					rec, err := store.Load(t.Context(), id, digest)
					require.NoError(t, err)
					basis = rec.Basis
					rec, err = store.LoadAll(t.Context(), id, digest, false)
					require.NoError(t, err)
					if r.IntN(2) == 0 {
						basis = rec.Basis
					}
					ends, err := rdb.ZScore(t.Context(), prefix+"{rest}user:owner", id).Result()
					require.NoError(t, err)
					require.EqualValues(t, res.At.Add(res.ExpiresIn).UnixMilli(), ends, "in the list of its owner's")
					expires, err := rdb.PExpireTime(t.Context(), prefix+"{rest}"+id[4:]).Result()
					require.NoError(t, err)
					require.EqualValues(t, ends, expires.Milliseconds())
					require.Equal(t, want, rec.Values.Map(), "seed %d, step %d", seed, step)
					room, err := rdb.StrLen(t.Context(), prefix+"{rest}"+id[4:]).Result()
					require.NoError(t, err)
					live, most := 0, 512+200+1000 // what nobody reads, the head, and its padding
					for name, value := range want {
						live, most = live+len(value), most+len(name)+12
					}
					require.LessOrEqual(t, room, int64(most+live+live/2), "seed %d, step %d", seed, step)
				}
				d = session.Delta{ID: id, Digest: digest, Set: map[string][]byte{}, Basis: basis}
				if rest = r.IntN(2) == 0; rest && len(want) > 0 { // what goes by the basis
					names := slices.Sorted(maps.Keys(want))
					name := names[r.IntN(len(names))]
					d.Set[name] = []byte(strings.Repeat(string(rune('a'+r.IntN(26))), r.IntN(longest+1)))
					want[name] = d.Set[name]
					continue
				}
				for range r.IntN(4) {
					name := fmt.Sprint("name", r.IntN(20))
					switch old, there := want[name]; {
					case there && r.IntN(4) == 0:
						d.Delete = append(d.Delete, name)
						delete(want, name)
						delete(d.Set, name)
						continue
					case there && r.IntN(2) == 0: // as long as before
						d.Set[name] = []byte(strings.Repeat(string(rune('a'+r.IntN(26))), len(old)))
					default:
						d.Set[name] = []byte(strings.Repeat(string(rune('a'+r.IntN(26))), r.IntN(longest+1)))
					}
					want[name] = d.Set[name]
					for i, deleted := range d.Delete {
						if deleted == name {
							d.Delete = append(d.Delete[:i], d.Delete[i+1:]...)
							break
						}
					}
				}
				if r.IntN(10) == 0 {
					d.Meta = []byte(strings.Repeat("m", r.IntN(300)))
				}
				if r.IntN(10) == 0 {
					next := session.Digest{byte(r.IntN(256)), byte(step), byte(step >> 8)}
					d.Rotate = &session.Rotation{Digest: next, Grace: time.Duration(r.IntN(2)) * time.Millisecond, Handover: []byte("handover")}
					digest = next
				}
			}
		})
	}
}
