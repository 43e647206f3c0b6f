package session_test

import (
	"context"
	"crypto/rand"
	mathrand "math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// visitor is what the model knows of a browser: its cookie, and the session that
// this stands for, nil for none.
type visitor struct {
	cookie string
	at     *modelSession
}

type modelSession struct {
	user   string
	values map[string]int64
}

// Any steps of several browsers on three servers agree with a model.
func TestSessionsAgreeWithAModel(t *testing.T) {
	stores := []session.Store{
		session.NewMemoryStore(),
		redisstore.New(redistest.Standalone(t).Client(t), &redisstore.Options{Prefix: redistest.Prefix(t)}),
		redisstore.New(redistest.SharedCluster(t).Client(t), &redisstore.Options{Prefix: redistest.Prefix(t)}),
	}
	rapid.Check(t, func(r *rapid.T) {
		agreesWithAModel(r, stores[rapid.IntRange(0, 2).Draw(r, "store: memory, Redis, Cluster")])
	})
}

func agreesWithAModel(r *rapid.T, store session.Store) {
	ctx := context.Background()
	var (
		nodes    []*session.Manager
		visitors = make([]*visitor, 4)
		dead     []string      // cookies that stand for nothing any more
		run      = rand.Text() // the users of another run are others
		names    = rapid.SampledFrom([]string{"a", "b"})
		users    = rapid.SampledFrom([]string{"alice-" + run, "bob-" + run})
	)
	for range 3 {
		m, err := session.New(store, nil)
		require.NoError(r, err)
		nodes = append(nodes, m)
	}
	for i := range visitors {
		visitors[i] = &visitor{}
	}
	node := func(r *rapid.T) *session.Manager { return nodes[rapid.IntRange(0, 2).Draw(r, "node")] }
	anyone := func(r *rapid.T) *visitor { return visitors[rapid.IntRange(0, 3).Draw(r, "visitor")] }

	// visits lets v do something, and takes over the cookie that comes of it.
	visits := func(r *rapid.T, v *visitor, do func(s *session.Session) error) {
		m := node(r)
		s := m.Load(request(v.cookie))
		require.NoError(r, do(s))
		h := http.Header{}
		require.NoError(r, m.Commit(ctx, s, h))
		for _, c := range (&http.Response{Header: h}).Cookies() {
			if v.cookie != "" {
				dead = append(dead, v.cookie)
			}
			v.cookie = c.Value
		}
	}
	// begun is the session of v, a new one if it has none.
	begun := func(v *visitor) *modelSession {
		if v.at == nil {
			v.at = &modelSession{values: map[string]int64{}}
		}
		return v.at
	}
	// end ends the sessions of user for which the function is true.
	end := func(user string, which func(v *visitor) bool) (n int) {
		for _, v := range visitors {
			if v.at != nil && v.at.user == user && which(v) {
				v.at = nil
				n++
			}
		}
		return n
	}
	all := func(*visitor) bool { return true }

	r.Repeat(map[string]func(*rapid.T){
		"set": func(r *rapid.T) {
			v, name, value := anyone(r), names.Draw(r, "name"), rapid.Int64Range(0, 9).Draw(r, "value")
			visits(r, v, func(s *session.Session) error { return s.Set(ctx, name, value) })
			begun(v).values[name] = value
		},
		"add": func(r *rapid.T) {
			v, name := anyone(r), names.Draw(r, "name")
			var sum int64
			visits(r, v, func(s *session.Session) (err error) { sum, err = s.Add(ctx, name, 1); return err })
			begun(v).values[name]++
			require.Equal(r, v.at.values[name], sum)
		},
		"delete": func(r *rapid.T) {
			v, name := anyone(r), names.Draw(r, "name")
			visits(r, v, func(s *session.Session) error { return s.Delete(ctx, name) })
			if v.at != nil {
				delete(v.at.values, name)
			}
		},
		"login": func(r *rapid.T) {
			v, user := anyone(r), users.Draw(r, "user")
			before := v.cookie
			visits(r, v, func(s *session.Session) error { return s.Login(ctx, user) })
			require.NotEqual(r, before, v.cookie)
			if was := begun(v).user; was != "" && was != user {
				v.at.values = map[string]int64{}
			}
			v.at.user = user
		},
		"renew": func(r *rapid.T) {
			v := anyone(r)
			before := v.cookie
			visits(r, v, func(s *session.Session) error { return s.Renew(ctx) })
			require.Equal(r, v.at != nil, before != v.cookie)
		},
		"logout": func(r *rapid.T) {
			v := anyone(r)
			visits(r, v, func(s *session.Session) error { return s.Destroy(ctx) })
			require.Empty(r, v.cookie)
			v.at = nil
		},
		"expire": func(r *rapid.T) {
			v := anyone(r)
			visits(r, v, func(s *session.Session) error {
				return s.SetTimeouts(ctx, time.Millisecond, time.Millisecond, false)
			})
			time.Sleep(3 * time.Millisecond)
			v.at = nil
		},
		"revoke one": func(r *rapid.T) {
			v, user := anyone(r), users.Draw(r, "user")
			if v.cookie == "" {
				return
			}
			found, err := node(r).Revoke(ctx, user, v.cookie[:24])
			require.NoError(r, err)
			require.Equal(r, found, end(user, func(other *visitor) bool { return other == v }) == 1)
		},
		"revoke others": func(r *rapid.T) {
			v := anyone(r)
			if v.at == nil || v.at.user == "" {
				return
			}
			var n int
			visits(r, v, func(s *session.Session) (err error) { n, err = s.RevokeOthers(ctx); return err })
			require.Equal(r, end(v.at.user, func(other *visitor) bool { return other != v }), n)
		},
		"revoke all": func(r *rapid.T) {
			user := users.Draw(r, "user")
			n, err := node(r).RevokeAll(ctx, user)
			require.NoError(r, err)
			require.Equal(r, end(user, all), n)
		},
		"list": func(r *rapid.T) {
			user := users.Draw(r, "user")
			infos, err := node(r).Sessions(ctx, user)
			require.NoError(r, err)
			var want, got []string
			for _, v := range visitors {
				if v.at != nil && v.at.user == user {
					want = append(want, v.cookie[:24])
				}
			}
			for _, info := range infos {
				got = append(got, info.ID)
			}
			require.ElementsMatch(r, want, got)
		},
		"": func(r *rapid.T) {
			v := anyone(r)
			want := v.at
			if want == nil {
				want = &modelSession{}
			}
			s := node(r).Load(request(v.cookie))
			requireSession(r, s, want)
			if len(dead) > 0 {
				cookie := rapid.SampledFrom(dead).Draw(r, "dead")
				requireSession(r, node(r).Load(request(cookie)), &modelSession{})
			}
		},
	})
}

// requireSession requires s to be as the model says.
func requireSession(r *rapid.T, s *session.Session, want *modelSession) {
	ctx := context.Background()
	user, err := s.User(ctx)
	require.NoError(r, err)
	require.Equal(r, want.user, user)
	keys, err := s.Keys(ctx)
	require.NoError(r, err)
	require.Len(r, keys, len(want.values))
	for name, value := range want.values {
		var got int64
		found, err := s.Get(ctx, name, &got)
		require.NoError(r, err)
		require.True(r, found)
		require.Equal(r, value, got)
	}
}

// registerOp is one request to a value of the session, as a client knows it.
type registerOp struct {
	op    string // "set", "get" or "add"
	value int64  // that was set
}

// registerSaid is what came of it; unknown where the answer was lost.
type registerSaid struct {
	value   int64
	unknown bool
}

// valueModel is a value that is set, read and added to, each at one instant.
var valueModel = porcupine.Model{
	Init: func() any { return int64(0) },
	Step: func(state, input, output any) (bool, any) {
		now, in, out := state.(int64), input.(registerOp), output.(registerSaid)
		switch in.op {
		case "set":
			return true, in.value
		case "add":
			return out.unknown || out.value == now+1, now + 1
		}
		return out.value == now, now
	},
}

// server is one that may die: its connections to Redis break, its requests end,
// and another begins in its place.
type server struct {
	t      *testing.T
	store  string // its prefix
	proxy  *redistest.Proxy
	mu     sync.Mutex
	m      *session.Manager
	rdb    *redis.Client
	ctx    context.Context
	cancel context.CancelFunc
}

func (n *server) begin() {
	n.mu.Lock()
	defer n.mu.Unlock()
	// A command that is sent twice may take effect twice, if others come between.
	n.rdb = redis.NewClient(&redis.Options{Addr: n.proxy.Addr(), MaxRetries: -1})
	n.m = newManager(n.t, redisstore.New(n.rdb, &redisstore.Options{Prefix: n.store}), nil)
	n.ctx, n.cancel = context.WithCancel(n.t.Context())
}

func (n *server) die() {
	n.proxy.Cut()
	n.mu.Lock()
	n.cancel()
	n.rdb.Close()
	n.mu.Unlock()
}

func (n *server) current() (*session.Manager, context.Context) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.m, n.ctx
}

