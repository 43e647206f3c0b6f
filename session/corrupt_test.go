package session_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
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

// tap is a Store that remembers what came of the last Load.
type tap struct {
	session.Store

	mu     sync.Mutex
	id     string
	digest session.Digest
	rec    session.Record
}

func (p *tap) Load(ctx context.Context, id string, d session.Digest) (session.Record, error) {
	rec, err := p.Store.Load(ctx, id, d)
	p.note(id, d, rec)
	return rec, err
}

func (p *tap) LoadAll(ctx context.Context, id string, d session.Digest, again bool) (session.Record, error) {
	rec, err := p.Store.LoadAll(ctx, id, d, again)
	p.note(id, d, rec)
	return rec, err
}

func (p *tap) note(id string, d session.Digest, rec session.Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.id, p.digest, p.rec = id, d, rec
}

// stored returns the values of the session that b has, as they are in the store.
func (p *tap) stored(b *browser) map[string][]byte {
	b.ok("/user")
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rec.Values.Map()
}

// write puts bytes into the session that b has.
func (p *tap) write(t *testing.T, b *browser, d session.Delta) {
	t.Helper()
	p.stored(b)
	d.ID, d.Digest = p.id, p.digest
	res, err := p.Commit(t.Context(), d)
	require.NoError(t, err)
	require.Equal(t, session.Committed, res.Outcome)
}

// aside is where a value is kept that could not be decoded.
const aside = "\x00aside\x00"

func key(id string, fill byte) session.EncryptionKey {
	return session.EncryptionKey{ID: id, Key: []byte(strings.Repeat(string(rune(fill)), 32))}
}

// framed is a value in a frame of schema version 1 to 127.
func framed(schema byte, value string) []byte {
	return append([]byte{0, 'h', 1, schema}, value...)
}

// A value that cannot be read costs the user that value and nothing else, is
// counted, and is kept.
func TestAValueThatCannotBeRead(t *testing.T) {
	migrate := func(_ string, version int, value []byte) ([]byte, error) {
		if string(value) == `"unwilling"` {
			return nil, fmt.Errorf("nobody knows what that was in version %d", version)
		}
		return value, nil
	}
	bad := map[string][]byte{
		"not JSON":                       []byte(`"half`),
		"empty":                          {},
		"of another type":                []byte(`{"first":"Ada"}`),
		"a frame that ends":              {0},
		"a frame without flags":          {0, 'h'},
		"a frame of somebody else":       {0, 'x', 1, 2, 3},
		"flags of a newer program":       {0, 'h', 0x80, 1, 2, 3},
		"a schema without end":           {0, 'h', 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"a huge schema":                  {0, 'h', 1, 0xff, 0xff, 0xff, 0xff, 0x7f, '1'},
		"half of the random bytes":       {0, 'h', 2, 1, 2, 3},
		"half of a ciphertext":           {0, 'h', 4, 1, 'k', 1, 2, 3},
		"a newer schema":                 framed(9, `{"first":"Ada"}`),
		"an older one, without its form": framed(1, `{"first":"Ada"}`),
		"an older one, not migrated":     framed(1, `"unwilling"`),
	}
	onBothStores(t, func(t *testing.T, store session.Store) {
		var mu sync.Mutex
		var events []session.Event
		p := &tap{Store: store}
		s := newSite(t, p, &session.Options{Schema: 2, Migrate: migrate, Observe: func(_ context.Context, e session.Event) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, e)
		}})
		s.handle("/pop", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
			var v string
			found, err := sess.Pop(r.Context(), "a", &v)
			assert.False(t, found)
			return err
		})
		s.handle("/add", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
			sum, err := sess.Add(r.Context(), "a", 1)
			assert.EqualValues(t, 1, sum)
			return err
		})
		s.handle("/twice", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
			var v string
			found, err := sess.Get(r.Context(), "a", &v)
			assert.False(t, found)
			require.NoError(t, err)
			require.NoError(t, sess.Set(r.Context(), "a", "2"))
			require.NoError(t, sess.Save(r.Context()))
			return sess.Set(r.Context(), "a", "3")
		})
		for name, value := range bad {
			for path, leaves := range map[string]string{"/twice": `"3"`, "/add": "1", "/pop": "", "/get?name=a": ""} {
				b := s.browser()
				b.ok("/set?name=b&value=kept")
				b.ok("/login?user=alice")
				p.write(t, b, session.Delta{Set: map[string][]byte{"a": value}})
				before := s.manager.Stats().Undecodable

				assert.Empty(t, b.ok("%s", path), "%s, %s", name, path)
				assert.Greater(t, s.manager.Stats().Undecodable, before, "%s, %s: it must be counted", name, path)
				assert.Equal(t, "kept", b.ok("/get?name=b"), "%s, %s", name, path)
				assert.Equal(t, "alice", b.ok("/user"), "%s, %s", name, path)
				values := p.stored(b)
				kept := values[aside+"a"]
				if leaves == "" {
					kept = values["a"] // nothing has taken its place
				} else {
					assert.True(t, strings.HasSuffix(string(values["a"]), leaves), "%s, %s: %q", name, path, values["a"])
				}
				assert.Equal(t, value, kept, "%s, %s: it must be kept", name, path)
			}
		}
		for _, e := range events {
			if e.Kind == session.Undecodable {
				assert.Equal(t, "a", e.Name)
				assert.Error(t, e.Err)
			}
		}
		assert.NotContains(t, s.logs.String(), "Ada", "a value belongs into no log")
		assert.NotContains(t, s.logs.String(), "panic")
	})
}

