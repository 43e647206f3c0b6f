package redisstore_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Values of many sessions that are written at a time are written by one script, each as
// if it were alone.
func TestManyWritesAtATime(t *testing.T) {
	rdb := redistest.NewStandalone(t).Client(t)
	store := redisstore.New(rdb, &redisstore.Options{Prefix: "p:"})
	const sessions, times, ended, replaced = 64, 20, 5, 9
	id := func(i int) string { return fmt.Sprintf("many-%d", i) }
	for i := range sessions {
		d := session.Delta{ID: id(i), Digest: first, Create: true, IdleTimeout: time.Hour, AbsoluteTimeout: time.Hour, Set: map[string][]byte{"a": []byte("0"), "b": []byte("b")}}
		if i%2 == 1 {
			d.Owner = "many-owner"
		}
		commit(t, store, session.Committed, d)
	}
	require.NoError(t, rdb.ConfigResetStat(t.Context()).Err())
	var wg sync.WaitGroup
	for i := range sessions {
		wg.Go(func() {
			for n := range times {
				rec, err := store.Load(t.Context(), id(i), first)
				assert.NoError(t, err)
				want := session.Committed
				if n == times/2 && (i == ended || i == replaced) {
					assert.NoError(t, rdb.Del(t.Context(), "p:{many}-"+fmt.Sprint(i)).Err())
					if i == replaced {
						assert.NoError(t, rdb.RPush(t.Context(), "p:{many}-"+fmt.Sprint(i), "no session").Err())
					}
					want = session.Gone
				}
				value := strings.Repeat(fmt.Sprint(i), n+1)
				res, err := store.Commit(t.Context(), session.Delta{ID: id(i), Digest: first, Set: map[string][]byte{"a": []byte(value)}, Basis: rec.Basis})
				assert.NoError(t, err)
				if !assert.Equal(t, want, res.Outcome) || want == session.Gone {
					return
				}
				assert.EqualValues(t, n+2, res.Version)
				assert.InDelta(t, time.Hour, res.ExpiresIn, float64(time.Minute))
			}
		})
	}
	wg.Wait()
	for i := range sessions {
		rec, err := store.Load(t.Context(), id(i), first)
		require.NoError(t, err)
		if i == ended || i == replaced {
			require.Equal(t, session.Missing, rec.State)
			continue
		}
		require.Equal(t, map[string][]byte{"a": []byte(strings.Repeat(fmt.Sprint(i), times)), "b": []byte("b")}, rec.Values.Map())
	}
	stats, err := rdb.InfoMap(t.Context(), "commandstats").Result()
	require.NoError(t, err)
	var calls int
	_, err = fmt.Sscanf(stats["Commandstats"]["cmdstat_evalsha"], "calls=%d", &calls)
	require.NoError(t, err)
	require.Less(t, calls, sessions*times/2)
}

// Where Redis is full every write fails, each with its own error, and reads go on.
func TestManyWritesToAFullRedis(t *testing.T) {
	rdb := redistest.NewStandalone(t).Client(t)
	store := redisstore.New(rdb, nil)
	const sessions = 48
	id := func(i int) string { return fmt.Sprintf("full-%d", i) }
	for i := range sessions {
		commit(t, store, session.Committed, session.Delta{ID: id(i), Digest: first, Create: true, IdleTimeout: time.Hour, AbsoluteTimeout: time.Hour, Set: map[string][]byte{"a": []byte("0")}})
	}
	write := func(want string) {
		var wg sync.WaitGroup
		for i := range sessions {
			wg.Go(func() {
				for range 20 {
					rec, err := store.Load(t.Context(), id(i), first)
					if !assert.NoError(t, err) || !assert.Equal(t, session.Current, rec.State) {
						return
					}
					_, err = store.Commit(t.Context(), session.Delta{ID: id(i), Digest: first, Set: map[string][]byte{"a": []byte(id(i))}, Basis: rec.Basis})
					if want == "" {
						assert.NoError(t, err)
					} else {
						assert.ErrorContains(t, err, want)
					}
				}
			})
		}
		wg.Wait()
	}
	write("") // they go together from here on
	require.NoError(t, rdb.ConfigSet(t.Context(), "maxmemory", "1").Err())
	write("OOM")
	require.NoError(t, rdb.ConfigSet(t.Context(), "maxmemory", "0").Err())
	for i := range sessions {
		rec, err := store.Load(t.Context(), id(i), first)
		require.NoError(t, err)
		require.EqualValues(t, 21, rec.Version)
		require.Equal(t, map[string][]byte{"a": []byte(id(i))}, rec.Values.Map())
	}
}