// do serves one request.
func (n *server) do(cookie, name string, op registerOp) (said registerSaid, err error) {
	m, ctx := n.current()
	s := m.Load(request(cookie))
	switch op.op {
	case "set":
		err = s.Set(ctx, name, op.value)
	case "add":
		said.value, err = s.Add(ctx, name, 1)
	default:
		_, err = s.Get(ctx, name, &said.value)
	}
	if err == nil {
		err = m.Commit(ctx, s, http.Header{})
	}
	return said, err
}

// The values of a session are linearizable, while servers die.
func TestValuesAreLinearizable(t *testing.T) {
	redisServer := redistest.Standalone(t)
	prefix := redistest.Prefix(t)
	servers := make([]*server, 3)
	for i := range servers {
		servers[i] = &server{t: t, store: prefix, proxy: redistest.NewProxy(t, redisServer.Addr())}
		servers[i].begin()
		defer servers[i].die()
	}
	cookie := logIn(t, servers[0].m, "alice")
	names := []string{"a", "b", "c", "d"}
	var mu sync.Mutex
	histories := map[string][]porcupine.Operation{}
	began := time.Now()
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for c := range 6 {
		clients.Go(func() {
			for i := int64(0); ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				name, n := names[mathrand.IntN(len(names))], servers[mathrand.IntN(len(servers))]
				op := registerOp{op: []string{"get", "set", "add"}[mathrand.IntN(3)]}
				if op.op == "set" {
					op.value = int64(c)*1e12 + i*1e6 // no two alike, whatever is added
				}
				o := porcupine.Operation{ClientId: c, Input: op, Call: time.Since(began).Nanoseconds()}
				said, err := n.do(cookie, name, op)
				o.Return = time.Since(began).Nanoseconds()
				if err != nil {
					if op.op == "get" {
						continue // it has no effect
					}
					said, o.Return = registerSaid{unknown: true}, int64(time.Hour)
				}
				o.Output = said
				mu.Lock()
				histories[name] = append(histories[name], o)
				mu.Unlock()
			}
		})
	}
	for range 15 {
		time.Sleep(mathrand.N(100 * time.Millisecond))
		n := servers[mathrand.IntN(len(servers))]
		n.die()
		n.begin()
	}
	close(stop)
	clients.Wait()
	var done, lost int
	for name, history := range histories {
		for _, o := range history {
			done++
			if o.Output.(registerSaid).unknown {
				lost++
			}
		}
		assert.Equal(t, porcupine.Ok, porcupine.CheckOperationsTimeout(valueModel, history, time.Minute), name)
	}
	t.Logf("%d operations, %d of unknown outcome", done, lost)
	assert.Greater(t, done, 100)
	assert.Positive(t, lost)
}
