package session_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
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

// longShop is a site with a browser whose session has values of 50 kB in all, which are
// read when they are asked for.
func longShop(t *testing.T, o *session.Options) (*site, *browser, *redistest.Proxy) {
	proxy := redistest.NewProxy(t, redistest.Standalone(t).Addr())
	rdb := redis.NewClient(&redis.Options{Addr: proxy.Addr(), MaxRetries: -1})
	t.Cleanup(func() { rdb.Close() })
	s := newSite(t, redisstore.New(rdb, &redisstore.Options{Prefix: redistest.Prefix(t)}), o)
	s.handle("/new", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
		for i := range 5 {
			if err := sess.Set(r.Context(), fmt.Sprint("long", i), long(i)); err != nil {
				return err
			}
		}
		return sess.Set(r.Context(), "step", "address")
	})
	b := s.browser()
	b.ok("/new")
	return s, b, proxy
}

func long(i int) string { return strings.Repeat(string(rune('0'+i)), 10_000) }

func TestLongValuesAreReadWhenTheyAreAskedFor(t *testing.T) {
	s, b, proxy := longShop(t, nil)
	s.handle("/keys", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
		keys, err := sess.Keys(r.Context())
		fmt.Fprint(w, keys)
		return err
	})
	s.handle("/append", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
		return sess.Update(r.Context(), "long1", func(old session.Value) (any, error) {
			var v string
			assert.True(t, old.Decode(&v))
			return v + "x", nil
		})
	})
	s.handle("/pop", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
		var v string
		_, err := sess.Pop(r.Context(), "long1", &v)
		fmt.Fprint(w, v)
		return err
	})
	b.ok("/get?name=step") // connects once more
	for _, test := range []struct {
		path, body  string
		trips, down int64
	}{
		{"/get?name=step", "address", 1, 5_000},
		{"/keys", "[long0 long1 long2 long3 long4 step]", 1, 5_000},
		{"/set?name=step&value=pay", "", 3, 5_000},     // once, to tell Redis the script
		{"/set?name=step&value=address", "", 3, 5_000}, // of another length, and another script
		{"/set?name=step&value=pay", "", 2, 5_000},
		{"/get?name=long3", long(3), 2, 70_000},
		{"/set?name=long3&value=" + long(3), "", 2, 70_000}, // which it is already
		{"/get?name=step", "pay", 1, 5_000},
		{"/append", "", 4, 70_000},
		{"/get?name=long1", long(1) + "x", 2, 70_000},
		{"/pop", long(1) + "x", 3, 70_000},
		{"/keys", "[long0 long2 long3 long4 step]", 1, 5_000},
	} {
		proxy.Reset()
		assert.Equal(t, test.body, b.ok("%s", test.path), test.path[:min(len(test.path), 40)])
		got := proxy.Stats()
		assert.LessOrEqual(t, got.RoundTrips, test.trips, test.path[:min(len(test.path), 40)])
		assert.LessOrEqual(t, got.BytesDown, test.down, test.path[:min(len(test.path), 40)])
	}
	b.ok("/login?user=alice") // moves everything
	for i := range 5 {
		if i != 1 {
			assert.Equal(t, long(i), b.ok("/get?name=long%d", i))
		}
	}
}

// What was left out counts as well.
func TestLongValuesCount(t *testing.T) {
	s, b, _ := longShop(t, &session.Options{MaxBytes: 60_000})
	s.handle("/more", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
		err := sess.Set(r.Context(), "more", long(1))
		fmt.Fprint(w, err != nil && slices.Contains(strings.Fields(err.Error()), "large:"))
		return nil
	})
	assert.Equal(t, "true", b.ok("/more"))
}

