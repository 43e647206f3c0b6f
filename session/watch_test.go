package session_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
	"github.com/herdless/herdless/session/sessiontest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// streams adds the route /stream to s: a stream of events that ends with its
// session, and says why.
func (s *site) streams() {
	s.handle("/stream", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
		ctx, stop, err := sess.Context(r.Context())
		if err != nil {
			return err
		}
		defer stop()
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: open\n\n")
		http.NewResponseController(w).Flush()
		<-ctx.Done()
		fmt.Fprintf(w, "data: %v\n\n", context.Cause(ctx))
		return nil
	})
}

// streamEnd is what a stream said at its end, and when.
type streamEnd struct {
	said string
	at   time.Time
}

// stream opens b's stream. It lives as long as its session and ctx.
func (b *browser) stream(ctx context.Context) <-chan streamEnd {
	t := b.site.t
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.site.URL+"/stream", nil)
	require.NoError(t, err)
	res, err := b.Do(req)
	require.NoError(t, err)
	lines := bufio.NewScanner(res.Body)
	require.True(t, lines.Scan())
	require.Equal(t, "data: open", lines.Text())
	ended := make(chan streamEnd, 1)
	go func() {
		defer res.Body.Close()
		said := ""
		for lines.Scan() {
			said += lines.Text()
		}
		ended <- streamEnd{said, time.Now()}
	}()
	return ended
}

const saidGone = "data: session: the session has ended"

// closesWithinASecond requires that streams of here end within a second of what
// end does, in the median of some attempts: a machine may be busy for a moment.
func closesWithinASecond(t *testing.T, here *site, end func(b *browser)) {
	t.Helper()
	var took []time.Duration
	for range 5 {
		b := here.browser()
		b.ok("/login?user=alice")
		ended := b.stream(t.Context())
		stillOpen(t, ended, 20*time.Millisecond)
		began := time.Now()
		end(b)
		e := within(t, ended)
		require.Equal(t, saidGone, e.said)
		took = append(took, e.at.Sub(began))
	}
	slices.Sort(took)
	t.Logf("from the end of the session to that of the stream: %v", took)
	assert.Less(t, took[len(took)/2], time.Second)
}

// nodes are two servers of one cluster.
var nodes = map[string]func(t *testing.T) (a, b session.Store){
	"memory": func(*testing.T) (a, b session.Store) {
		m := session.NewMemoryStore()
		return m, m
	},
	"redis": func(t *testing.T) (a, b session.Store) {
		server, o := redistest.Standalone(t), &redisstore.Options{Prefix: redistest.Prefix(t)}
		return redisstore.New(server.Client(t), o), redisstore.New(server.Client(t), o)
	},
}

// A stream on one server ends with its session, whoever ends that on whichever
// server, and nothing of it stays.
func TestStreamsEndWithTheirSession(t *testing.T) {
	redistest.Standalone(t)
	before := goleak.IgnoreCurrent()
	for name, stores := range nodes {
		t.Run(name, func(t *testing.T) {
			a, b := stores(t)
			here, there, manager := newSite(t, a, nil), newSite(t, b, nil), newManager(t, b, nil)
			here.streams()
			for way, end := range map[string]func(b *browser){
				"logout": func(b *browser) { there.with(b.cookie()).ok("/logout") },
				"login":  func(b *browser) { there.with(b.cookie()).ok("/login?user=bob") },
				"revoke": func(b *browser) {
					found, err := manager.Revoke(t.Context(), "alice", b.cookie()[:24])
					require.NoError(t, err)
					require.True(t, found)
				},
				"revoke all": func(*browser) {
					_, err := manager.RevokeAll(t.Context(), "alice")
					require.NoError(t, err)
				},
			} {
				t.Run(way, func(t *testing.T) {
					closesWithinASecond(t, here, end)
				})
			}
			b1, b2 := here.browser(), here.browser()
			b1.ok("/login?user=carol")
			b2.ok("/login?user=carol")
			ctx, leave := context.WithCancel(t.Context())
			mine, others := b1.stream(ctx), b2.stream(t.Context())
			there.handle("/others", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
				n, err := sess.RevokeOthers(r.Context())
				assert.Equal(t, 1, n)
				return err
			})
			there.with(b1.cookie()).ok("/others")
			assert.Equal(t, saidGone, within(t, others).said)
			stillOpen(t, mine, 100*time.Millisecond)
			there.with(b1.cookie()).ok("/renew")
			stillOpen(t, mine, time.Second) // looked at meanwhile; a new token is no end
			leave()
			within(t, mine)
		})
	}
	err := goleak.Find(before)
	for range 10 { // each takes a second or two before it gives up
		if err != nil {
			err = goleak.Find(before)
		}
	}
	require.NoError(t, err)
}

