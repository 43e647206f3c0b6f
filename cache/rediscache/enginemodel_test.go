package rediscache_test

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// This model is one of a cache with its source, as an application sees them: a
// source with a version under each key; callers, who ask and whose loads take as
// long as the model wants; changes of the source with a purge after them; and Puts,
// whose writes take their time as well. Then, in whatever order all of that begins
// and ends, on whichever node:
//
//   - who asks gets nothing older than the last purge that reached the key, or the
//     last Put that ended, before he asked. Only what a soft purge has reached may
//     be older, if the policy lets it;
//   - a key is loaded once at a time in the whole cluster;
//   - what was loaded or put and nothing has disturbed is there, and is not loaded
//     again;
//   - everybody gets an answer.

func TestTheEngineAgainstAModel(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	// Each returns the stores of all nodes, and what they share for their locks.
	clusters := map[string]func(t *testing.T) ([]cache.Store, lock.Store){
		"memory": func(*testing.T) ([]cache.Store, lock.Store) {
			s := cache.NewMemoryStore(nil)
			return []cache.Store{s, s}, lock.NewMemoryStore()
		},
		"Redis": func(t *testing.T) ([]cache.Store, lock.Store) {
			return twoNodes(t, rdb), redislock.New(rdb, &redislock.Options{Prefix: redistest.Prefix(t)})
		},
	}
	for name, newCluster := range clusters {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(r *rapid.T) {
				m := newEngineModel(t, r, newCluster)
				defer m.end()
				r.Repeat(map[string]func(*rapid.T){
					"ask":         m.ask,
					"end a load":  m.endLoad,
					"begin a Put": m.beginPut,
					"commit":      m.commit,
					"end a Put":   m.endPut,
					"change":      m.change,
					"look":        m.look,
					"":            m.check,
				})
			})
		})
	}
}

// engineKeys are few, so that much comes together on each of them.
var engineKeys = []string{"a", "ab"}

type engineModel struct {
	*rapid.T
	test   *testing.T
	stores []cache.Store
	nodes  []engineNode
	stale  bool // the policy lets callers have what is stale

	mu    sync.Mutex // guards what loads and writes use in their goroutines
	keys  map[string]*sourceKey
	order map[int]int // of values: later ones in the source have larger numbers
	loads []*modelLoad

	values int // given out
	asks   []*modelAsk
	puts   []*modelPut
}

type engineNode struct {
	store  cache.Store
	engine *cache.Engine
	values *cache.Namespace[int]
}

// sourceKey is a key of the source, and what the model knows of it in the cache.
type sourceKey struct {
	value      int // now
	tags       []string
	fresh, any int // the order of what may still be there
	expected   int // the value that must be there; zero: perhaps none
}

// modelLoad is one that has begun.
type modelLoad struct {
	key       string
	value     int // that it has read
	proceed   chan struct{}
	disturbed bool // by a purge or a Put
}

// modelAsk is a caller.
type modelAsk struct {
	key    string
	floor  int // the order of the oldest value that he may get
	waits  *waiting
	answer chan int
	err    error
}

// waiting is a context of which somebody waits for the end: a caller of the engine,
// then, that has joined those who ask for the key.
type waiting struct {
	context.Context
	once  sync.Once
	begun chan struct{}
}

func (w *waiting) Done() <-chan struct{} {
	w.once.Do(func() { close(w.begun) })
	return w.Context.Done()
}

