package rediscache_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/rediscache"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

const (
	atLongest = 10 * time.Second
	// messagesOnly is an Options.Staleness with which only messages bring news, and
	// a tier that was warm once is relied on however busy the machine is.
	messagesOnly = time.Hour
)

// noneLeft waits until there are no goroutines but those that options ignore.
func noneLeft(t *testing.T, options ...goleak.Option) {
	t.Helper()
	var err error
	for began := time.Now(); time.Since(began) < atLongest; {
		if err = goleak.Find(options...); err == nil {
			return
		}
	}
	require.NoError(t, err)
}

func tagged(data string) cache.Entry {
	return cache.Entry{Kind: cache.Value, Data: []byte(data), TTL: time.Minute, StaleFor: time.Minute, Tags: []string{"tag"}}
}

// warm reads until the store's tier may be relied on.
func warm(t *testing.T, s *rediscache.Store) {
	t.Helper()
	require.Eventually(t, func() bool { s.Peek(""); return s.Fresh() }, atLongest, time.Millisecond)
}

// inTier lets the store read key until it has it in its tier.
func inTier(t *testing.T, s *rediscache.Store, key string) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, _, err := s.Get(t.Context(), key)
		require.NoError(t, err)
		e, ok := s.Peek(key)
		return ok && e.Local && e.Memo != nil
	}, atLongest, time.Millisecond)
}

// Redis sends a message to those who listen, whatever database they use; what is purged
// in one database is nothing to another.
func TestAPurgeInAnotherDatabase(t *testing.T) {
	for name, url := range map[string]func(t *testing.T) string{
		"standalone": func(t *testing.T) string { return redistest.Standalone(t).URL() },
		"sentinel":   func(t *testing.T) string { return redistest.SharedSentinels(t).URL() },
	} {
		t.Run(name, func(t *testing.T) {
			in0 := Setup{URL: url(t), Prefix: redistest.Prefix(t), Source: string(newSource(t)), StoreTimeout: atLongest}
			in1 := in0
			in1.URL = strings.TrimSuffix(in0.URL, "/0") + "/1"
			n, neighbour, another := startNode(t, in1), startNode(t, in1), startNode(t, in0)
			const keys = 100
			getAll := func() {
				for i := range keys {
					key := strconv.Itoa(i)
					value, err := n.values.Get(t.Context(), key, n.loader(LoadOrder{}))
					require.NoError(t, err)
					require.Equal(t, "value", value)
				}
			}
			for i := range keys {
				n.source.set(t, strconv.Itoa(i), "value")
			}
			getAll()
			warm(t, n.store)

			require.NoError(t, another.engine.PurgeTags(t.Context(), "tag"))
			// Who has heard of this has heard of what was published before.
			require.NoError(t, neighbour.engine.PurgeTags(t.Context(), "another tag"))
			epoch := neighbour.store.Known()
			eventually(t, atLongest, "the purge in its own database is known", func() bool {
				n.store.Peek("")
				return n.store.HasHeard(epoch)
			})
			getAll()
			assert.EqualValues(t, keys, n.loads.Load(), "nothing is loaded again")
		})
	}
}

// Whatever one process does reaches the tier of another one at once.
func TestOthersSeeWhatOneDoes(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		options := &rediscache.Options{Prefix: redistest.Prefix(t), Staleness: messagesOnly}
		one, other := rediscache.New(rdb, options), rediscache.New(rdb, options)
		tries(t, func(m *measurement) {
			var took figures
			// seen waits until other has seen what one has just done.
			seen := func(what string, isSeen func() bool) {
				done := time.Now()
				eventually(t, atLongest, what, isSeen)
				took = append(took, time.Since(done))
			}
			for _, p := range []cache.Purge{
				{Tags: []string{"tag"}},
				{Prefixes: []string{"k"}},
				{All: true},
				{Tags: []string{"tag"}, Soft: true},
				{Prefixes: []string{"k"}, Soft: true},
				{All: true, Soft: true},
				{Keys: []string{""}}, // stands for a key of its own
				{Keys: []string{""}, Soft: true},
			} {
				// A key for each: news of another one would hide that none has come.
				key := "key" + rand.Text()
				if len(p.Keys) > 0 {
					p.Keys = []string{key}
				}
				require.True(t, fillWith(t, one, key, 1, tagged("old")))
				inTier(t, other, key)
				purge(t, one, p)
				seen(fmt.Sprintf("%+v", p), func() bool { e, ok := other.Peek(key); return !ok || e.TTL <= 0 })
				e, ok, err := other.Get(t.Context(), key)
				require.NoError(t, err)
				assert.Equal(t, p.Soft, ok, "%+v", p)
				assert.LessOrEqual(t, e.TTL, time.Duration(0), "%+v", p)
			}

			key := "key" + rand.Text()
			require.True(t, fillWith(t, one, key, 1, tagged("old")))
			inTier(t, other, key)
			w, err := one.BeginWrite(t.Context(), key, time.Minute)
			require.NoError(t, err)
			stored, err := one.Write(t.Context(), key, w, tagged("new"))
			require.NoError(t, err)
			require.True(t, stored)
			seen("a write", func() bool { return get(t, other, key) == "new" })
			t.Logf("seen after %v; target: milliseconds", took)
			m.within(20*time.Millisecond, took.percentile(50), "the median")
		})
	})
}