// What was set aside goes along with a login, and is no obstacle when its key is
// retired.
func TestWhatWasSetAsideAndEncryption(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		p := &tap{Store: store}
		with := func(keys ...session.EncryptionKey) *site {
			s := newSite(t, p, &session.Options{Encryption: keys})
			s.handle("/number", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
				var n int
				_, err := sess.Get(r.Context(), "a", &n)
				require.NoError(t, err)
				return sess.Set(r.Context(), "a", 1)
			})
			return s
		}
		old := with(key("old", 'o'))
		b := old.browser()
		b.ok("/set?name=a&value=text")
		b.ok("/number")
		require.Contains(t, p.stored(b), aside+"a")
		b.ok("/login?user=alice")
		require.Contains(t, p.stored(b), aside+"a")
		assert.EqualValues(t, 1, old.manager.Stats().Undecodable, "the login can read it, as it was written")

		both := with(key("new", 'n'), key("old", 'o'))
		b.moveTo(both)
		b.ok("/set?name=a&value=new")
		b.ok("/login?user=alice")
		b.moveTo(with(key("new", 'n')))
		assert.Equal(t, "alice", b.ok("/user"))
		assert.Equal(t, "new", b.ok("/get?name=a"))
	})
}

// moveTo makes s the site of the browser, its session cookie included.
func (b *browser) moveTo(s *site) { *b = *s.with(b.cookie()) }

