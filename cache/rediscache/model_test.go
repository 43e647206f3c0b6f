package rediscache_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/rediscache"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The model is a source with a version under each key, and the rule that whoever
// changes it purges afterwards what it has changed, or writes through. Then, in
// whatever order fills, writes and purges begin and end:
//
//   - what is fresh is never older than the last purge that reached the key, or
//     the last write that has ended;
//   - what is stale is never older than the last hard one;
//   - what has a tag began after the last hard purge of it, and if it is fresh
//     after the last soft one;
//   - what nothing has disturbed is there.
//
// All of this holds for each node of a cluster as soon as it has heard of what
// another one has purged or written.

func TestStoresAgainstAModel(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	// Each returns the stores of all nodes.
	clusters := map[string]func(t *testing.T) []cache.Store{
		"memory": func(*testing.T) []cache.Store { return []cache.Store{cache.NewMemoryStore(nil)} },
		"Redis, nothing in process": func(t *testing.T) []cache.Store {
			return []cache.Store{rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(t), TierBytes: -1})}
		},
		"Redis, two nodes": func(t *testing.T) []cache.Store { return twoNodes(t, rdb) },
	}
	for name, newStores := range clusters {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(r *rapid.T) {
				m := &model{
					T: r, test: t, stores: newStores(t), keys: make(map[string]*modelKey),
					hard: make(map[string]int), soft: make(map[string]int),
				}
				for _, key := range modelKeys {
					m.keys[key] = &modelKey{}
				}
				r.Repeat(map[string]func(*rapid.T){
					"begin a fill":  m.beginFill,
					"end a fill":    m.endFill,
					"begin a write": m.beginWrite,
					"commit":        m.commit,
					"end a write":   m.endWrite,
					"purge":         m.purge,
					"":              m.check,
				})
			})
		})
	}
}

// twoNodes returns two stores over one Redis.
func twoNodes(t *testing.T, rdb redis.UniversalClient) []cache.Store {
	o := &rediscache.Options{Prefix: redistest.Prefix(t)}
	return []cache.Store{rediscache.New(rdb, o), rediscache.New(rdb, o)}
}

// haveHeard waits until all nodes have heard of what one of them has purged or
// written.
func haveHeard(t *testing.T, by cache.Store, all []cache.Store) {
	told, ok := by.(*rediscache.Store)
	if !ok || len(all) == 1 {
		return
	}
	for _, store := range all {
		other := store.(*rediscache.Store)
		eventually(t, patience, "a message has come", func() bool {
			other.Peek("") // or it would not listen
			return other.HasHeard(told.Known())
		})
	}
}

var (
	modelKeys = []string{"a", "ab", "abc", "b"}
	modelTags = []string{"x", "y"}
)

// modelKey is what the model knows of a key.
type modelKey struct {
	version  int // that the source has
	fresh    int // what is fresh must not be older
	any      int // nor may anything be
	token    uint64
	begun    bool     // a fill under token that nothing has disturbed
	writes   int      // under way
	expected int      // the version that must be there and fresh, if not zero
	tags     []string // of that
}

// modelEntry is one that was to be stored.
type modelEntry struct {
	version int
	tags    []string
	began   int
}

// modelFill is a fill that has begun.
type modelFill struct {
	key    string
	ticket cache.Ticket
	modelEntry
}

type modelWrite struct {
	key        string
	ticket     cache.Ticket
	modelEntry      // the version is zero until it is committed
	disturbed  bool // by another write that began or ended since, or a hard purge
	softly     bool // by a soft purge
}

type model struct {
	*rapid.T
	test    *testing.T
	stores  []cache.Store
	keys    map[string]*modelKey
	fills   []modelFill
	writes  []*modelWrite
	entries []modelEntry // all that were ever made
	// now counts purges of tags, and hard and soft have the last one of each.
	now        int
	hard, soft map[string]int
}

// node returns the store of one of the nodes, which does the next step.
func (m *model) node() cache.Store {
	return m.stores[rapid.IntRange(0, len(m.stores)-1).Draw(m.T, "node")]
}

