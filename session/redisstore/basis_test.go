package redisstore_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func commit(t *testing.T, store session.Store, want session.Outcome, d session.Delta) session.Result {
	t.Helper()
	res, err := store.Commit(t.Context(), d)
	require.NoError(t, err)
	require.Equal(t, want, res.Outcome)
	return res
}

// untilReused waits until the grace of digest is over, which is said once.
func untilReused(t *testing.T, store session.Store, id string, digest session.Digest) {
	t.Helper()
	require.Eventually(t, func() bool {
		rec, err := store.Load(t.Context(), id, digest)
		assert.NoError(t, err)
		return rec.State == session.Reused
	}, 20*time.Second, time.Millisecond)
}

// That an old digest is forgotten moves the names in the head and is no commit.
func TestABasisFromBeforeADigestWasForgotten(t *testing.T) {
	store := redisstore.New(redistest.Standalone(t).Client(t), &redisstore.Options{Prefix: redistest.Prefix(t)})
	commit(t, store, session.Committed, session.Delta{ID: "forg-1", Digest: first, Create: true, IdleTimeout: time.Hour, AbsoluteTimeout: time.Hour, Set: map[string][]byte{"cart": []byte("1")}})
	commit(t, store, session.Committed, session.Delta{ID: "forg-1", Digest: first, Rotate: &session.Rotation{Digest: second, Grace: time.Millisecond, Handover: make([]byte, 60)}})
	rec, err := store.Load(t.Context(), "forg-1", second)
	require.NoError(t, err)
	require.Equal(t, session.Current, rec.State)
	untilReused(t, store, "forg-1", first)
	commit(t, store, session.Committed, session.Delta{ID: "forg-1", Digest: second, Set: map[string][]byte{"cart": []byte("22")}, Basis: rec.Basis})
	rec, err = store.Load(t.Context(), "forg-1", second)
	require.NoError(t, err)
	require.Equal(t, session.Current, rec.State)
	require.Equal(t, map[string][]byte{"cart": []byte("22")}, rec.Values.Map())
}

// The same, where another value is written over.
func TestABasisThatFitsAnotherValue(t *testing.T) {
	store := redisstore.New(redistest.Standalone(t).Client(t), &redisstore.Options{Prefix: redistest.Prefix(t)})
	commit(t, store, session.Committed, session.Delta{ID: "forg-2", Digest: first, Create: true, IdleTimeout: time.Hour, AbsoluteTimeout: time.Hour})
	for _, name := range []string{"a", "user"} {
		commit(t, store, session.Committed, session.Delta{ID: "forg-2", Digest: first, Set: map[string][]byte{name: []byte("x" + name)}})
	}
	n := strings.Repeat("n", 32+4-12) // an entry as long as what is forgotten: p and h
	commit(t, store, session.Committed, session.Delta{ID: "forg-2", Digest: first, Set: map[string][]byte{n: []byte("secret")}})
	commit(t, store, session.Committed, session.Delta{ID: "forg-2", Digest: first, Rotate: &session.Rotation{Digest: second, Grace: time.Millisecond, Handover: make([]byte, 4)}})
	rec, err := store.Load(t.Context(), "forg-2", second)
	require.NoError(t, err)
	untilReused(t, store, "forg-2", first)
	commit(t, store, session.Committed, session.Delta{ID: "forg-2", Digest: second, Set: map[string][]byte{"user": []byte("evil")}, Basis: rec.Basis})
	rec, err = store.Load(t.Context(), "forg-2", second)
	require.NoError(t, err)
	require.Equal(t, map[string][]byte{"a": []byte("xa"), "user": []byte("evil"), n: []byte("secret")}, rec.Values.Map())
}

