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
//   - what nothing has disturbed is there.

func TestStoresAgainstAModel(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	stores := map[string]func(t *testing.T) cache.Store{
		"memory": func(*testing.T) cache.Store { return cache.NewMemoryStore(nil) },
		"Redis": func(t *testing.T) cache.Store {
			return rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(t)})
		},
		"Redis, nothing in process": func(t *testing.T) cache.Store {
			return rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(t), TierBytes: -1})
		},
	}
	for name, newStore := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(r *rapid.T) {
				m := &model{T: r, test: t, store: newStore(t), keys: make(map[string]*modelKey)}
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
	begun    bool // a fill under token that nothing has disturbed
	writes   int  // under way
	expected int  // the version that must be there, if not zero
}

// modelFill is a fill that has begun.
type modelFill struct {
	key    string
	ticket cache.Ticket
	read   int
	tags   []string
}

type modelWrite struct {
	key       string
	ticket    cache.Ticket
	version   int  // that the source got from it; zero: not yet
	disturbed bool // by another write that began or ended since, or a hard purge
	softly    bool // by a soft purge
}

type model struct {
	*rapid.T
	test   *testing.T
	store  cache.Store
	keys   map[string]*modelKey
	fills  []modelFill
	writes []*modelWrite
}

func (m *model) key() (string, *modelKey) {
	key := rapid.SampledFrom(modelKeys).Draw(m.T, "key")
	return key, m.keys[key]
}

func (m *model) beginFill(*rapid.T) {
	key, k := m.key()
	k.token++
	b, err := m.store.Begin(m.test.Context(), key, cache.Filling{Token: k.token, TTL: time.Minute})
	require.NoError(m, err)
	if b.Outcome == cache.Filled {
		m.checkEntry(key, b.Entry)
		return
	}
	require.Equal(m, cache.Begun, b.Outcome)
	require.Zero(m, k.expected, "Begin does not see what is there")
	k.begun = true
	var tags []string
	for _, tag := range modelTags {
		if rapid.Bool().Draw(m.T, "tag "+tag) {
			tags = append(tags, tag)
		}
	}
	m.fills = append(m.fills, modelFill{key: key, ticket: b.Ticket, read: k.version, tags: tags})
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

func versioned(version int, tags []string) cache.Entry {
	return cache.Entry{Kind: cache.Value, Data: []byte(fmt.Sprint(version)), TTL: time.Minute, StaleFor: time.Minute, Tags: tags}
}

func (m *model) endFill(r *rapid.T) {
	if len(m.fills) == 0 {
		r.Skip()
	}
	i := rapid.IntRange(0, len(m.fills)-1).Draw(m.T, "fill")
	f := m.fills[i]
	m.fills = slices.Delete(m.fills, i, i+1)
	k := m.keys[f.key]
	stored, err := m.store.Fill(m.test.Context(), f.key, f.ticket, versioned(f.read, f.tags))
	require.NoError(m, err)
	if f.ticket.Token == k.token && k.begun {
		require.True(m, stored, "nothing has disturbed it")
		k.begun = false
		if k.writes == 0 { // else it lives for a second
			k.expected = f.read
		}
	}
}

func (m *model) beginWrite(*rapid.T) {
	key, k := m.key()
	ticket, err := m.store.BeginWrite(m.test.Context(), key, time.Minute)
	require.NoError(m, err)
	k.begun = false
	k.writes++
	m.disturbWrites(key)
	m.writes = append(m.writes, &modelWrite{key: key, ticket: ticket})
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
	stored, err := m.store.Write(m.test.Context(), w.key, w.ticket, versioned(w.version, nil))
	require.NoError(m, err)
	if w.disturbed || !w.softly {
		require.Equal(m, !w.disturbed, stored, "stored")
	}
	k.writes--
	k.begun = false
	k.expected = 0
	k.fresh, k.any = max(k.fresh, w.version), max(k.any, w.version)
	if stored && !w.softly {
		k.expected = w.version
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
	require.NoError(m, m.store.Purge(m.test.Context(), p))
	for _, key := range reached {
		m.disturb(key, p.Soft)
		if !p.Soft {
			_, found, err := m.store.Get(m.test.Context(), key)
			require.NoError(m, err)
			require.False(m, found, "after a purge of %+v", p)
		}
	}
}

// purgeTags purges by tags, which reach what has them, or is going to. The model
// only knows that of fills that are under way, and asks the store for the rest.
func (m *model) purgeTags(p cache.Purge) {
	tag := rapid.SampledFrom(modelTags).Draw(m.T, "tag")
	p.Tags = []string{tag}
	require.NoError(m, m.store.Purge(m.test.Context(), p))
	for key, k := range m.keys {
		k.expected = 0
		for _, f := range m.fills {
			if f.key == key && slices.Contains(f.tags, tag) && f.ticket.Token == k.token {
				k.begun = false
				stored, err := m.store.Fill(m.test.Context(), key, f.ticket, versioned(f.read, f.tags))
				require.NoError(m, err)
				if p.Soft {
					continue
				}
				require.False(m, stored, "a fill of what was purged by its tag")
			}
		}
	}
}

// check holds every entry against the rules.
func (m *model) check(*rapid.T) {
	for _, key := range modelKeys {
		k := m.keys[key]
		e, found, err := m.store.Get(m.test.Context(), key)
		require.NoError(m, err)
		if found {
			m.checkEntry(key, e)
		}
		if k.expected != 0 {
			require.True(m, found, "what nothing has disturbed is there: %q", key)
		}
		if peeked, ok := m.store.Peek(key); ok {
			m.checkEntry(key, peeked)
		}
	}
}

func (m *model) checkEntry(key string, e cache.Entry) {
	k := m.keys[key]
	var version int
	_, err := fmt.Sscan(string(e.Data), &version)
	require.NoError(m, err)
	require.GreaterOrEqual(m, version, k.any, "%q", key)
	if e.TTL > 0 {
		require.GreaterOrEqual(m, version, k.fresh, "%q is fresh", key)
	}
}
