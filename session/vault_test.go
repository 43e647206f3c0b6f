package session_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"net/http"
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

func encryptionKey(id string) session.EncryptionKey {
	return session.EncryptionKey{ID: id, Key: bytes.Repeat([]byte(id[:1]), 32)}
}

// keyOf returns where redisstore keeps the session of a token.
func keyOf(prefix, token string) string { return prefix + "{" + token[:4] + "}" + token[4:24] }

// Nothing that stands in Redis, nor a part of it, is a cookie that works:
// with users, after rotations and while a new token is handed over.
func TestARedisDumpIsWorthNothing(t *testing.T) {
	for name, o := range map[string]session.Options{
		"":          {},
		"encrypted": {Encryption: []session.EncryptionKey{encryptionKey("k")}},
	} {
		t.Run(name, func(t *testing.T) {
			rdb := redistest.NewStandalone(t).Client(t)
			store := redisstore.New(rdb, nil)
			s := newSite(t, store, &o)
			o.RenewEvery = 1
			rotating := newSite(t, store, &o)

			var browsers []*browser
			var tokens []string // all that were ever given out
			know := func(b *browser) { tokens = append(tokens, b.cookie()) }
			for _, user := range []string{"alice", "bob", ""} {
				b := s.browser()
				b.ok("/set?name=cart&value=book")
				know(b)
				if user != "" {
					b.ok("/login?user=%s", user)
					know(b)
				}
				b.ok("/renew")
				know(b)
				before := b.cookie()
				b = rotating.with(before) // the ports differ, and with them the jars
				require.Eventually(t, func() bool { b.ok("/user"); return b.cookie() != before }, 10*time.Second, time.Millisecond)
				know(b)
				browsers = append(browsers, b)
			}

			assertWorthless(t, s, rdb, tokens)
			for i, user := range []string{"alice", "bob", ""} {
				assert.Equal(t, user, s.with(browsers[i].cookie()).ok("/user"))
				assert.Equal(t, "book", s.with(browsers[i].cookie()).ok("/get?name=cart"))
			}
			for _, token := range tokens {
				assert.NotContains(t, s.logs.String()+rotating.logs.String(), token[25:33])
			}
		})
	}
}

// assertWorthless tries everything that stands in Redis as a cookie.
func assertWorthless(t *testing.T, s *site, rdb *redis.Client, tokens []string) {
	t.Helper()
	ctx := t.Context()
	var dump []string
	keys, err := rdb.Keys(ctx, "*").Result()
	require.NoError(t, err)
	for _, key := range keys {
		dump = append(dump, key)
		switch kind := rdb.Type(ctx, key).Val(); kind {
		case "string":
			dump = append(dump, rdb.Get(ctx, key).Val())
		case "zset":
			dump = append(dump, rdb.ZRange(ctx, key, 0, -1).Val()...)
		default:
			t.Errorf("%s is a %s, which this test does not know", key, kind)
		}
		assert.Positive(t, rdb.PTTL(ctx, key).Val(), "%s has no TTL", key)
	}
	all := strings.Join(dump, "\n")

	ids := map[string]bool{}
	for _, token := range tokens {
		ids[token[:24]] = true
		secret := session.SecretOf(token)
		for _, form := range []string{string(secret), hex.EncodeToString(secret), token[25:], base64.StdEncoding.EncodeToString(secret)} {
			for i := 0; i+8 <= len(form); i++ {
				require.NotContains(t, all, form[i:i+8], "a part of a secret is in Redis")
			}
		}
	}
	tried := 0
	try := func(cookie string) {
		tried++
		res := s.raw("/get?name=cart", cookieName+"="+cookie)
		require.Empty(t, res.body, "this opens a session: %q", cookie)
	}
	for _, text := range dump {
		try(text)
		for id := range ids {
			try(id + "." + text)
		}
		// Digests, wrapped secrets and parts of them in the secret's place.
		for i := 0; i+32 <= len(text); i++ {
			for id := range ids {
				try(session.TokenFor(id, []byte(text[i:i+32])))
			}
		}
		for i := 0; i+48 <= len(text); i++ {
			for id := range ids {
				try(id + "." + text[i:i+48])
			}
		}
	}
	require.Greater(t, tried, 500)
	t.Logf("%d strings in Redis, %d cookies tried", len(dump), tried)
	last := tokens[len(tokens)-1]
	require.Equal(t, "book", s.raw("/get?name=cart", cookieName+"="+session.TokenFor(last[:24], session.SecretOf(last))).body,
		"the tokens that the test makes up must be well-formed")
}