func stillOpen(t *testing.T, ended <-chan streamEnd, d time.Duration) {
	t.Helper()
	select {
	case e := <-ended:
		t.Errorf("the stream ended before its session: %q", e.said)
	case <-time.After(d):
	}
}

// deafClient gets the messages of Redis through another client.
type deafClient struct {
	*redis.Client
	messages *redis.Client
}

func (c deafClient) Subscribe(ctx context.Context, channels ...string) *redis.PubSub {
	return c.messages.Subscribe(ctx, channels...)
}

// Whatever becomes of the messages, a stream ends within a second of its session.
func TestStreamsEndWithoutMessages(t *testing.T) {
	for name, disturb := range map[string]func(t *testing.T, messages *redistest.Proxy, rdb *redis.Client){
		"swallowed": func(_ *testing.T, messages *redistest.Proxy, _ *redis.Client) { messages.Blackhole(true) },
		"cut":       func(_ *testing.T, messages *redistest.Proxy, _ *redis.Client) { messages.Cut() },
		"cut for good": func(_ *testing.T, messages *redistest.Proxy, _ *redis.Client) {
			messages.Refuse(true)
		},
		"killed": func(t *testing.T, _ *redistest.Proxy, rdb *redis.Client) {
			require.NoError(t, rdb.Do(t.Context(), "CLIENT", "KILL", "TYPE", "pubsub").Err())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.NewStandalone(t)
			messages := redistest.NewProxy(t, server.Addr())
			rdb, pubsub := server.Client(t), redis.NewClient(&redis.Options{Addr: messages.Addr()})
			t.Cleanup(func() { pubsub.Close() })
			here, there := newSite(t, redisstore.New(deafClient{rdb, pubsub}, nil), nil), newSite(t, redisstore.New(rdb, nil), nil)
			here.streams()
			closesWithinASecond(t, here, func(b *browser) {
				disturb(t, messages, rdb)
				there.with(b.cookie()).ok("/logout")
			})
		})
	}
}

// While the store is away streams stay open. Those whose session was ended
// meanwhile end when it is back.
func TestStreamsWhileTheStoreIsAway(t *testing.T) {
	t.Parallel()
	proxy, rdb := flaky(t, &redis.Options{MaxRetries: -1, DialerRetries: 1})
	o := &redisstore.Options{Prefix: redistest.Prefix(t)}
	here, there := newSite(t, redisstore.New(rdb, o), nil), newSite(t, redisstore.New(redistest.Standalone(t).Client(t), o), nil)
	here.streams()
	alice, bob := here.browser(), here.browser()
	alice.ok("/login?user=alice")
	bob.ok("/login?user=bob")
	ended, lives := alice.stream(t.Context()), bob.stream(t.Context())

	proxy.Refuse(true)
	there.with(alice.cookie()).ok("/logout")
	stillOpen(t, ended, 2500*time.Millisecond) // the circuit breaker is open
	proxy.Refuse(false)
	back := time.Now()
	e := within(t, ended)
	assert.Equal(t, saidGone, e.said)
	t.Logf("the stream ended %v after the store was back", e.at.Sub(back))
	stillOpen(t, lives, time.Second)
}