// With keys, a value shows by whose it is whether the session can be read; and what is kept
// for when the store is away is kept whole.
func TestAllIsReadWhereItIsNeeded(t *testing.T) {
	for name, o := range map[string]*session.Options{
		"encrypted":      {Encryption: []session.EncryptionKey{{ID: "k", Key: make([]byte, 32)}}},
		"may be written": {StaleFor: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			_, b, proxy := longShop(t, o)
			b.ok("/get?name=step")
			proxy.Reset()
			assert.Equal(t, long(2), b.ok("/get?name=long2"))
			assert.EqualValues(t, 1, proxy.Stats().RoundTrips)
		})
	}
}

// A session that ends between the two steps of a request is gone, and so is a response that
// rests on a value which could not be read.
func TestALongValueThatIsNotThereAnyMore(t *testing.T) {
	for _, away := range []bool{false, true} {
		t.Run(fmt.Sprintf("away=%v", away), func(t *testing.T) {
			s, b, proxy := longShop(t, nil)
			var got, set error
			s.handle("/both", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
				var step, v string
				_, err := sess.Get(r.Context(), "step", &step)
				require.NoError(t, err)
				if away {
					proxy.Refuse(true)
					proxy.Cut()
				} else {
					b.at(s).ok("/logout")
				}
				_, got = sess.Get(r.Context(), "long2", &v)
				assert.Empty(t, v)
				set = sess.Set(r.Context(), "step", "done")
				w.WriteHeader(http.StatusOK)
				return nil
			})
			status := b.get("/both").StatusCode
			want, code := session.ErrGone, http.StatusUnauthorized
			if away {
				want, code = session.ErrUnavailable, http.StatusServiceUnavailable
			}
			require.ErrorIs(t, got, want)
			require.ErrorIs(t, set, want, "nothing is written in ignorance")
			assert.Equal(t, code, status)
		})
	}
}

// What was left out is not read for who does not get it: he has deleted it, or logs in as
// another one.
func TestWhatNobodyGetsIsNotRead(t *testing.T) {
	s, b, proxy := longShop(t, nil)
	gone := func(r *http.Request, sess *session.Session) {
		var v string
		found, err := sess.Get(r.Context(), "long1", &v)
		assert.NoError(t, err)
		assert.False(t, found)
	}
	s.handle("/deleted", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
		require.NoError(t, sess.Delete(r.Context(), "long1"))
		gone(r, sess)
		return nil
	})
	s.handle("/other", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
		require.NoError(t, sess.Login(r.Context(), "bob"))
		b.at(s).ok("/logout") // the password counts all the same
		gone(r, sess)
		return sess.Set(r.Context(), "long1", "bob's")
	})
	b.ok("/login?user=alice")
	proxy.Reset()
	b.ok("/deleted")
	assert.LessOrEqual(t, proxy.Stats().BytesDown, int64(5_000))
	b.ok("/set?name=long1&value=%s", long(1))
	b.ok("/set?name=step&value=pay") // of another length, and the last
	b.ok("/other")
	assert.Equal(t, "bob", b.ok("/user"))
	assert.Equal(t, "bob's", b.ok("/get?name=long1"))
}

// leavingOut leaves out what is long.
type leavingOut struct{ session.Store }

func (l leavingOut) Load(ctx context.Context, id string, d session.Digest) (session.Record, error) {
	rec, err := l.Store.Load(ctx, id, d)
	values := slices.Clone(rec.Values)
	for i, e := range values {
		if len(e.Data) > 100 {
			values[i] = session.Entry{Name: e.Name, LeftOut: len(e.Data)}
		}
	}
	rec.Values = values
	return rec, err
}

