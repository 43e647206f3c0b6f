package rediscache_test

import (
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/rediscache"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// article is a value whose format has changed once.
type article struct{ Title string }

// damaged lists the keys of the events that tell of damage.
type damaged struct {
	mu   sync.Mutex
	keys []string
}

func (d *damaged) observe(_ context.Context, e cache.Event) {
	if e.Kind != cache.DamageFound {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.keys = append(d.keys, e.Key)
}

// asNumber is a codec whose bytes no other one takes for an article.
type asNumber struct{ cache.Codec[article] }

func (asNumber) Encode(article) ([]byte, error) { return []byte("1"), nil }

// Whatever is found in place of a value is counted, replaced, and no error.
func TestDamageIsCounted(t *testing.T) {
	rdb := rdbOf(t, redistest.Standalone(t))
	long := strings.Repeat("long", 1000)
	set := func(t *testing.T, key string, change func(b []byte) []byte) {
		t.Helper()
		b, err := rdb.Get(t.Context(), key).Bytes()
		require.NoError(t, err)
		require.NoError(t, rdb.Set(t.Context(), key, change(b), time.Minute).Err())
	}
	flip := func(b []byte) []byte { b[len(b)-1] ^= 1; return b }
	tests := []struct {
		name, title string
		damage      func(t *testing.T, entry string, before *cache.Namespace[article], e *cache.Engine)
	}{
		{"flipped", "short", func(t *testing.T, entry string, _ *cache.Namespace[article], _ *cache.Engine) { set(t, entry, flip) }},
		{"cut", "short", func(t *testing.T, entry string, _ *cache.Namespace[article], _ *cache.Engine) {
			set(t, entry, func(b []byte) []byte { return b[:len(b)/2] })
		}},
		{"another type", "short", func(t *testing.T, entry string, _ *cache.Namespace[article], _ *cache.Engine) {
			require.NoError(t, rdb.Del(t.Context(), entry).Err())
			require.NoError(t, rdb.LPush(t.Context(), entry, "x").Err())
			require.NoError(t, rdb.Expire(t.Context(), entry, time.Minute).Err())
		}},
		{"a chunk flipped", long, func(t *testing.T, entry string, _ *cache.Namespace[article], _ *cache.Engine) {
			for _, key := range keysOf(t, rdb, entry) {
				if strings.HasSuffix(key, ":1") {
					set(t, key, flip)
				}
			}
		}},
		{"an older schema", "short", func(t *testing.T, _ string, before *cache.Namespace[article], e *cache.Engine) {
			older, err := cache.For[article](e, "articles", cache.Policy{TTL: time.Minute})
			require.NoError(t, err)
			require.NoError(t, before.Delete(t.Context(), "1"))
			_, err = older.Get(t.Context(), "1", func(context.Context, string) (article, error) { return article{"old"}, nil })
			require.NoError(t, err)
		}},
		{"another encoding", "short", func(t *testing.T, _ string, before *cache.Namespace[article], e *cache.Engine) {
			other, err := cache.ForCodec(e, "articles", cache.Policy{TTL: time.Minute, Schema: 2}, asNumber{cache.DefaultCodec[article]()})
			require.NoError(t, err)
			require.NoError(t, before.Delete(t.Context(), "1"))
			_, err = other.Get(t.Context(), "1", func(context.Context, string) (article, error) { return article{"number"}, nil })
			require.NoError(t, err)
		}},
	}
	for _, tt := range tests {
		for _, many := range []bool{false, true} {
			name := tt.name
			if many {
				name += ", of many"
			}
			t.Run(name, func(t *testing.T) {
				var seen damaged
				s := rediscache.New(rdb, &rediscache.Options{
					Prefix: redistest.Prefix(t), TierBytes: -1, ChunkBytes: 1 << 10, CompressAbove: -1,
				})
				e := engineOn(t, rdb, s, cache.Options{StoreTimeout: patient, LeaseTTL: longLease, Observe: seen.observe})
				n, err := cache.For[article](e, "articles", cache.Policy{TTL: time.Minute, Schema: 2})
				require.NoError(t, err)
				loads := 0
				get := func() {
					t.Helper()
					load := func(context.Context, string) (article, error) { loads++; return article{tt.title}, nil }
					if !many {
						got, err := n.Get(t.Context(), "1", load)
						require.NoError(t, err)
						assert.Equal(t, article{tt.title}, got)
						return
					}
					got, err := n.GetMany(t.Context(), []string{"1"}, func(ctx context.Context, keys []string) (map[string]article, error) {
						a, err := load(ctx, keys[0])
						return map[string]article{keys[0]: a}, err
					})
					require.NoError(t, err)
					assert.Equal(t, map[string]article{"1": {tt.title}}, got)
				}
				get()
				require.Zero(t, e.Stats().Damaged)
				tt.damage(t, s.EntryName("articles:1"), n, e)
				get()
				assert.Equal(t, 2, loads)
				assert.EqualValues(t, 1, e.Stats().Damaged)
				get()
				assert.Equal(t, 2, loads, "it is replaced")
				assert.EqualValues(t, 1, e.Stats().Damaged)
				assert.Equal(t, []string{"articles:1"}, seen.keys)
				assert.Zero(t, e.Stats().StoreErrors)
			})
		}
	}
}

func TestATornBlobIsCounted(t *testing.T) {
	rdb := rdbOf(t, redistest.Standalone(t))
	var seen damaged
	s := rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(t), ChunkBytes: 1 << 10})
	e := engineOn(t, rdb, s, cache.Options{StoreTimeout: patient, LeaseTTL: longLease, Observe: seen.observe})
	blobs, err := cache.NewBlobs(e, "files", cache.Policy{TTL: time.Minute})
	require.NoError(t, err)
	read := func() {
		t.Helper()
		b, err := blobs.Get(t.Context(), "1", func(_ context.Context, _ string, w io.Writer) error {
			_, err := io.WriteString(w, strings.Repeat("x", 5000))
			return err
		})
		require.NoError(t, err)
		defer b.Close()
		_, err = io.Copy(io.Discard, b)
		require.NoError(t, err)
	}
	read()
	for _, key := range keysOf(t, rdb, s.EntryName("files:1")) {
		if strings.HasSuffix(key, ":1") {
			require.NoError(t, rdb.Del(t.Context(), key).Err())
		}
	}
	read()
	assert.EqualValues(t, 1, e.Stats().Damaged)
	assert.Equal(t, []string{"files:1"}, seen.keys)
	read()
	assert.EqualValues(t, 1, e.Stats().Damaged)
}