func TestWhatAStoreStoresIsInItsTier(t *testing.T) {
	proxy := redistest.NewProxy(t, redistest.Standalone(t).Addr())
	rdb := redis.NewClient(&redis.Options{Addr: proxy.Addr()})
	defer rdb.Close()
	s := rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(t), Staleness: messagesOnly})
	warm(t, s)
	// So that Redis knows the scripts: one that it does not know is sent again
	// with the log after it, and the first message of the two drops the entry.
	w, err := s.BeginWrite(t.Context(), "another", time.Minute)
	require.NoError(t, err)
	_, err = s.Write(t.Context(), "another", w, tagged("written"))
	require.NoError(t, err)
	require.True(t, fillWith(t, s, "key", 1, tagged("filled")))
	filled, ok := s.Peek("key")
	require.True(t, ok)
	assert.Equal(t, "filled", string(filled.Data))
	assert.True(t, filled.Local)
	assert.Nil(t, filled.Tags)
	filled.Memo.Store("decoded")
	again, _, err := s.Get(t.Context(), "key")
	require.NoError(t, err)
	assert.Equal(t, "decoded", again.Memo.Load())

	w, err = s.BeginWrite(t.Context(), "key", time.Minute)
	require.NoError(t, err)
	_, err = s.Write(t.Context(), "key", w, tagged("written"))
	require.NoError(t, err)
	written, ok := s.Peek("key")
	require.True(t, ok)
	assert.Equal(t, "written", string(written.Data))
	assert.Nil(t, written.Memo.Load())
	assert.NotEqual(t, filled.Version, written.Version)
	// The version is that in Redis: it serves as Seen.
	b, err := s.Begin(t.Context(), "key", cache.Filling{Token: 5, TTL: time.Minute, Seen: written.Version})
	require.NoError(t, err)
	assert.Equal(t, cache.Begun, b.Outcome)
	// While a write is under way the limit counts in the tier, too.
	_, err = s.BeginWrite(t.Context(), "key", time.Minute)
	require.NoError(t, err)
	purge(t, s, cache.Purge{Keys: []string{"key"}})
	require.True(t, fillWith(t, s, "key", 6, tagged("limited")))
	limited, ok := s.Peek("key")
	require.True(t, ok)
	assert.LessOrEqual(t, limited.TTL+limited.StaleFor, time.Second)
	b, err = s.Begin(t.Context(), "key", cache.Filling{Token: 7, TTL: time.Minute, Seen: limited.Version})
	require.NoError(t, err)
	assert.Equal(t, cache.Begun, b.Outcome)
}

func TestTheTierIsBounded(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	s := rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(t), TierBytes: 160_000, CompressAbove: -1, Staleness: messagesOnly})
	warm(t, s)
	require.True(t, fill(t, s, "large", 1, string(make([]byte, 10_000))))
	_, ok := s.Peek("large")
	assert.False(t, ok, "more than a sixteenth")
	const entries = 100
	for i := range entries {
		require.True(t, fill(t, s, fmt.Sprint(i), 1, string(make([]byte, 5_000))))
	}
	held := 0
	for i := range entries {
		if _, ok := s.Peek(fmt.Sprint(i)); ok {
			held++
		}
	}
	assert.LessOrEqual(t, held, 32)
	assert.Positive(t, held)
}