// A value that could not be decoded is another one when what was left out is there. It is
// replaced as any other, and not kept.
func TestAnotherValueComesWithWhatWasLeftOut(t *testing.T) {
	for _, replaced := range []bool{false, true} {
		tap := &tap{Store: session.NewMemoryStore()}
		m := newManager(t, leavingOut{tap}, nil)
		cookie := logIn(t, m, "alice")
		set := func(s *session.Session, name string, v any) {
			require.NoError(t, s.Set(t.Context(), name, v))
			commit(t, m, s)
		}
		set(m.Load(request(cookie)), "long", long(1))
		set(m.Load(request(cookie)), "count", "a text")
		s := m.Load(request(cookie))
		var count int
		found, err := s.Get(t.Context(), "count", &count)
		require.NoError(t, err)
		require.False(t, found)
		if replaced {
			set(m.Load(request(cookie)), "count", 5)
		}
		var v string
		_, err = s.Get(t.Context(), "long", &v)
		require.NoError(t, err)
		require.Equal(t, long(1), v)
		set(s, "count", 6)
		_, err = m.Load(request(cookie)).User(t.Context())
		require.NoError(t, err)
		var want []string
		if !replaced {
			want = append(want, "\x00aside\x00count")
		}
		var names []string
		for _, e := range tap.rec.Values {
			names = append(names, e.Name)
		}
		assert.Equal(t, append(want, "count", "long"), names)
	}
}

// Where encryption was taken away, a session whose encrypted value is left out goes on
// without it, and keeps it when another takes its place.
func TestALongValueAndNoKeys(t *testing.T) {
	for _, asked := range []bool{false, true} {
		tap := &tap{Store: session.NewMemoryStore()}
		with := newManager(t, leavingOut{tap}, &session.Options{Encryption: []session.EncryptionKey{{ID: "k", Key: make([]byte, 32)}}})
		s := with.Load(httptest.NewRequest(http.MethodGet, "/", nil))
		require.NoError(t, s.Set(t.Context(), "long", long(1)))
		cookie := commit(t, with, s).Value

		without := newManager(t, leavingOut{tap}, nil)
		s = without.Load(request(cookie))
		if asked {
			var v string
			found, err := s.Get(t.Context(), "long", &v)
			require.NoError(t, err)
			assert.False(t, found)
		}
		require.NoError(t, s.Set(t.Context(), "long", "short"))
		stored, _ := tap.rec.Values.Get("long")
		require.NotEmpty(t, stored)
		commit(t, without, s)
		_, err := without.Load(request(cookie)).Keys(t.Context())
		require.NoError(t, err)
		aside, _ := tap.rec.Values.Get("\x00aside\x00long")
		assert.Equal(t, stored, aside)
	}
}

// What this request has set stays so for it, also where it was the same before, and others
// have set something else when the rest of a long session is read.
func TestASetOfWhatWasThere(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		m := newManager(t, store, &session.Options{MaxBytes: 1 << 20})
		do := func(token string, fn func(ctx context.Context, s *session.Session)) string {
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set("Cookie", cookieName+"="+token)
			s := m.Load(r)
			fn(r.Context(), s)
			rec := httptest.NewRecorder()
			require.NoError(t, m.Commit(r.Context(), s, rec.Header()))
			for _, c := range rec.Result().Cookies() {
				token = c.Value
			}
			return token
		}
		get := func(ctx context.Context, s *session.Session, name string) (v string) {
			_, err := s.Get(ctx, name, &v)
			require.NoError(t, err)
			return v
		}
		token := do("", func(ctx context.Context, s *session.Session) {
			require.NoError(t, s.Set(ctx, "long", strings.Repeat("x", 20_000)))
			require.NoError(t, s.Set(ctx, "step", "cart"))
		})
		do(token, func(ctx context.Context, s *session.Session) {
			require.NoError(t, s.Set(ctx, "step", "cart"))
			require.NoError(t, s.Delete(ctx, "note"))
			do(token, func(ctx context.Context, s *session.Session) {
				require.NoError(t, s.Set(ctx, "step", "paid"))
				require.NoError(t, s.Set(ctx, "note", "by another one"))
			})
			assert.Len(t, get(ctx, s, "long"), 20_000)
			assert.Equal(t, "cart", get(ctx, s, "step"))
			assert.Empty(t, get(ctx, s, "note"))
		})
	})
}