// Whatever stands in Redis where a session or the list of a user's should be, the
// user gets on with one request.
func TestWhatStandsWhereASessionShould(t *testing.T) {
	ctx := t.Context()
	rdb := redistest.Standalone(t).Client(t)
	prefix := redistest.Prefix(t)
	p := &tap{Store: redisstore.New(rdb, &redisstore.Options{Prefix: prefix})}
	s := newSite(t, p, nil)
	sessionKey := func(b *browser) string {
		id := b.cookie()
		return prefix + "{" + id[:4] + "}" + id[4:24]
	}
	listKey := func(b *browser) string {
		p.stored(b)
		return prefix + "{" + p.rec.Owner[:4] + "}user:" + p.rec.Owner[4:]
	}
	replace := func(key string) {
		require.NoError(t, rdb.Del(ctx, key).Err())
		require.NoError(t, rdb.HSet(ctx, key, "something", "else").Err())
		require.NoError(t, rdb.Expire(ctx, key, time.Hour).Err())
	}
	s.handle("/devices", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
		infos, err := sess.Sessions(r.Context())
		fmt.Fprint(w, len(infos))
		return err
	})

	for name, spoil := range map[string]func(b *browser){
		"another type":         func(b *browser) { replace(sessionKey(b)) },
		"nothing that we know": func(b *browser) { require.NoError(t, rdb.Set(ctx, sessionKey(b), "something", time.Hour).Err()) },
		"no version": func(b *browser) {
			at := headOf(rdb.Get(ctx, sessionKey(b)).Val()) + versionAt
			require.NoError(t, rdb.SetRange(ctx, sessionKey(b), int64(at), "somewhat").Err())
		},
		"a user that is none": func(b *browser) { p.write(t, b, session.Delta{Meta: []byte("{")}) },
		"a user of somebody's key": func(b *browser) {
			p.write(t, b, session.Delta{Meta: []byte("\x00h\x04\x01k123456789012345678901234567890")})
		},
	} {
		b := s.browser()
		b.ok("/login?user=alice")
		b.ok("/set?name=a&value=1")
		spoil(b)
		before := s.manager.Stats()
		b.ok("/set?name=a&value=2")
		assert.Equal(t, "2", b.ok("/get?name=a"), name)
		after := s.manager.Stats()
		assert.Greater(t, after.Expired+after.Undecodable, before.Expired+before.Undecodable, "%s: it must be counted", name)
		b.ok("/login?user=alice")
		assert.Equal(t, "alice", b.ok("/user"), name)
	}

	capped := newSite(t, p, &session.Options{MaxPerUser: 2})
	first, second := capped.browser(), capped.browser()
	first.ok("/login?user=bob")
	second.ok("/login?user=bob")
	replace(sessionKey(first))
	capped.browser().ok("/login?user=bob")
	second.moveTo(s)
	assert.Equal(t, "2", second.ok("/devices"), "one that is none must not hide the others, nor count")

	for name, request := range map[string]string{
		"a login": "/login?user=carol", "a write": "/set?name=a&value=1", "a logout": "/logout",
	} {
		b := s.browser()
		b.ok("/login?user=carol")
		list := listKey(b)
		replace(list)
		b.ok("%s", request)
		if request != "/logout" {
			assert.Equal(t, "1", b.ok("/devices"), "%s must mend the list", name)
			b.ok("/set?name=a&value=2")
			assert.Equal(t, "2", b.ok("/get?name=a"), name)
		}
		require.NoError(t, rdb.Del(ctx, list).Err())
	}
	assert.Zero(t, s.manager.Stats().StoreFailed)
}

// address is what two versions of a program keep in sessions: the newer one has
// added a field.
type (
	addressV1 struct {
		N    int    `json:"n"`
		Text string `json:"text"`
	}
	addressV2 struct {
		addressV1
		Extra string `json:"extra"`
	}
)

// A newer version of a program replaces an older one, server by server, while
// users go on, now on the one and now on the other.
func TestTwoSchemaVersionsShareSessions(t *testing.T) {
	const users = 4
	onBothStores(t, func(t *testing.T, store session.Store) {
		requests := 10_000 // of all users
		if !strings.HasSuffix(t.Name(), "/redis") {
			requests /= 5
		}
		migrate := func(_ string, version int, value []byte) ([]byte, error) {
			if version != 1 {
				return nil, fmt.Errorf("there is no version %d", version)
			}
			var fields map[string]any
			if err := json.Unmarshal(value, &fields); err != nil {
				return nil, err
			}
			if _, there := fields["extra"]; !there {
				fields["extra"] = "migrated"
			}
			return json.Marshal(fields)
		}
		m := []*session.Manager{
			1: newManager(t, store, &session.Options{Schema: 1, DangerouslyAllowHTTP: true, RenewEvery: 50 * time.Millisecond}),
			2: newManager(t, store, &session.Options{Schema: 2, Migrate: migrate, DangerouslyAllowHTTP: true}),
		}
		var all sync.WaitGroup
		for range users {
			all.Go(func() {
				u := &schemaUser{model: map[string]addressV2{}}
				for i := range requests / users {
					version := 1 + rand.IntN(2)
					var step string
					h := m[version].Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
						step = u.step(t, r.Context(), version)
					}))
					r, w := httptest.NewRequest(http.MethodGet, "/", nil), httptest.NewRecorder()
					if u.cookie != nil {
						r.AddCookie(u.cookie)
					}
					h.ServeHTTP(w, r)
					if !assert.Equal(t, http.StatusOK, w.Code, "request %d, version %d: %s", i, version, step) {
						return
					}
					if c := w.Result().Cookies(); len(c) > 0 {
						u.cookie = c[0]
					}
				}
			})
		}
		all.Wait()
		for version := 1; version <= 2; version++ {
			stats := m[version].Stats()
			assert.Zero(t, stats.Undecodable+stats.Refused+stats.StoreFailed, "version %d: %+v", version, stats)
		}
	})
}