// pair is a store behind a proxy that can be cut off, and one that cannot. The
// first one has "key" in its tier.
func pair(t *testing.T) (s, other *rediscache.Store, proxy *redistest.Proxy) {
	t.Helper()
	server := redistest.Standalone(t)
	proxy = redistest.NewProxy(t, server.Addr())
	rdb := redis.NewClient(&redis.Options{Addr: proxy.Addr(), ContextTimeoutEnabled: true, ReadTimeout: 200 * time.Millisecond})
	t.Cleanup(func() { _ = rdb.Close() })
	options := &rediscache.Options{Prefix: redistest.Prefix(t)}
	s, other = rediscache.New(rdb, options), rediscache.New(server.Client(t), options)
	require.True(t, fillWith(t, other, "key", 1, tagged("old")))
	inTier(t, s, "key")
	return s, other, proxy
}

// readOld reads key from s for so long, and returns when it was asked last for what
// it had the old value of. The bound is for that: when the answer is looked at is up
// to the machine.
func readOld(t *testing.T, s *rediscache.Store, during time.Duration) (last time.Time) {
	for began := time.Now(); time.Since(began) < during; time.Sleep(time.Millisecond) {
		asked := time.Now()
		if e, ok := s.Peek("key"); ok && string(e.Data) == "old" {
			last = asked
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		asked = time.Now()
		if e, ok, err := s.Get(ctx, "key"); err == nil && ok && string(e.Data) == "old" {
			last = asked
		}
		cancel()
	}
	return last
}

func TestAStoreThatIsCutOffStopsTrustingItsTier(t *testing.T) {
	changes := map[string]func(t *testing.T, other *rediscache.Store){
		"key": func(t *testing.T, other *rediscache.Store) { purge(t, other, cache.Purge{Keys: []string{"key"}}) },
		"tag": func(t *testing.T, other *rediscache.Store) { purge(t, other, cache.Purge{Tags: []string{"tag"}}) },
		"write": func(t *testing.T, other *rediscache.Store) {
			w, err := other.BeginWrite(t.Context(), "key", time.Minute)
			require.NoError(t, err)
			_, err = other.Write(t.Context(), "key", w, tagged("new"))
			require.NoError(t, err)
		},
	}
	faults := map[string]struct{ begin, end func(p *redistest.Proxy) }{
		"hung":    {func(p *redistest.Proxy) { p.Blackhole(true) }, func(p *redistest.Proxy) { p.Blackhole(false) }},
		"refused": {func(p *redistest.Proxy) { p.Refuse(true) }, func(p *redistest.Proxy) { p.Refuse(false) }},
	}
	for changed, change := range changes {
		for broken, fault := range faults {
			t.Run(changed+" "+broken, func(t *testing.T) {
				t.Parallel()
				s, other, proxy := pair(t)
				fault.begin(proxy)
				change(t, other)
				at := time.Now()
				last := readOld(t, s, 3*time.Second)
				if !last.IsZero() {
					assert.LessOrEqual(t, last.Sub(at), bound)
				}
				fault.end(proxy)
				assert.Zero(t, readOld(t, s, 300*time.Millisecond), "when it is over")
				require.True(t, fillWith(t, other, "another", 1, tagged("data")))
				inTier(t, s, "another")
				purge(t, other, cache.Purge{Tags: []string{"tag"}})
				require.Eventually(t, func() bool { _, ok := s.Peek("another"); return !ok }, atLongest, time.Millisecond)
			})
		}
	}
}

// deafConn is a connection that hears nothing any more from when something came
// while deaf was set, if a subscription was sent on it.
type deafConn struct {
	net.Conn
	deaf       *atomic.Bool
	subscribed atomic.Bool
	broken     bool
}

func (c *deafConn) Write(p []byte) (int, error) {
	if len(p) > 20 && string(p[:13]) == "*2\r\n$9\r\nsubsc" {
		c.subscribed.Store(true)
	}
	return c.Conn.Write(p)
}

func (c *deafConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		c.broken = c.broken || c.subscribed.Load() && c.deaf.Load()
		if err != nil || !c.broken {
			return n, err
		}
	}
}

// deafClient returns a client whose subscriptions hear nothing while deaf is set.
func deafClient(t *testing.T, addr string) (rdb *redis.Client, deaf *atomic.Bool) {
	deaf = new(atomic.Bool)
	rdb = redis.NewClient(&redis.Options{Addr: addr, Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		return &deafConn{Conn: c, deaf: deaf}, err
	}})
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb, deaf
}

