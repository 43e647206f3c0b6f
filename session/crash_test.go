package session_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// faulty is a store that fails at the steps that it is told to.
type faulty struct {
	session.Store
	fail atomic.Pointer[func(step string) fault]
}

// fault says how a step fails: before it has happened, or after, so that only
// its answer is lost.
type fault int

const (
	noFault fault = iota
	before
	after
)

func at[T any](f *faulty, step string, do func() (T, error)) (T, error) {
	var none T
	kind := noFault
	if fail := f.fail.Load(); fail != nil {
		kind = (*fail)(step)
	}
	switch kind {
	case before:
		return none, errStore
	case after:
		if _, err := do(); err != nil {
			return none, err
		}
		return none, errStore
	}
	return do()
}

func (f *faulty) Take(ctx context.Context, id string, d session.Digest, taker string, hold time.Duration) (session.Record, error) {
	step := "take"
	if hold == 0 {
		step = "give back"
	}
	return at(f, step, func() (session.Record, error) { return f.Store.Take(ctx, id, d, taker, hold) })
}

func (f *faulty) Commit(ctx context.Context, d session.Delta) (session.Result, error) {
	return at(f, "commit", func() (session.Result, error) { return f.Store.Commit(ctx, d) })
}

func (f *faulty) Delete(ctx context.Context, id string) (bool, error) {
	return at(f, "delete", func() (bool, error) { return f.Store.Delete(ctx, id) })
}

// recorder notes the sessions that are begun.
type recorder struct {
	session.Store
	mu    sync.Mutex
	begun map[string]string // id → owner
}

func (r *recorder) Commit(ctx context.Context, d session.Delta) (session.Result, error) {
	if d.Create {
		r.mu.Lock()
		if r.begun == nil {
			r.begun = make(map[string]string)
		}
		r.begun[d.ID] = d.Owner
		r.mu.Unlock()
	}
	return r.Store.Commit(ctx, d)
}

// created returns the owners of the sessions that were begun, by id.
func (r *recorder) created() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.begun)
}

// A login of a visitor takes several steps. Whichever of them fails, and whether
// it has happened, and also if the server dies with it: no session of the user is
// alive that is not in the list, no cookie goes out, and where the server goes on
// everything is as it was before, or, where only the answer to the last step was lost, as it
// is to be.
func TestALoginThatFailsHalfway(t *testing.T) {
	for _, was := range []string{"", "bob"} {
		for _, step := range []string{"take", "commit", "delete"} {
			for kind, name := range map[fault]string{before: "fails", after: "happens, and its answer is lost"} {
				for _, dies := range []bool{false, true} {
					t.Run(fmt.Sprintf("%q, %s %s, dies %v", was, step, name, dies), func(t *testing.T) {
						onBothStores(t, func(t *testing.T, store session.Store) {
							failHalfway(t, store, was, step, kind, dies)
						})
					})
				}
			}
		}
	}
}

func failHalfway(t *testing.T, store session.Store, was, step string, kind fault, dies bool) {
	seen := &recorder{Store: store}
	broken := &faulty{Store: seen}
	here, elsewhere := newManager(t, broken, patient), newManager(t, store, patient)

	sess := here.Load(request(""))
	require.NoError(t, sess.Set(t.Context(), "cart", "book"))
	if was != "" {
		require.NoError(t, sess.Login(t.Context(), was))
	}
	cookie := commit(t, here, sess).Value

	failed := false
	fail := func(at string) fault {
		switch {
		case failed && dies:
			return before
		case !failed && at == step:
			failed = true
			return kind
		}
		return noFault
	}
	broken.fail.Store(&fail)
	sess = here.Load(request(cookie))
	require.NoError(t, sess.Login(t.Context(), "alice"))
	h := http.Header{}
	err := here.Commit(t.Context(), sess, h)
	require.True(t, failed)
	broken.fail.Store(nil)
	if step == "delete" && kind == after && !dies {
		require.NoError(t, err, "the session from before has ended, and all is as it is to be")
		cookie := (&http.Response{Header: h}).Cookies()[0].Value
		assert.Equal(t, "alice", visit(t, elsewhere, cookie))
		var cart string
		ok, err := elsewhere.Load(request(cookie)).Get(t.Context(), "cart", &cart)
		require.NoError(t, err)
		assert.Equal(t, was == "", ok, "what belongs to nobody is taken along, and nothing of another user")
		return
	}
	require.ErrorIs(t, err, errStore)
	assert.Empty(t, h["Set-Cookie"])

	listed := map[string]bool{}
	for _, user := range []string{"alice", "bob"} {
		infos, err := elsewhere.Sessions(t.Context(), user)
		require.NoError(t, err)
		for _, info := range infos {
			listed[info.ID] = true
		}
	}
	for id, owner := range seen.created() {
		alive, err := store.Alive(t.Context(), []string{id})
		require.NoError(t, err)
		if alive[0] && owner != "" {
			assert.True(t, listed[id], "a session is alive that no list shows")
		}
	}
	if dies {
		return
	}
	infos, err := elsewhere.Sessions(t.Context(), "alice")
	require.NoError(t, err)
	assert.Empty(t, infos, "nobody has logged in")
	assert.Equal(t, was, visit(t, elsewhere, cookie))
	var cart string
	_, err = elsewhere.Load(request(cookie)).Get(t.Context(), "cart", &cart)
	require.NoError(t, err)
	assert.Equal(t, "book", cart, "the session from before must be there, whole and at once")
}