func (m *model) tags() (tags []string) {
	for _, tag := range modelTags {
		if rapid.Bool().Draw(m.T, "tag "+tag) {
			tags = append(tags, tag)
		}
	}
	return tags
}

// entry returns what is to be stored.
func (m *model) entry(e modelEntry) cache.Entry {
	m.entries = append(m.entries, e)
	return cache.Entry{
		Kind: cache.Value, Data: fmt.Append(nil, len(m.entries)-1), TTL: time.Minute, StaleFor: time.Minute, Tags: e.tags,
	}
}

// reached reports that one of the purges of a tag has reached e.
func (e modelEntry) reached(purges map[string]int) bool {
	return slices.ContainsFunc(e.tags, func(tag string) bool { return purges[tag] > e.began })
}

func (m *model) key() (string, *modelKey) {
	key := rapid.SampledFrom(modelKeys).Draw(m.T, "key")
	return key, m.keys[key]
}

func (m *model) beginFill(*rapid.T) {
	key, k := m.key()
	k.token++
	b, err := m.node().Begin(m.test.Context(), key, cache.Filling{Token: k.token, TTL: time.Minute})
	require.NoError(m, err)
	if b.Outcome == cache.Filled {
		m.checkEntry(key, b.Entry)
		return
	}
	require.Equal(m, cache.Begun, b.Outcome)
	require.Zero(m, k.expected, "Begin does not see what is there")
	k.begun = true
	e := modelEntry{version: k.version, tags: m.tags(), began: m.now}
	m.fills = append(m.fills, modelFill{key: key, ticket: b.Ticket, modelEntry: e})
}

// disturb notes that what has been read of key so far must not be stored as fresh,
// and not at all after a hard purge.
func (m *model) disturb(key string, soft bool) {
	k := m.keys[key]
	k.begun = false
	k.expected = 0
	k.fresh = k.version
	if !soft {
		k.any = k.version
	}
	for _, w := range m.writes {
		if w.key == key {
			w.disturbed = w.disturbed || !soft
			w.softly = true
		}
	}
}

func (m *model) endFill(r *rapid.T) {
	if len(m.fills) == 0 {
		r.Skip()
	}
	i := rapid.IntRange(0, len(m.fills)-1).Draw(m.T, "fill")
	f := m.fills[i]
	m.fills = slices.Delete(m.fills, i, i+1)
	k := m.keys[f.key]
	stored, err := m.node().Fill(m.test.Context(), f.key, f.ticket, m.entry(f.modelEntry))
	require.NoError(m, err)
	purged := f.reached(m.hard) || f.reached(m.soft) // softly: it may be there, as a stale one
	require.False(m, stored && purged, "a fill of what was purged by its tag")
	if f.ticket.Token == k.token && k.begun {
		require.Equal(m, !purged, stored, "stored, as nothing but purges of tags has disturbed it")
		k.begun = false
		if stored && k.writes == 0 { // else it lives for a second
			k.expected, k.tags = f.version, f.tags
		}
	}
}

func (m *model) beginWrite(*rapid.T) {
	key, k := m.key()
	ticket, err := m.node().BeginWrite(m.test.Context(), key, time.Minute)
	require.NoError(m, err)
	k.begun = false
	k.writes++
	m.disturbWrites(key)
	m.writes = append(m.writes, &modelWrite{key: key, ticket: ticket, modelEntry: modelEntry{tags: m.tags(), began: m.now}})
}

func (m *model) disturbWrites(key string) {
	for _, w := range m.writes {
		if w.key == key {
			w.disturbed = true
		}
	}
}

func (m *model) write(r *rapid.T, which func(*modelWrite) bool) (int, *modelWrite) {
	var found []int
	for i, w := range m.writes {
		if which(w) {
			found = append(found, i)
		}
	}
	if len(found) == 0 {
		r.Skip()
	}
	i := rapid.SampledFrom(found).Draw(m.T, "write")
	return i, m.writes[i]
}

// commit is the moment at which a writer changes the source.
func (m *model) commit(r *rapid.T) {
	_, w := m.write(r, func(w *modelWrite) bool { return w.version == 0 })
	k := m.keys[w.key]
	k.version++
	w.version = k.version
	k.expected = 0 // what is there is old, until the write ends
}