func TestLostMessagesAreNoticed(t *testing.T) {
	server := redistest.Standalone(t)
	rdb, deaf := deafClient(t, server.Addr())
	options := &rediscache.Options{Prefix: redistest.Prefix(t)}
	s, other := rediscache.New(rdb, options), rediscache.New(server.Client(t), options)
	var token uint64
	refill := func(data string) {
		token++
		require.True(t, fillWith(t, other, "key", token, tagged(data)))
	}
	for _, p := range []cache.Purge{{Keys: []string{"key"}}, {All: true}} {
		tries(t, func(m *measurement) {
			refill("old")
			inTier(t, s, "key")
			deaf.Store(true)
			purge(t, other, p)
			at := time.Now()
			last := readOld(t, s, 2*time.Second)
			m.check(!last.IsZero(), "it was told after all, or has not read for long")
			assert.LessOrEqual(t, last.Sub(at), bound)
			deaf.Store(false)
			// The subscription is replaced, so that messages come at once again, each
			// time, and not only the tier as a whole is emptied now and then.
			refill("new")
			inARow := 0
			eventually(t, 2*atLongest, "messages come again", func() bool {
				if inTier(t, s, "key"); !noticedAtOnce(t, s, other) {
					inARow = 0
				}
				inARow++
				return inARow > 10
			})
		})
	}
}

// A process to which no message ever comes, not even that it has subscribed, but
// whose commands work, must not share what is older than a purge of a tag.
func TestAFillWithoutMessagesKnowsOfPurges(t *testing.T) {
	t.Parallel()
	server := redistest.Standalone(t)
	rdb, deaf := deafClient(t, server.Addr())
	deaf.Store(true)
	options := &rediscache.Options{Prefix: redistest.Prefix(t)}
	s, other := rediscache.New(rdb, options), rediscache.New(server.Client(t), options)
	e := engineOn(t, rdb, s, cache.Options{StoreTimeout: patient, LeaseTTL: longLease})
	n, err := cache.For[string](e, "n", cache.Policy{TTL: time.Minute})
	require.NoError(t, err)
	var source atomic.Value
	source.Store("old")
	begun := make(chan struct{}, 2)
	free := make(chan struct{})
	load := func(ctx context.Context, _ string) (string, error) {
		v := source.Load().(string)
		begun <- struct{}{}
		<-free
		cache.AddTags(ctx, "tag")
		return v, nil
	}
	get := func() <-chan string {
		got := make(chan string, 1)
		go func() {
			v, err := n.Get(context.Background(), "k", load)
			assert.NoError(t, err)
			got <- v
		}()
		return got
	}
	first := get()
	<-begun
	source.Store("new")
	purge(t, other, cache.Purge{Tags: []string{"tag"}})
	time.Sleep(bound + slack)
	late := get()
	time.Sleep(100 * time.Millisecond) // it waits for the first
	close(free)
	assert.Equal(t, "new", <-late)
	<-first
	assert.EqualValues(t, 1, e.Stats().FillsRefused)
}

// noticedAtOnce purges key from other, softly, and reports whether s has noticed
// although it trusts its tier.
func noticedAtOnce(t *testing.T, s, other *rediscache.Store) bool {
	purge(t, other, cache.Purge{Keys: []string{"key"}, Soft: true})
	for range 50 {
		if _, ok := s.Peek("key"); !ok {
			return s.Fresh()
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// holdGet lets the answer to one GET wait.
type holdGet struct {
	armed     atomic.Bool
	got, free chan struct{}
}

func (h *holdGet) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *holdGet) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		h.hold(cmd)
		return err
	}
}

func (h *holdGet) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		h.hold(cmds...)
		return err
	}
}

func (h *holdGet) hold(cmds ...redis.Cmder) {
	got := slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool { return cmd.Name() == "get" })
	if got && h.armed.CompareAndSwap(true, false) {
		close(h.got)
		<-h.free
	}
}

// A value that was read before it was purged, and arrives after that, must not
// get into the tier, from where nobody would remove it.
func TestALateReadDoesNotGetIntoTheTier(t *testing.T) {
	ways := map[string]func(t *testing.T, s, other cache.Store){
		"purged by another": func(t *testing.T, s, other cache.Store) {
			require.True(t, fillWith(t, other, "sign", 1, tagged("x")))
			inTier(t, s.(*rediscache.Store), "sign")
			purge(t, other, cache.Purge{Keys: []string{"key", "sign"}})
			require.Eventually(t, func() bool { _, ok := s.Peek("sign"); return !ok }, atLongest, time.Millisecond)
		},
		"purged":          func(t *testing.T, s, _ cache.Store) { purge(t, s, cache.Purge{Keys: []string{"key"}}) },
		"everything gone": func(t *testing.T, s, _ cache.Store) { purge(t, s, cache.Purge{All: true}) },
		"written": func(t *testing.T, s, _ cache.Store) {
			w, err := s.BeginWrite(t.Context(), "key", time.Minute)
			require.NoError(t, err)
			_, err = s.Write(t.Context(), "key", w, cache.Entry{})
			require.NoError(t, err)
		},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			server := redistest.Standalone(t)
			rdb := server.Client(t)
			options := &rediscache.Options{Prefix: redistest.Prefix(t)}
			s, other := rediscache.New(rdb, options), rediscache.New(server.Client(t), options)
			warm(t, s)
			require.True(t, fillWith(t, other, "key", 1, tagged("old")))
			hold := &holdGet{got: make(chan struct{}), free: make(chan struct{})}
			hold.armed.Store(true)
			rdb.AddHook(hold)
			done := make(chan error, 1)
			go func() {
				_, _, err := s.Get(context.Background(), "key")
				done <- err
			}()
			<-hold.got
			way(t, s, other)
			close(hold.free)
			require.NoError(t, <-done)
			_, ok := s.Peek("key")
			assert.False(t, ok)
			assert.Empty(t, get(t, s, "key"))
		})
	}
}