// An encrypted value is good where it was written, and nowhere else.
func TestEncryptedValuesStayWhereTheyAre(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	prefix := redistest.Prefix(t)
	store := &tap{Store: redisstore.New(rdb, &redisstore.Options{Prefix: prefix})}
	var seen []session.Event
	s := newSite(t, store, &session.Options{
		Encryption: []session.EncryptionKey{encryptionKey("k")},
		Observe:    func(_ context.Context, e session.Event) { seen = append(seen, e) },
	})
	const user = "" // as a name, stands for what is noted about the session
	field := func(b *browser, name string) string {
		value, ok := store.stored(b)[name]
		if name == user {
			return string(store.rec.Meta)
		}
		require.True(t, ok, name)
		return string(value)
	}
	paste := func(b *browser, name, value string) {
		d := session.Delta{Set: map[string][]byte{name: []byte(value)}}
		if name == user {
			d = session.Delta{Meta: []byte(value)}
		}
		store.write(t, b, d)
	}
	alice, mallory := s.browser(), s.browser()
	for b, user := range map[*browser]string{alice: "alice", mallory: "mallory"} {
		b.ok("/login?user=%s", user)
		b.ok("/set?name=role&value=%s-role", user)
		b.ok("/set?name=note&value=%s-note", user)
	}
	for _, name := range []string{"role", "note", user} {
		assert.NotContains(t, field(alice, name), "alice", "%s is in the clear", name)
	}
	undecodable := func(name string) {
		t.Helper()
		require.NotEmpty(t, seen)
		last := seen[len(seen)-1]
		assert.Equal(t, session.Undecodable, last.Kind)
		assert.Equal(t, name, last.Name)
		assert.Equal(t, mallory.cookie()[:24], last.ID)
	}

	own, ownMeta := field(mallory, "role"), field(mallory, user)
	for where, value := range map[string]string{
		"another field":          field(mallory, "note"),
		"another session":        field(alice, "role"),
		"the user's place":       ownMeta,
		"cut":                    own[:len(own)-1],
		"only a frame":           own[:20],
		"another schema":         own[:2] + string(own[2]|1) + "\x01" + own[3:],
		"a bit flipped":          own[:len(own)-1] + string(own[len(own)-1]^1),
		"another nonce":          own[:6] + string(own[6]^1) + own[7:],
		"an empty value":         own[:3] + own[3:5],
		"a flag that is unknown": own[:2] + "\x80" + own[3:],
	} {
		paste(mallory, "role", value)
		seen = nil
		assert.Empty(t, mallory.ok("/get?name=role"), where)
		undecodable("role")
		assert.Equal(t, "mallory", mallory.ok("/user"), "%s: the session lives on", where)
		assert.Equal(t, "mallory-note", mallory.ok("/get?name=note"), where)
	}
	paste(mallory, "role", own)
	assert.Equal(t, "mallory-role", mallory.ok("/get?name=role"))

	// What is not encrypted was not written here. It makes the session nobody's,
	// as does the user of another.
	for where, spoil := range map[string][2]string{
		"a value in the clear":   {"role", `"admin"`},
		"a value in a frame":     {"role", "\x00h\x00\"admin\""},
		"a user in the clear":    {user, `{"u":"alice"}`},
		"another session's user": {user, field(alice, user)},
		"a value for a user":     {user, field(mallory, "note")},
		"another key":            {"role", own[:3] + "\x01x" + own[5:]},
	} {
		paste(mallory, spoil[0], spoil[1])
		seen = nil
		assert.Empty(t, mallory.ok("/user"), where)
		undecodable("")
		assert.Empty(t, mallory.ok("/get?name=note"), where)
		paste(mallory, "role", own)
		paste(mallory, user, ownMeta)
		assert.Equal(t, "mallory", mallory.ok("/user"), where)
	}

	// An older value of the same field is accepted: it was written here, and
	// nothing in the value says that it is not the last one. Package session
	// says so.
	mallory.ok("/set?name=role&value=less")
	paste(mallory, "role", own)
	assert.Equal(t, "mallory-role", mallory.ok("/get?name=role"))
}