func (m *model) endWrite(r *rapid.T) {
	i, w := m.write(r, func(w *modelWrite) bool { return w.version != 0 })
	m.writes = slices.Delete(m.writes, i, i+1)
	k := m.keys[w.key]
	node := m.node()
	stored, err := node.Write(m.test.Context(), w.key, w.ticket, m.entry(w.modelEntry))
	require.NoError(m, err)
	haveHeard(m.test, node, m.stores)
	w.disturbed = w.disturbed || w.reached(m.hard)
	w.softly = w.softly || w.reached(m.soft)
	if w.disturbed || !w.softly {
		require.Equal(m, !w.disturbed, stored, "stored")
	}
	k.writes--
	k.begun = false
	k.expected = 0
	k.fresh, k.any = max(k.fresh, w.version), max(k.any, w.version)
	if stored && !w.softly {
		k.expected, k.tags = w.version, w.tags
	}
	m.disturbWrites(w.key)
}

func (m *model) purge(*rapid.T) {
	p := cache.Purge{Soft: rapid.Bool().Draw(m.T, "soft")}
	var reached []string
	switch rapid.IntRange(0, 3).Draw(m.T, "what") {
	case 0:
		key, _ := m.key()
		p.Keys, reached = []string{key}, []string{key}
	case 1:
		prefix := rapid.SampledFrom([]string{"a", "ab", "b", "c"}).Draw(m.T, "prefix")
		p.Prefixes = []string{prefix}
		for _, key := range modelKeys {
			if strings.HasPrefix(key, prefix) {
				reached = append(reached, key)
			}
		}
	case 2:
		p.All, reached = true, modelKeys
	case 3:
		m.purgeTags(p)
		return
	}
	for _, key := range reached {
		m.keys[key].version++ // the change that is the reason
	}
	node := m.node()
	require.NoError(m, node.Purge(m.test.Context(), p))
	haveHeard(m.test, node, m.stores)
	for _, key := range reached {
		m.disturb(key, p.Soft)
		if !p.Soft {
			_, found, err := m.node().Get(m.test.Context(), key)
			require.NoError(m, err)
			require.False(m, found, "after a purge of %+v", p)
		}
	}
}

// purgeTags purges by a tag, which reaches what has it, or is going to.
func (m *model) purgeTags(p cache.Purge) {
	tag := rapid.SampledFrom(modelTags).Draw(m.T, "tag")
	p.Tags = []string{tag}
	node := m.node()
	require.NoError(m, node.Purge(m.test.Context(), p))
	haveHeard(m.test, node, m.stores)
	m.now++
	if p.Soft {
		m.soft[tag] = m.now
	} else {
		m.hard[tag] = m.now
	}
	for _, k := range m.keys {
		if slices.Contains(k.tags, tag) {
			k.expected = 0
		}
	}
}

// check holds every entry against the rules.
func (m *model) check(*rapid.T) {
	for _, key := range modelKeys {
		k := m.keys[key]
		for _, store := range m.stores {
			if peeked, ok := store.Peek(key); ok {
				m.checkEntry(key, peeked)
			}
			e, found, err := store.Get(m.test.Context(), key)
			require.NoError(m, err)
			if found {
				m.checkEntry(key, e)
			}
			if k.expected != 0 {
				require.True(m, found && e.TTL > 0, "what nothing has disturbed is there: %q", key)
			}
		}
	}
}

func (m *model) checkEntry(key string, found cache.Entry) {
	k := m.keys[key]
	var id int
	_, err := fmt.Sscan(string(found.Data), &id)
	require.NoError(m, err)
	e := m.entries[id]
	require.GreaterOrEqual(m, e.version, k.any, "%q", key)
	require.False(m, e.reached(m.hard), "%q was purged by its tag", key)
	if found.TTL > 0 {
		require.GreaterOrEqual(m, e.version, k.fresh, "%q is fresh", key)
		require.False(m, e.reached(m.soft), "%q is fresh, and was purged softly by its tag", key)
	}
}