// The same, if the message about the purge is lost, so that only the tier as a
// whole is emptied.
func TestALateReadDoesNotOutliveALostMessage(t *testing.T) {
	server := redistest.Standalone(t)
	rdb, deaf := deafClient(t, server.Addr())
	options := &rediscache.Options{Prefix: redistest.Prefix(t)}
	s, other := rediscache.New(rdb, options), rediscache.New(server.Client(t), options)
	require.True(t, fillWith(t, other, "sign", 1, tagged("x")))
	require.True(t, fillWith(t, other, "key", 1, tagged("old")))
	inTier(t, s, "sign")
	hold := &holdGet{got: make(chan struct{}), free: make(chan struct{})}
	hold.armed.Store(true)
	rdb.AddHook(hold)
	done := make(chan error, 1)
	go func() {
		_, _, err := s.Get(context.Background(), "key")
		done <- err
	}()
	<-hold.got
	emptied := s.Emptied()
	deaf.Store(true)
	purge(t, other, cache.Purge{Keys: []string{"key"}})
	eventually(t, atLongest, "the tier is emptied", func() bool { s.Peek("sign"); return s.Emptied() > emptied })
	deaf.Store(false)
	require.Eventually(t, s.Fresh, atLongest, time.Millisecond)
	close(hold.free)
	require.NoError(t, <-done)
	_, ok := s.Peek("key")
	assert.False(t, ok)
}

func TestNothingIsLeftWhenNobodyReads(t *testing.T) {
	server := redistest.Standalone(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	before := goleak.IgnoreCurrent()
	s := rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(t), Staleness: 50 * time.Millisecond})
	s.SetLinger(20 * time.Millisecond)
	// A client of another test may be dialling again after it was closed.
	others := goleak.IgnoreAnyFunction("github.com/herdless/herdless/cache/rediscache_test.(*deafConn).Read")
	for range 2 { // it starts again
		warm(t, s)
		noneLeft(t, before, others)
	}
	require.NoError(t, rdb.Close())
}

func TestClosingTheClientEndsTheFeed(t *testing.T) {
	server := redistest.Standalone(t)
	before := goleak.IgnoreCurrent()
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	s := rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(t)})
	warm(t, s)
	body, err := s.CreateBody(t.Context(), "key", time.Minute)
	require.NoError(t, err)
	require.NoError(t, rdb.Close())
	noneLeft(t, before)

	_, _, getErr := s.Get(t.Context(), "key")
	_, beginErr := s.Begin(t.Context(), "key", cache.Filling{Token: 1, TTL: time.Minute})
	_, fillErr := s.Fill(t.Context(), "key", cache.Ticket{}, tagged("data"))
	_, beginWriteErr := s.BeginWrite(t.Context(), "key", time.Minute)
	_, writeErr := s.Write(t.Context(), "key", cache.Ticket{}, tagged("data"))
	_, _ = body.Write([]byte("data"))
	_, finishErr := body.Finish()
	for name, err := range map[string]error{
		"Get": getErr, "Begin": beginErr, "Fill": fillErr, "BeginWrite": beginWriteErr, "Write": writeErr, "Finish": finishErr,
		"Purge": s.Purge(t.Context(), cache.Purge{Keys: []string{"key"}, All: true}),
	} {
		assert.ErrorContains(t, err, "rediscache: ", name)
		assert.ErrorIs(t, err, redis.ErrClosed, name)
	}
	_, ok := s.Peek("key")
	assert.False(t, ok)
	noneLeft(t, before)
}