// Keys come and go while sessions live.
func TestEncryptionKeysAreRotated(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		with := func(t *testing.T, plain bool, ids ...string) *site {
			o := session.Options{AcceptUnencrypted: plain}
			for _, id := range ids {
				o.Encryption = append(o.Encryption, encryptionKey(id))
			}
			return newSite(t, store, &o)
		}
		read := func(s *site, cookie string) string {
			b := s.with(cookie)
			return b.ok("/user") + " " + b.ok("/get?name=a") + " " + b.ok("/get?name=b")
		}
		plain, accepting, first := with(t, false), with(t, true, "1"), with(t, false, "1")
		both, second := with(t, false, "2", "1"), with(t, false, "2")

		b := plain.browser()
		b.ok("/login?user=alice")
		b.ok("/set?name=a&value=x")
		b.ok("/set?name=b&value=y")
		cookie := b.cookie()
		assert.Equal(t, "alice x y", read(accepting, cookie))
		assert.Equal(t, "  ", read(first, cookie), "what is in the clear is as good as none")
		rewrite := func(s *site) {
			t.Helper()
			b := s.with(cookie)
			s.spy.calls()
			b.ok("/set?name=a&value=x") // equal, but not as it would be written today
			b.ok("/set?name=b&value=y")
			assert.Equal(t, [3]int64{2, 2, 0}, s.spy.calls())
			b.ok("/set?name=b&value=y")
			assert.Equal(t, [3]int64{1, 0, 0}, s.spy.calls(), "once is enough")
		}
		rewrite(accepting)
		assert.Equal(t, "alice x y", read(first, cookie), "all that is set anew is encrypted, and who it belongs to with it")
		assert.Equal(t, "  ", read(plain, cookie), "without the key it is nobody's session, and no error")
		assert.Equal(t, "  ", read(second, cookie))
		assert.Equal(t, "alice x y", read(both, cookie))
		rewrite(both)
		assert.Equal(t, "alice x y", read(second, cookie))
		assert.Equal(t, "  ", read(first, cookie))

		// Who has lost a session with its key goes on with a new one.
		lost := first.with(cookie)
		lost.ok("/set?name=a&value=new")
		assert.NotEqual(t, cookie[:24], lost.cookie()[:24])
		assert.Equal(t, "new", lost.ok("/get?name=a"))
		assert.Equal(t, http.StatusOK, first.with(cookie).get("/logout").StatusCode)
	})
}

// FuzzFrame: whatever stands in the store, opening it never panics; and what was
// sealed opens to what it was, under its own name and in its own session only.
func FuzzFrame(f *testing.F) {
	plain, sealed := session.NewVault("id"), session.NewVault("id", encryptionKey("1"), encryptionKey("2"))
	elsewhere := session.NewVault("other", encryptionKey("1"))
	for _, value := range [][]byte{nil, []byte(`"text"`), {0}, {0, 'h'}, {0, 'h', 0}, {0, 'h', 7, 0xff}, {0, 'h', 4, 255}, {0, 'h', 4, 0}, {0, 'h', 0x80}} {
		f.Add("name", value, 0)
		f.Add("", value, 7)
	}
	for _, v := range []session.Vault{plain, sealed} {
		frame, err := v.Seal("name", []byte("value"), 300, true)
		require.NoError(f, err)
		f.Add("name", frame, 0)
	}
	f.Fuzz(func(t *testing.T, name string, value []byte, schema int) {
		schema &= 1<<31 - 1
		for _, v := range []session.Vault{plain, sealed} {
			_, _, _ = v.Open(name, value)
			for _, unique := range []bool{false, true} {
				frame, err := v.Seal(name, value, schema, unique)
				require.NoError(t, err)
				got, gotSchema, err := v.Open(name, frame)
				require.NoError(t, err)
				require.True(t, bytes.Equal(value, got), "%q became %q", value, got)
				require.Equal(t, schema, gotSchema)
			}
		}
		frame, err := sealed.Seal(name, value, schema, false)
		require.NoError(t, err)
		_, _, err = sealed.Open(name+"x", frame)
		require.Error(t, err)
		_, _, err = elsewhere.Open(name, frame)
		require.Error(t, err)
		for i := range min(len(frame), 64) {
			frame[i] ^= 1
			if got, _, err := sealed.Open(name, frame); err == nil {
				t.Fatalf("with byte %d flipped it opens to %q", i, got)
			}
			frame[i] ^= 1
		}
	})
}

// What a frame takes counts in Set: what it accepts is saved, to the byte.
func TestAValueThatIsTooLongWithItsFrame(t *testing.T) {
	for name, o := range map[string]session.Options{
		"":                      {},
		"a schema":              {Schema: 300},
		"encrypted":             {Encryption: []session.EncryptionKey{encryptionKey("k")}},
		"encrypted in a schema": {Encryption: []session.EncryptionKey{encryptionKey("a longer name")}, Schema: 1},
	} {
		t.Run(name, func(t *testing.T) {
			o.MaxBytes = 1000
			m := newManager(t, session.NewMemoryStore(), &o)
			ctx, accepted := t.Context(), 0
			for n := 850; n <= 1000; n++ {
				s := m.Load(request(""))
				require.NoError(t, s.Set(ctx, "first", strings.Repeat("x", n/2)))
				err := s.Set(ctx, "second", strings.Repeat("x", n-n/2))
				if err == nil {
					accepted++
				} else {
					require.ErrorIs(t, err, session.ErrTooLarge)
				}
				require.NoError(t, m.Commit(ctx, s, http.Header{}), "%d bytes", n)
			}
			require.Positive(t, accepted)
			require.Less(t, accepted, 150)
		})
	}
	m := newManager(t, session.NewMemoryStore(), &session.Options{MaxBytes: 1000, Encryption: []session.EncryptionKey{encryptionKey("k")}})
	require.ErrorIs(t, m.Load(request("")).Set(t.Context(), "a", strings.Repeat("x", 988)), session.ErrTooLarge)
}