// Too few replicas confirm the end of the visitor's session: it has ended all the same, and
// the login goes on with what was in it.
func TestALoginThatReplicasDoNotConfirm(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	m := newManager(t, redisstore.New(rdb, &redisstore.Options{
		Prefix: redistest.Prefix(t), Wait: redisstore.Wait{Replicas: 1, Timeout: 10 * time.Millisecond},
	}), patient)
	s := m.Load(request(""))
	require.NoError(t, s.Set(t.Context(), "cart", "book"))
	s = m.Load(request(commit(t, m, s).Value))
	require.NoError(t, s.Login(t.Context(), "alice"))
	cookie := commit(t, m, s).Value
	assert.Equal(t, "alice", visit(t, m, cookie))
	var cart string
	_, err := m.Load(request(cookie)).Get(t.Context(), "cart", &cart)
	require.NoError(t, err)
	assert.Equal(t, "book", cart)
}

// A server that dies in the middle of a login has withdrawn the session from before:
// it comes back by itself.
func TestASessionThatWasWithdrawnComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := &faulty{Store: session.NewMemoryStore()}
		m := newManager(t, broken, nil)
		sess := m.Load(request(""))
		require.NoError(t, sess.Set(t.Context(), "cart", "book"))
		cookie := commit(t, m, sess).Value

		taken := false
		dead := func(step string) fault {
			if step == "take" && !taken {
				taken = true
				return noFault
			}
			return before
		}
		broken.fail.Store(&dead)
		sess = m.Load(request(cookie))
		require.NoError(t, sess.Login(t.Context(), "alice"))
		require.ErrorIs(t, m.Commit(t.Context(), sess, http.Header{}), errStore)
		broken.fail.Store(nil)

		m = newManager(t, broken.Store, nil)
		cart := func() (v string) {
			_, err := m.Load(request(cookie)).Get(t.Context(), "cart", &v)
			require.NoError(t, err)
			return v
		}
		assert.Empty(t, cart())
		time.Sleep(5 * time.Second)
		assert.Equal(t, "book", cart())
	})
}

// A handler that has saved a login and then panics leaves the visitor with the session that
// there is, if middleware outside answers.
func TestAPanicAfterSave(t *testing.T) {
	s := newSite(t, session.NewMemoryStore(), nil)
	s.handle("/boom", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
		assert.NoError(t, sess.Login(r.Context(), "alice"))
		assert.NoError(t, sess.Save(r.Context()))
		assert.NoError(t, sess.Set(r.Context(), "lost", "yes"))
		panic("boom")
	})
	inner := s.Config.Handler
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if recover() != nil {
				w.WriteHeader(500)
			}
		}()
		inner.ServeHTTP(w, r)
	})
	b := s.browser()
	b.ok("/set?name=cart&value=full")
	require.Equal(t, 500, b.get("/boom").StatusCode)
	assert.Equal(t, "alice", b.ok("/user"))
	assert.Equal(t, "full", b.ok("/get?name=cart"))
	assert.Empty(t, b.ok("/get?name=lost"))
}