// Time ends streams, too.
func TestStreamsEndWithTheTime(t *testing.T) {
	for name, o := range map[string]session.Options{
		"idle":     {IdleTimeout: 10 * time.Second},
		"absolute": {IdleTimeout: 10 * time.Second, AbsoluteTimeout: 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newManager(t, session.NewMemoryStore(), &o)
				ctx, stop, err := m.Load(request(logIn(t, m, "alice"))).Context(t.Context())
				require.NoError(t, err)
				defer stop()
				began := time.Now()
				time.Sleep(10*time.Second - time.Millisecond)
				require.NoError(t, ctx.Err())
				<-ctx.Done()
				require.ErrorIs(t, context.Cause(ctx), session.ErrGone)
				assert.LessOrEqual(t, time.Since(began), 11*time.Second)
			})
		})
	}
	t.Run("redis", func(t *testing.T) {
		store := redisstore.New(redistest.Standalone(t).Client(t), &redisstore.Options{Prefix: redistest.Prefix(t)})
		s := newSite(t, store, nil)
		s.streams()
		s.handle("/shorten", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
			return sess.SetTimeouts(r.Context(), 100*time.Millisecond, time.Hour, false)
		})
		b := s.browser()
		b.ok("/login?user=alice")
		ended := b.stream(t.Context())
		b.ok("/shorten")
		assert.Equal(t, saidGone, within(t, ended).said)
	})
	t.Run("the store is away", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			spy := &spy{Store: session.NewMemoryStore()}
			m := newManager(t, blindStore{spy}, &session.Options{IdleTimeout: 10 * time.Second, AbsoluteTimeout: 20 * time.Second})
			ctx, stop, err := m.Load(request(logIn(t, m, "alice"))).Context(t.Context())
			require.NoError(t, err)
			defer stop()
			began := time.Now()
			<-ctx.Done()
			assert.Equal(t, 20*time.Second, time.Since(began), "nobody can say whether it lives, but by then it does not")
			require.ErrorIs(t, context.Cause(ctx), session.ErrGone)
		})
	})
}

// blindStore cannot say which sessions live.
type blindStore struct{ session.Store }

func (blindStore) Alive(context.Context, []string) ([]bool, error) { return nil, errStore }

// What a thousand open streams cost Redis.
func TestAThousandStreams(t *testing.T) {
	server := redistest.NewStandalone(t)
	rdb := server.Client(t)
	m := newManager(t, redisstore.New(rdb, nil), nil)
	const streams = 1000
	contexts, cookies := make([]context.Context, streams), make([]string, streams)
	for i := range streams {
		cookies[i] = logIn(t, m, fmt.Sprint("user", i%10))
		ctx, stop, err := m.Load(request(cookies[i])).Context(t.Context())
		require.NoError(t, err)
		defer stop()
		contexts[i] = ctx
	}
	require.Equal(t, streams, m.Stats().Watched)
	commands := func() int {
		info, err := rdb.InfoMap(t.Context(), "stats").Result()
		require.NoError(t, err)
		n, err := strconv.Atoi(info["Stats"]["total_commands_processed"])
		require.NoError(t, err)
		return n
	}
	require.Eventually(t, func() bool { // they are all watched
		n := commands()
		time.Sleep(50 * time.Millisecond)
		return commands() == n+1
	}, 10*time.Second, time.Millisecond)
	before, began := commands(), time.Now()
	time.Sleep(1250 * time.Millisecond)
	n, passed := commands()-before, time.Since(began).Seconds()
	t.Logf("%d streams: %.0f commands a second", streams, float64(n)/passed)
	assert.Less(t, float64(n), 1.5*streams*(passed/0.6+1), "one command a look for each")

	// One end is one question, not one about all.
	before, began = commands(), time.Now()
	for i := range 50 {
		require.NoError(t, m.Load(request(cookies[i])).Destroy(t.Context()))
		within(t, contexts[i].Done())
	}
	n, passed = commands()-before, time.Since(began).Seconds()
	t.Logf("50 ends, one after the other, in %.2f s: %d commands", passed, n)
	assert.Less(t, float64(n), 50*20+1.5*streams*(passed/0.6+1))

	_, err := m.RevokeAll(t.Context(), "user1")
	require.NoError(t, err)
	for i := 1; i < streams; i += 10 {
		within(t, contexts[i].Done())
	}
	assert.NoError(t, contexts[streams-1].Err())
	assert.Equal(t, streams-100-45, m.Stats().Watched)
}

// The absolute end counts from when the session began, and not from when its Context is
// asked for.
func TestAContextEndsWithTheAbsoluteTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &panicking{Store: session.NewMemoryStore()}
		m, err := session.New(store, &session.Options{IdleTimeout: time.Hour, AbsoluteTimeout: time.Hour, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		r := sessiontest.Request(t, m, httptest.NewRequest("GET", "/", nil), func(ctx context.Context, s *session.Session) error {
			return s.Login(ctx, "alice")
		})
		began := time.Now()
		m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			s := session.FromContext(r.Context())
			_, _ = s.User(r.Context())
			time.Sleep(30 * time.Minute) // an upload
			store.fails.Store(true)
			ended, stop, err := s.Context(r.Context())
			require.NoError(t, err)
			defer stop()
			<-ended.Done()
			assert.Equal(t, time.Hour, time.Since(began))
		})).ServeHTTP(httptest.NewRecorder(), r)
		time.Sleep(time.Minute) // for what still watches
	})
}