func (w *waiting) hasBegun() bool { return isClosed(w.begun) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// modelPut is one that has begun.
type modelPut struct {
	key       string
	value     int
	commit    chan struct{}
	committed chan struct{}
	proceed   chan struct{}
	done      chan error
	node      engineNode
	disturbed bool // by a purge or another Put
}

func newEngineModel(t *testing.T, r *rapid.T, newCluster func(t *testing.T) ([]cache.Store, lock.Store)) *engineModel {
	stores, locks := newCluster(t)
	m := &engineModel{T: r, test: t, stores: stores, keys: make(map[string]*sourceKey), order: make(map[int]int)}
	m.stale = rapid.Bool().Draw(r, "stale-while-revalidate")
	policy := cache.Policy{TTL: time.Hour}
	if m.stale {
		policy.StaleWhileRevalidate = time.Hour
	}
	for _, store := range stores {
		locker, err := lock.New(locks, nil)
		require.NoError(r, err)
		// As patient as a busy machine needs.
		engine, err := cache.New(store, &cache.Options{
			Locker: locker, LeaseTTL: patience, StoreTimeout: patience, WaitTimeout: 6 * patience, Logger: slog.New(slog.DiscardHandler),
		})
		require.NoError(r, err)
		values, err := cache.For[int](engine, "model", policy)
		require.NoError(r, err)
		m.nodes = append(m.nodes, engineNode{store, engine, values})
	}
	for _, key := range engineKeys {
		k := &sourceKey{}
		for _, tag := range modelTags {
			if rapid.Bool().Draw(r, key+" has tag "+tag) {
				k.tags = append(k.tags, tag)
			}
		}
		m.keys[key] = k
		m.set(key, m.next())
	}
	return m
}

// next returns a value that there has not been.
func (m *engineModel) next() int {
	m.values++
	return m.values
}

// set changes the source.
func (m *engineModel) set(key string, value int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keys[key].value = value
	m.order[value] = len(m.order) + 1
}

func (m *engineModel) node() engineNode {
	return m.nodes[rapid.IntRange(0, len(m.nodes)-1).Draw(m.T, "node")]
}

func (m *engineModel) key() (string, *sourceKey) {
	key := rapid.SampledFrom(engineKeys).Draw(m.T, "key")
	return key, m.keys[key]
}

// load reads the source at once, says only in the end which tags the value has, and
// takes until the model lets it go on.
func (m *engineModel) load(ctx context.Context, key string) (int, error) {
	m.mu.Lock()
	l := &modelLoad{key: key, value: m.keys[key].value, proceed: make(chan struct{})}
	m.loads = append(m.loads, l)
	m.mu.Unlock()
	select {
	case <-l.proceed:
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	cache.AddTags(ctx, m.keys[key].tags...)
	return l.value, nil
}

func (m *engineModel) isLoading(key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.loads, func(l *modelLoad) bool { return l.key == key })
}

func (m *engineModel) ask(*rapid.T) {
	key, k := m.key()
	a := &modelAsk{
		key: key, floor: k.fresh, answer: make(chan int, 1),
		waits: &waiting{Context: context.Background(), begun: make(chan struct{})},
	}
	if m.stale {
		a.floor = k.any
	}
	values := m.node().values
	go func() {
		value, err := values.Get(a.waits, key, m.load)
		a.err = err
		a.answer <- value
	}()
	m.asks = append(m.asks, a)
	m.settle()
}

// settle waits until each caller has an answer, or waits for a load.
func (m *engineModel) settle() {
	eventually(m.test, patience, "callers get an answer, or wait for a load", func() bool {
		for i := 0; i < len(m.asks); {
			if a := m.asks[i]; len(a.answer) > 0 {
				m.asks = slices.Delete(m.asks, i, i+1)
				m.judge(a, <-a.answer)
			} else {
				i++
			}
		}
		return !slices.ContainsFunc(m.asks, func(a *modelAsk) bool { return !a.waits.hasBegun() || !m.isLoading(a.key) })
	})
}

// judge holds an answer against the rules.
func (m *engineModel) judge(a *modelAsk, value int) {
	require.NoError(m, a.err)
	m.mu.Lock()
	defer m.mu.Unlock()
	require.GreaterOrEqual(m, m.order[value], a.floor, "%q: who has asked got what is older than he may get", a.key)
}

func (m *engineModel) endLoad(r *rapid.T) {
	key, _ := m.key()
	if !m.isLoading(key) {
		r.Skip()
	}
	m.mu.Lock()
	i := slices.IndexFunc(m.loads, func(l *modelLoad) bool { return l.key == key })
	l := m.loads[i]
	m.loads = slices.Delete(m.loads, i, i+1)
	m.mu.Unlock()
	close(l.proceed)
	asked := slices.ContainsFunc(m.asks, func(a *modelAsk) bool { return a.key == l.key })
	m.settle()
	// While somebody puts, it is kept for a second only. Of a refresh it is not
	// known when it has begun, nor when it has ended.
	if !l.disturbed && asked && !m.stale && !slices.ContainsFunc(m.puts, func(p *modelPut) bool { return p.key == l.key }) {
		m.keys[l.key].expected = l.value
	}
}

// disturb notes that what was read of key so far must not be had any more.
func (m *engineModel) disturb(key string, soft bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.keys[key]
	k.expected = 0
	for _, l := range m.loads {
		l.disturbed = l.disturbed || l.key == key
	}
	k.fresh = m.order[k.value]
	if !soft {
		k.any = k.fresh
	}
}

func (m *engineModel) disturbPuts(key string) {
	for _, p := range m.puts {
		p.disturbed = p.disturbed || p.key == key
	}
}

func (m *engineModel) beginPut(*rapid.T) {
	key, _ := m.key()
	p := &modelPut{
		key: key, value: m.next(), node: m.node(),
		commit: make(chan struct{}), committed: make(chan struct{}), proceed: make(chan struct{}), done: make(chan error, 1),
	}
	begun := make(chan struct{})
	go func() {
		p.done <- p.node.values.Put(context.Background(), key, p.value, func(ctx context.Context, _ string, _ int) error {
			close(begun)
			<-p.commit
			m.set(key, p.value)
			close(p.committed)
			cache.AddTags(ctx, m.keys[key].tags...)
			<-p.proceed
			return nil
		})
	}()
	<-begun
	m.disturbPuts(key)
	p.disturbed = slices.ContainsFunc(m.puts, func(other *modelPut) bool { return other.key == key })
	m.puts = append(m.puts, p)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range m.loads {
		l.disturbed = l.disturbed || l.key == key
	}
}

func (p *modelPut) isCommitted() bool { return isClosed(p.committed) }

func (m *engineModel) put(r *rapid.T, committed bool) *modelPut {
	var found []*modelPut
	for _, p := range m.puts {
		if p.isCommitted() == committed {
			found = append(found, p)
		}
	}
	if len(found) == 0 {
		r.Skip()
	}
	return found[rapid.IntRange(0, len(found)-1).Draw(m.T, "put")]
}

// commit is the moment at which a Put changes the source.
func (m *engineModel) commit(r *rapid.T) {
	p := m.put(r, false)
	close(p.commit)
	<-p.committed
	m.keys[p.key].expected = 0 // it is old
}

func (m *engineModel) endPut(r *rapid.T) {
	p := m.put(r, true)
	m.puts = slices.DeleteFunc(m.puts, func(other *modelPut) bool { return other == p })
	close(p.proceed)
	require.NoError(m, <-p.done)
	haveHeard(m.test, p.node.store, m.stores)
	m.disturbPuts(p.key)
	m.mu.Lock()
	k, order := m.keys[p.key], m.order[p.value]
	k.fresh, k.any, k.expected = max(k.fresh, order), max(k.any, order), 0
	for _, l := range m.loads {
		l.disturbed = l.disturbed || l.key == p.key
	}
	m.mu.Unlock()
	if !p.disturbed {
		k.expected = p.value
	}
	m.settle()
}

// change changes the source, and purges what it has changed.
func (m *engineModel) change(*rapid.T) {
	ctx, node := context.Background(), m.node()
	soft := rapid.Bool().Draw(m.T, "soft")
	either := func(softly, hard func() error) error {
		if soft {
			return softly()
		}
		return hard()
	}
	var reached []string
	var purge func() error
	switch rapid.IntRange(0, 3).Draw(m.T, "what") {
	case 0:
		key, _ := m.key()
		reached = []string{key}
		purge = func() error {
			return either(func() error { return node.values.SoftDelete(ctx, key) }, func() error { return node.values.Delete(ctx, key) })
		}
	case 1:
		prefix := rapid.SampledFrom([]string{"a", "ab", "b"}).Draw(m.T, "prefix")
		for _, key := range engineKeys {
			if strings.HasPrefix(key, prefix) {
				reached = append(reached, key)
			}
		}
		purge = func() error {
			return either(func() error { return node.engine.SoftPurgePrefix(ctx, "model:"+prefix) }, func() error { return node.values.DeletePrefix(ctx, prefix) })
		}
	case 2:
		reached = engineKeys
		purge = func() error {
			return either(func() error { return node.engine.SoftPurgeAll(ctx) }, func() error { return node.engine.PurgeAll(ctx) })
		}
	case 3:
		tag := rapid.SampledFrom(modelTags).Draw(m.T, "tag")
		for _, key := range engineKeys {
			if slices.Contains(m.keys[key].tags, tag) {
				reached = append(reached, key)
			}
		}
		purge = func() error {
			return either(func() error { return node.engine.SoftPurgeTags(ctx, tag) }, func() error { return node.engine.PurgeTags(ctx, tag) })
		}
	}
	for _, key := range reached {
		m.set(key, m.next())
	}
	require.NoError(m, purge())
	haveHeard(m.test, node.store, m.stores)
	for _, key := range reached {
		m.disturb(key, soft)
		m.disturbPuts(key)
	}
	m.settle()
}

// look asks for what must be there.
func (m *engineModel) look(*rapid.T) {
	key, k := m.key()
	if k.expected == 0 || m.isLoading(key) {
		return
	}
	value, err := m.node().values.Get(context.Background(), key, func(context.Context, string) (int, error) {
		m.Errorf("%q is loaded, but nothing has disturbed what was stored", key)
		return k.expected, nil
	})
	require.NoError(m, err)
	require.Equal(m, k.expected, value, "%q", key)
}

// check: of a key there is one load at a time.
func (m *engineModel) check(*rapid.T) {
	m.mu.Lock()
	defer m.mu.Unlock()
	loading := make(map[string]bool)
	for _, l := range m.loads {
		require.False(m, loading[l.key], "%q is loaded twice at a time", l.key)
		loading[l.key] = true
	}
}

// end lets everything come to its end.
func (m *engineModel) end() {
	for _, p := range m.puts {
		if !p.isCommitted() {
			close(p.commit)
		}
		close(p.proceed)
		<-p.done
	}
	eventually(m.test, patience, "everybody gets an answer", func() bool {
		m.mu.Lock()
		for _, l := range m.loads {
			close(l.proceed)
		}
		m.loads = nil
		m.mu.Unlock()
		m.asks = slices.DeleteFunc(m.asks, func(a *modelAsk) bool { return len(a.answer) > 0 })
		return len(m.asks) == 0
	})
}