// schemaUser is a user, and what must be in his session.
type schemaUser struct {
	cookie *http.Cookie
	model  map[string]addressV2
}

var (
	schemaNames = []string{"home", "work", "invoice"}
	generic     = func(name string) session.Key[map[string]any] { return session.NewKey[map[string]any](name) }
)

// step looks at all values and changes one, as a program of that version would.
func (u *schemaUser) step(t *testing.T, ctx context.Context, version int) (done string) {
	s := session.FromContext(ctx)
	for _, name := range schemaNames {
		want, there := u.model[name]
		var got addressV2
		var found bool
		var err error
		if version == 1 {
			found, err = s.Get(ctx, name, &got.addressV1)
			want.Extra = ""
		} else {
			found, err = s.Get(ctx, name, &got)
			if there && want.Extra == "" {
				want.Extra = "migrated"
			}
		}
		assert.NoError(t, err)
		assert.Equal(t, there, found, "version %d: %s", version, name)
		assert.Equal(t, want, got, "version %d: %s", version, name)
	}

	name := schemaNames[rand.IntN(len(schemaNames))]
	next := addressV2{addressV1{rand.IntN(1000), fmt.Sprint("text ", rand.IntN(5))}, fmt.Sprint("extra ", rand.IntN(5))}
	switch op := rand.IntN(5); {
	case op == 0:
		assert.NoError(t, s.Delete(ctx, name))
		delete(u.model, name)
		return "delete " + name
	case op == 1 && version == 1:
		next.Extra = ""
		assert.NoError(t, s.Set(ctx, name, next.addressV1))
		u.model[name] = next
		return "set " + name
	case op == 1:
		assert.NoError(t, s.Set(ctx, name, next))
		u.model[name] = next
		return "set " + name
	case op == 2 && version == 1: // it takes along what it does not know
		fields, err := generic(name).Update(ctx, func(old map[string]any) (map[string]any, error) {
			if old == nil {
				old = map[string]any{"text": ""}
			}
			old["n"] = next.N
			return old, nil
		})
		assert.NoError(t, err)
		now := u.model[name]
		now.N = next.N
		u.model[name] = now
		assert.Equal(t, now.Text, fields["text"])
		return "update " + name
	case op == 2:
		_, err := session.NewKey[addressV2](name).Update(ctx, func(old addressV2) (addressV2, error) {
			old.N = next.N
			if old.Extra == "" {
				old.Extra = "new"
			}
			return old, nil
		})
		assert.NoError(t, err)
		now, there := u.model[name]
		now.N = next.N
		switch {
		case !there:
			now.Extra = "new"
		case now.Extra == "":
			now.Extra = "migrated"
		}
		u.model[name] = now
		return "update " + name
	case op == 3 && rand.IntN(20) == 0:
		assert.NoError(t, s.Login(ctx, "alice"))
		return "login"
	}
	return "read"
}

// What cannot be decoded is kept where there is room, and takes none from what is set.
func TestWhatIsKeptAsideTakesNoRoom(t *testing.T) {
	for name, change := range map[string]func(ctx context.Context, s *session.Session, to []int) error{
		"Set": func(ctx context.Context, s *session.Session, to []int) error { return s.Set(ctx, "x", to) },
		"Update": func(ctx context.Context, s *session.Session, to []int) error {
			return s.Update(ctx, "x", func(old session.Value) (any, error) {
				var n []int
				assert.False(t, old.Decode(&n))
				return to, nil
			})
		},
	} {
		s := newSite(t, session.NewMemoryStore(), &session.Options{MaxBytes: 1000})
		s.handle("/numbers", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
			var n []int
			ok, err := sess.Get(r.Context(), "x", &n)
			assert.False(t, ok, name)
			require.NoError(t, err)
			assert.NoError(t, change(r.Context(), sess, make([]int, 290)), name)
			return nil
		})
		b := s.browser()
		b.ok("/set?name=x&value=%s", strings.Repeat("v", 450))
		assert.Equal(t, 200, b.get("/numbers").StatusCode, name)
	}
}