// A failover loses a commit, another takes its place.
func TestABasisFromBeforeAFailover(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	prefix := redistest.Prefix(t)
	store := redisstore.New(rdb, &redisstore.Options{Prefix: prefix})
	id, key := "fail-1", prefix+"{fail}-1"
	commit(t, store, session.Committed, session.Delta{ID: id, Digest: first, Create: true, IdleTimeout: time.Hour, AbsoluteTimeout: time.Hour})
	replica, err := rdb.Get(t.Context(), key).Result()
	require.NoError(t, err)
	commit(t, store, session.Committed, session.Delta{ID: id, Digest: first, Set: map[string][]byte{"cart": []byte("[1,2]")}})
	rec, err := store.Load(t.Context(), id, first)
	require.NoError(t, err)
	require.NoError(t, rdb.SetArgs(t.Context(), key, replica, redis.SetArgs{KeepTTL: true}).Err()) // failed over
	commit(t, store, session.Committed, session.Delta{ID: id, Digest: first, Set: map[string][]byte{"role": []byte("guest")}})
	commit(t, store, session.Committed, session.Delta{ID: id, Digest: first, Set: map[string][]byte{"cart": []byte("[1,2,3]")}, Basis: rec.Basis})
	rec, err = store.Load(t.Context(), id, first)
	require.NoError(t, err)
	require.Equal(t, map[string][]byte{"role": []byte("guest"), "cart": []byte("[1,2,3]")}, rec.Values.Map())
}

// An old cookie that comes during a request costs nobody the session.
func TestAnOldCookieDuringAWrite(t *testing.T) {
	store := redisstore.New(redistest.Standalone(t).Client(t), &redisstore.Options{Prefix: redistest.Prefix(t)})
	m, err := session.New(store, &session.Options{RenewEvery: time.Second, RenewGrace: time.Second})
	require.NoError(t, err)
	var during func()
	h := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		var cart string
		found, err := s.Get(r.Context(), "cart", &cart)
		require.NoError(t, err)
		if r.URL.Path == "/set" {
			require.NoError(t, s.Set(r.Context(), "cart", cart+"x"))
		}
		if f := during; f != nil {
			during = nil
			f()
		}
		if !found && r.URL.Path != "/set" {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	do := func(path string, c *http.Cookie) (int, *http.Cookie) {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", path, nil)
		if c != nil {
			r.AddCookie(c)
		}
		h.ServeHTTP(w, r)
		if cs := w.Result().Cookies(); len(cs) > 0 {
			c = cs[0]
		}
		return w.Code, c
	}
	_, old := do("/set", nil)
	var now *http.Cookie
	require.Eventually(t, func() bool {
		_, now = do("/", old)
		return now.Value != old.Value
	}, 20*time.Second, 10*time.Millisecond, "it is to be renewed")
	during = func() {
		require.Eventually(t, func() bool {
			code, _ := do("/", old)
			return code == http.StatusNotFound
		}, 20*time.Second, 10*time.Millisecond, "its grace is to be over")
	}
	code, now := do("/set", now)
	require.Equal(t, 200, code)
	code, _ = do("/", now)
	require.Equal(t, 200, code, "the session is there")
}

// A session that was withdrawn, and has come back by itself, is written in one step again.
func TestAfterAHold(t *testing.T) {
	rdb := redistest.NewStandalone(t).Client(t)
	store := redisstore.New(rdb, nil)
	commit(t, store, session.Committed, session.Delta{ID: "sess-1", Digest: first, Create: true, IdleTimeout: time.Hour, AbsoluteTimeout: time.Hour, Set: map[string][]byte{"a": []byte("x")}})
	_, err := store.Take(t.Context(), "sess-1", first, "taker", time.Millisecond)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		rec, err := store.Load(t.Context(), "sess-1", first)
		return err == nil && rec.State == session.Current
	}, 20*time.Second, time.Millisecond)
	var scripts []string
	for range 3 {
		rec, err := store.Load(t.Context(), "sess-1", first)
		require.NoError(t, err)
		require.NoError(t, rdb.ConfigResetStat(t.Context()).Err())
		commit(t, store, session.Committed, session.Delta{ID: "sess-1", Digest: first, Set: map[string][]byte{"a": []byte("y")}, Basis: rec.Basis})
		info, err := rdb.Info(t.Context(), "commandstats").Result()
		require.NoError(t, err)
		_, after, _ := strings.Cut(info, "cmdstat_evalsha:calls=")
		calls, _, _ := strings.Cut(after, ",")
		scripts = append(scripts, calls)
	}
	require.Equal(t, "1", scripts[2], "%v", scripts)
}
