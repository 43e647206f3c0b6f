// Package cachetest states the rules of cache.Store as tests. Every store of
// herdless passes them; run them on a store of your own.
package cachetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/cache"
)

// Run tests the stores that newStore makes. Each call must return a store that
// has nothing in it that another one has, and that accepts entries of 1 MiB.
// Rules about time wait for up to a second of real time.
func Run(t *testing.T, newStore func(t *testing.T) cache.Store) {
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			s := &suite{T: t, store: newStore(t), rule: r.rule, tickets: make(map[string]cache.Ticket)}
			r.test(s)
		})
	}
}

var rules = []struct {
	name string
	rule string
	test func(s *suite)
}{
	{"Miss", "a key that nothing was stored under is a miss, not an error", testMiss},
	{"FillIsRead", "what a filler stores is what Get returns, with the time it has left and its age", testFillIsRead},
	{"AnyBytes", "keys and data are any bytes: no two keys are ever mixed up", testAnyBytes},
	{"EntryEnds", "an entry whose time is over is not returned", testEntryEnds},
	{"NoTTLNoEntry", "an entry without a TTL is not stored, but ends the fill and wakes the watchers", testNoTTL},
	{"BeginFindsEntry", "Begin answers Filled with a fresh entry instead of beginning", testBeginFinds},
	{"LargerTokenWins", "of several fills only the one with the largest token is stored", testLargerTokenWins},
	{"TokensAreExact", "tokens are compared exactly over the whole range of uint64", testTokensAreExact},
	{"BeginTwice", "beginning the same fill twice is beginning it once: a command may be repeated", testBeginTwice},
	{"PurgeBeatsFill", "a fill that began before a purge is never stored", testPurgeBeatsFill},
	{"FillWithoutBegin", "a fill that was not begun, or was forgotten, is not stored", testFillWithoutBegin},
	{"FillOnce", "a fill is stored once", testFillOnce},
	{"WatchersWake", "watchers are woken by each fill, stored or refused, and each purge of their key", testWatchersWake},
	{"LeaseNames", "lease names differ from key to key, stay the same, and are short", testLeaseNames},
	{"EndedContext", "a context that has ended is an error, and nothing is done", testEndedContext},
	{"OneWinner", "of concurrent fillers exactly one stores", testOneWinner},
	{"Stale", "an entry is returned as a stale one for as long as it is kept", testStale},
	{"StaleIsNoObstacle", "Begin does not answer with a stale entry", testStaleIsNoObstacle},
	{"Seen", "Begin does not answer with the entry that the filler has seen, and does with any other fresh one", testSeen},
	{"NoTTLReplacesNothing", "a fill without a TTL leaves the entry that there is", testNoTTLReplacesNothing},
	{"GetMany", "GetMany returns for each key what Get does, in their order", testGetMany},
	{"Peek", "Peek returns nothing but what Get would, and nothing that was purged through the same store", testPeek},
	{"Handle", "an entry's Handle finds what Peek finds, and nothing that was purged through the same store, replaced, or is over", testHandle},
	{"PurgeTag", "a purge of a tag reaches exactly the entries with it, and their fills that had begun", testPurgeTag},
	{"PurgePrefix", "a purge of a prefix reaches exactly the keys that begin with it, and their fills that had begun", testPurgePrefix},
	{"PurgeAll", "a purge of everything reaches every entry, and every fill that had begun", testPurgeAll},
	{"PurgeSoft", "a soft purge leaves stale entries, not to be kept longer than before", testPurgeSoft},
	{"SoftPurgeEndsFill", "a fill that began before a soft purge of its key is never fresh afterwards", testSoftPurgeEndsFill},
	{"TooManyTags", "an entry with more than 1,000 tags is an error", testTooManyTags},
	{"WriteReplaces", "a write replaces the entry, and ends the fills that began before it ended", testWriteReplaces},
	{"WriteFails", "a write without a value removes the entry", testWriteFails},
	{"WritesOverlap", "of writes that overlap none stays", testWritesOverlap},
	{"WriteAfterPurge", "a write that a purge overtakes is not stored", testWriteAfterPurge},
	{"FillWhileWritten", "what is filled while a write is under way lives for a second at most", testFillWhileWritten},
	{"Stands", "of a Listener a fill stands until a purge or a write reaches it, or it ends", testStands},
	{"Bodies", "a body is read as it was written, as long as its entry is there; of one that is not complete nothing is taken for whole", testBodies},
}

// suite is one rule on one store.
type suite struct {
	*testing.T
	store cache.Store
	rule  string

	mu      sync.Mutex
	tickets map[string]cache.Ticket
	tokens  atomic.Uint64
}

// broken fails the test with the rule that does not hold.
func (s *suite) broken(format string, args ...any) {
	s.Helper()
	s.Fatalf("broken rule: %s\n%s", s.rule, fmt.Sprintf(format, args...))
}

func (s *suite) ok(err error) {
	s.Helper()
	if err != nil {
		s.broken("unexpected error: %v", err)
	}
}

func (s *suite) get(key string) (cache.Entry, bool) {
	s.Helper()
	e, ok, err := s.store.Get(s.Context(), key)
	s.ok(err)
	return e, ok
}

func (s *suite) wantMiss(key string) {
	s.Helper()
	if e, ok := s.get(key); ok {
		s.broken("Get(%.40q) = %v %.40q, want a miss", key, e.Kind, e.Data)
	}
}

func (s *suite) wantData(key, data string) cache.Entry {
	s.Helper()
	e, ok := s.get(key)
	if !ok || string(e.Data) != data {
		s.broken("Get(%.40q) = %.40q, %v, want %.40q", key, e.Data, ok, data)
	}
	return e
}

func (s *suite) begin(key string, token uint64, want cache.BeginOutcome) cache.Beginning {
	s.Helper()
	b, err := s.store.Begin(s.Context(), key, cache.Filling{Token: token, TTL: time.Minute})
	s.ok(err)
	if b.Outcome != want {
		s.broken("Begin(%.40q, %d) = %d, want %d", key, token, b.Outcome, want)
	}
	if b.Outcome == cache.Begun {
		if b.Ticket.Token != token {
			s.broken("Begin(%.40q, %d) returned a ticket for %d", key, token, b.Ticket.Token)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.tickets[key+"/"+fmt.Sprint(token)] = b.Ticket
	}
	return b
}

// ticket returns that of the fill of key that was begun last under token.
func (s *suite) ticket(key string, token uint64) cache.Ticket {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t, ok := s.tickets[key+"/"+fmt.Sprint(token)]; ok {
		return t
	}
	return cache.Ticket{Token: token}
}

func (s *suite) fill(key string, token uint64, data string, want bool) {
	s.Helper()
	s.fillWith(key, token, value(data), want)
}

func (s *suite) fillWith(key string, token uint64, e cache.Entry, want bool) {
	s.Helper()
	stored, err := s.store.Fill(s.Context(), key, s.ticket(key, token), e)
	s.ok(err)
	if stored != want {
		s.broken("Fill(%.40q, %d) = %v, want %v", key, token, stored, want)
	}
}

// put begins and ends a fill.
func (s *suite) put(key string, e cache.Entry) {
	s.Helper()
	token := s.tokens.Add(1)
	s.begin(key, token, cache.Begun)
	s.fillWith(key, token, e, true)
}

func (s *suite) purge(p cache.Purge) {
	s.Helper()
	s.ok(s.store.Purge(s.Context(), p))
}

func (s *suite) watch(key string) <-chan struct{} {
	s.Helper()
	changed, stop, err := s.store.Watch(s.Context(), key)
	s.ok(err)
	s.Cleanup(stop)
	s.Cleanup(stop) // may be called more than once
	return changed
}

func (s *suite) wantWake(changed <-chan struct{}) {
	s.Helper()
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		s.broken("not woken within 10 s")
	}
}

func value(data string) cache.Entry {
	return cache.Entry{Kind: cache.Value, Data: []byte(data), TTL: time.Minute}
}

func testMiss(s *suite) { s.wantMiss("nothing") }

func testFillIsRead(s *suite) {
	for i, kind := range []cache.Kind{cache.Value, cache.Uncacheable, cache.Negative} {
		key := fmt.Sprint("key", i)
		s.begin(key, 1, cache.Begun)
		s.fillWith(key, 1, cache.Entry{Kind: kind, Data: []byte("data"), TTL: time.Minute, StaleFor: time.Hour, Cost: 3 * time.Second, Schema: 7, Age: time.Hour}, true)
		e := s.wantData(key, "data")
		if e.Kind != kind || e.Cost != 3*time.Second || e.Schema != 7 || e.Version == 0 {
			s.broken("it was stored as %+v", e)
		}
		if e.StaleFor < time.Hour-time.Minute || e.StaleFor > time.Hour+time.Second {
			s.broken("StaleFor = %v, want about an hour", e.StaleFor)
		}
		if e.TTL <= 50*time.Second || e.TTL > time.Minute || e.Age < 0 || e.Age > 10*time.Second {
			s.broken("TTL = %v, Age = %v just after it was stored for a minute", e.TTL, e.Age)
		}
	}
}

func testAnyBytes(s *suite) {
	keys := []string{
		"a", "A", "a ", " a", "a{b}", "{a}b", "{}", "}{", "a:fill", "a\x00", "a\x00b", "a\r\nSET x y\r\n", "ä", "a\u0308",
		"\xff\xfe", strings.Repeat("k", 100_000), strings.Repeat("k", 100_001),
	}
	for i, key := range keys {
		s.begin(key, 1, cache.Begun)
		s.fill(key, 1, fmt.Sprint("data of ", i), true)
	}
	for i, key := range keys {
		s.wantData(key, fmt.Sprint("data of ", i))
	}
	for i, data := range []string{"", "\x00", "\r\n$-1\r\n", strings.Repeat("\xff", 1<<20)} {
		key := fmt.Sprint("bytes", i)
		s.begin(key, 1, cache.Begun)
		s.fill(key, 1, data, true)
		s.wantData(key, data)
	}
}

// clockStep is how coarse a store's clock may be.
const clockStep = 2 * time.Millisecond

func testEntryEnds(s *suite) {
	const ttl = 60 * time.Millisecond
	s.begin("key", 1, cache.Begun)
	before := time.Now()
	s.fillWith("key", 1, cache.Entry{Kind: cache.Value, Data: []byte("data"), TTL: ttl}, true)
	for {
		_, found := s.get("key")
		switch past := time.Since(before); {
		case !found && past < ttl-clockStep:
			s.broken("gone after %v, want %v", past, ttl)
		case !found:
			s.begin("key", 2, cache.Begun)
			return
		case past > 10*time.Second:
			s.broken("still there after %v, want %v", past, ttl)
		}
	}
}

func testNoTTL(s *suite) {
	s.begin("key", 1, cache.Begun)
	changed := s.watch("key")
	for _, ttl := range []time.Duration{0, -time.Second} {
		s.fillWith("key", 1, cache.Entry{Kind: cache.Value, Data: []byte("x"), TTL: ttl}, false)
	}
	s.wantWake(changed)
	s.wantMiss("key")
	s.fill("key", 1, "late", false)
}

func testBeginFinds(s *suite) {
	s.begin("key", 1, cache.Begun)
	s.fill("key", 1, "data", true)
	b := s.begin("key", 2, cache.Filled)
	if string(b.Entry.Data) != "data" || b.Entry.TTL <= 0 || b.Entry.Kind != cache.Value {
		s.broken("Begin returned the entry %+v", b.Entry)
	}
	s.fill("key", 2, "never begun", false)
	s.wantData("key", "data")
}

func testLargerTokenWins(s *suite) {
	s.begin("key", 5, cache.Begun)
	s.begin("key", 4, cache.Overtaken)
	s.begin("key", 10, cache.Begun)
	s.begin("key", 9, cache.Overtaken)
	s.fill("key", 5, "overtaken", false)
	s.wantMiss("key")
	s.fill("key", 10, "data", true)
	s.fill("key", 5, "overtaken", false)
	s.wantData("key", "data")
}

func testTokensAreExact(s *suite) {
	tokens := []uint64{1, 9, 10, 1<<53 - 1, 1 << 53, 1<<53 + 1, 1 << 63, 1<<63 + 1, 1<<64 - 1}
	for i, token := range tokens {
		s.begin("key", token, cache.Begun)
		if i > 0 {
			s.begin("key", tokens[i-1], cache.Overtaken)
			s.fill("key", tokens[i-1], "overtaken", false)
		}
	}
	s.fill("key", 1<<64-1, "data", true)
}

func testBeginTwice(s *suite) {
	s.begin("key", 5, cache.Begun)
	s.begin("key", 5, cache.Begun)
	s.fill("key", 5, "data", true)
	s.fill("key", 5, "again", false)
	s.wantData("key", "data")
}

func testPurgeBeatsFill(s *suite) {
	s.begin("key", 1, cache.Begun)
	s.purge(cache.Purge{Keys: []string{"key"}})
	s.fill("key", 1, "computed before the purge", false)
	s.wantMiss("key")

	s.begin("key", 2, cache.Begun)
	s.fill("key", 2, "data", true)
	s.purge(cache.Purge{Keys: []string{"key"}})
	s.wantMiss("key")
	s.purge(cache.Purge{Keys: []string{"key"}}) // of nothing

	s.begin("key", 3, cache.Begun)
	s.purge(cache.Purge{Keys: []string{"another key"}})
	s.fill("key", 3, "data", true)
}

func testFillWithoutBegin(s *suite) {
	s.fill("key", 1, "never begun", false)
	s.wantMiss("key")

	b, err := s.store.Begin(s.Context(), "key", cache.Filling{Token: 1, TTL: time.Millisecond})
	s.ok(err)
	if b.Outcome != cache.Begun {
		s.broken("Begin = %d", b.Outcome)
	}
	time.Sleep(20 * time.Millisecond) // a store's own clock decides: nothing to wait on but time
	stored, err := s.store.Fill(s.Context(), "key", b.Ticket, value("forgotten"))
	s.ok(err)
	if stored {
		s.broken("Fill of a forgotten fill = true")
	}
	s.wantMiss("key")
}

func testFillOnce(s *suite) {
	s.begin("key", 1, cache.Begun)
	s.fill("key", 1, "data", true)
	s.fill("key", 1, "again", false)
	s.wantData("key", "data")
}

func testWatchersWake(s *suite) {
	first, second, other := s.watch("key"), s.watch("key"), s.watch("other")
	s.begin("key", 1, cache.Begun)
	s.fill("key", 1, "data", true)
	s.wantWake(first)
	s.wantWake(second)
	s.purge(cache.Purge{Keys: []string{"key"}})
	s.wantWake(first)
	s.wantWake(second)
	s.fill("key", 1, "refused", false)
	s.wantWake(first)
	s.wantWake(second)
	if len(other) > 0 {
		s.broken("a watcher of another key was woken")
	}

	changed, stop, err := s.store.Watch(s.Context(), "key")
	s.ok(err)
	stop()
	stop()
	s.purge(cache.Purge{Keys: []string{"key"}})
	s.wantWake(first)
	if len(changed) > 0 {
		s.broken("woken after stop")
	}
}

func testLeaseNames(s *suite) {
	keys := map[string]string{}
	for _, key := range []string{"", "a", "b", "{a}", "a\x00", strings.Repeat("k", 100_000)} {
		name := s.store.LeaseName(key)
		if len(name) == 0 || len(name) > 200 || name != s.store.LeaseName(key) {
			s.broken("LeaseName(%.40q) = %.300q", key, name)
		}
		if other, ok := keys[name]; ok {
			s.broken("%.40q and %.40q have the same lease name %q", key, other, name)
		}
		keys[name] = key
	}
}

func testEndedContext(s *suite) {
	ended, cancel := context.WithCancel(s.Context())
	s.begin("key", 1, cache.Begun)
	s.fill("key", 1, "data", true)
	s.begin("begun", 1, cache.Begun)
	cancel()
	_, _, getErr := s.store.Get(ended, "key")
	_, manyErr := s.store.GetMany(ended, []string{"key"})
	_, beginErr := s.store.Begin(ended, "new", cache.Filling{Token: 1, TTL: time.Minute})
	_, fillErr := s.store.Fill(ended, "begun", s.ticket("begun", 1), value("data"))
	_, beginWriteErr := s.store.BeginWrite(ended, "key", time.Minute)
	_, writeErr := s.store.Write(ended, "key", cache.Ticket{}, value("data"))
	_, _, watchErr := s.store.Watch(ended, "key")
	for step, err := range map[string]error{
		"Get": getErr, "GetMany": manyErr, "BeginWrite": beginWriteErr, "Write": writeErr, "Begin": beginErr, "Fill": fillErr, "Watch": watchErr, "Purge": s.store.Purge(ended, cache.Purge{Keys: []string{"key"}}),
	} {
		if !errors.Is(err, context.Canceled) {
			s.broken("%s with an ended context: error %v, want one that is context.Canceled", step, err)
		}
	}
	s.wantData("key", "data")
	s.wantMiss("begun")
}

func testOneWinner(s *suite) {
	const fillers = 32
	var stored atomic.Int32
	var wg sync.WaitGroup
	for i := range fillers {
		wg.Go(func() {
			token := uint64(i + 1)
			b, err := s.store.Begin(s.Context(), "key", cache.Filling{Token: token, TTL: time.Minute})
			if err != nil {
				s.Error(err)
				return
			}
			if b.Outcome != cache.Begun {
				return
			}
			ok, err := s.store.Fill(s.Context(), "key", b.Ticket, value(fmt.Sprint(token)))
			if err != nil {
				s.Error(err)
			}
			if ok {
				stored.Add(1)
			}
		})
	}
	wg.Wait()
	if stored.Load() != 1 {
		s.broken("%d of %d concurrent fillers stored", stored.Load(), fillers)
	}
	if e, ok := s.get("key"); !ok || len(e.Data) == 0 {
		s.broken("nothing is stored")
	}
}

func testStale(s *suite) {
	s.put("key", cache.Entry{Kind: cache.Value, Data: []byte("data"), TTL: 20 * time.Millisecond, StaleFor: time.Minute})
	s.put("short", cache.Entry{Kind: cache.Value, Data: []byte("data"), TTL: 20 * time.Millisecond, StaleFor: 20 * time.Millisecond})
	time.Sleep(100 * time.Millisecond) // only time makes it stale
	e := s.wantData("key", "data")
	if e.TTL > -clockStep || e.TTL < -10*time.Second {
		s.broken("TTL = %v after about 80 ms of being stale", e.TTL)
	}
	if sum := e.TTL + e.StaleFor; sum > time.Minute || sum < 50*time.Second {
		s.broken("it says that it is kept for another %v, want just less than a minute", sum)
	}
	s.wantMiss("short")
}

// stale puts an entry that is stale from the beginning, or nearly so.
func (s *suite) stale(key string) cache.Entry {
	s.Helper()
	s.put(key, cache.Entry{Kind: cache.Value, Data: []byte("stale"), TTL: time.Millisecond, StaleFor: time.Minute})
	for {
		if e := s.wantData(key, "stale"); e.TTL <= 0 {
			return e
		}
		time.Sleep(time.Millisecond)
	}
}

func testStaleIsNoObstacle(s *suite) {
	s.stale("key")
	s.put("key", value("new"))
	s.wantData("key", "new")
}

func testSeen(s *suite) {
	s.put("key", value("first"))
	seen := s.wantData("key", "first").Version
	again := func(token uint64) cache.Beginning {
		b, err := s.store.Begin(s.Context(), "key", cache.Filling{Token: token, TTL: time.Minute, Seen: seen})
		s.ok(err)
		return b
	}
	b := again(100)
	if b.Outcome != cache.Begun {
		s.broken("Begin = %d, want Begun", b.Outcome)
	}
	if stored, err := s.store.Fill(s.Context(), "key", b.Ticket, value("second")); err != nil || !stored {
		s.broken("Fill = %v, %v", stored, err)
	}
	if b := again(101); b.Outcome != cache.Filled || string(b.Entry.Data) != "second" {
		s.broken("Begin = %d %q, want the second entry", b.Outcome, b.Entry.Data)
	}
	if e := s.wantData("key", "second"); e.Version == seen {
		s.broken("two entries have the version %d", seen)
	}
}

func testNoTTLReplacesNothing(s *suite) {
	s.stale("key")
	s.begin("key", 100, cache.Begun)
	s.fillWith("key", 100, cache.Entry{Kind: cache.Value}, false)
	s.wantData("key", "stale")
}

func testGetMany(s *suite) {
	s.put("a", value("data of a"))
	s.put("b", value("data of b"))
	s.put("purged", value("data"))
	s.purge(cache.Purge{Keys: []string{"purged"}})
	for _, keys := range [][]string{nil, {"nothing"}, {"b", "nothing", "a", "purged", "b"}} {
		entries, err := s.store.GetMany(s.Context(), keys)
		s.ok(err)
		if len(entries) != len(keys) {
			s.broken("%d entries for %d keys", len(entries), len(keys))
		}
		for i, key := range keys {
			want := map[string]string{"a": "data of a", "b": "data of b"}[key]
			if string(entries[i].Data) != want || (entries[i].Kind != 0) != (want != "") {
				s.broken("the entry of %q is %+v", key, entries[i])
			}
		}
	}
}

func testPeek(s *suite) {
	if _, ok := s.store.Peek("key"); ok {
		s.broken("Peek of nothing = true")
	}
	for i, p := range []cache.Purge{{Keys: []string{"key"}}, {Tags: []string{"tag"}}, {Prefixes: []string{"k"}}, {All: true}} {
		data := fmt.Sprint("data ", i)
		e := value(data)
		e.Tags = []string{"tag"}
		s.put("key", e)
		s.wantData("key", data) // from now on it may be at hand
		if e, ok := s.store.Peek("key"); ok && string(e.Data) != data {
			s.broken("Peek = %q, want %q", e.Data, data)
		}
		s.purge(p)
		if e, ok := s.store.Peek("key"); ok {
			s.broken("Peek = %q after a purge of %+v", e.Data, p)
		}
	}
}

func testHandle(s *suite) {
	// handle returns that of the entry under key, or nil if there is none at hand.
	handle := func(key, data string) cache.Handle {
		s.wantData(key, data)
		e, ok := s.store.Peek(key)
		if !ok || e.Handle == nil {
			return nil
		}
		found, age, ttl, ok := e.Handle.Peek()
		switch {
		case !ok:
			return nil // it is not at hand any more
		case string(found.Data) != data || found.Version != e.Version || found.Kind != e.Kind || found.Local != e.Local || found.Memo != e.Memo:
			s.broken("it finds %+v, Peek %+v", found, e)
		case age < e.Age || age > e.Age+time.Second || ttl > e.TTL || ttl < e.TTL-time.Second:
			s.broken("it says that the age is %v and the TTL %v, Peek %v and %v", age, ttl, e.Age, e.TTL)
		}
		return e.Handle
	}
	gone := func(h cache.Handle, after any) {
		if h == nil {
			return
		}
		if e, _, _, ok := h.Peek(); ok {
			s.broken("it finds %q after %+v", e.Data, after)
		}
	}
	for i, p := range []cache.Purge{{Keys: []string{"key"}}, {Tags: []string{"tag"}}, {Prefixes: []string{"k"}}, {All: true}} {
		e := tagged(fmt.Sprint("data ", i), "tag")
		e.StaleFor = time.Minute
		s.put("key", e)
		h := handle("key", string(e.Data))
		soft := p
		soft.Soft = true
		s.purge(soft)
		if h != nil {
			if _, _, ttl, ok := h.Peek(); ok && ttl > 0 {
				s.broken("it finds a fresh entry after a purge of %+v", soft)
			}
		}
		stale := handle("key", string(e.Data))
		s.purge(p)
		gone(h, p)
		gone(stale, p)
		s.put("key", value("new"))
		gone(h, "a fill that followed")
		gone(stale, "a fill that followed")
		s.purge(cache.Purge{Keys: []string{"key"}})
	}

	s.put("key", value("old"))
	h := handle("key", "old")
	w, err := s.store.BeginWrite(s.Context(), "key", time.Minute)
	s.ok(err)
	_, err = s.store.Write(s.Context(), "key", w, value("written"))
	s.ok(err)
	gone(h, "a write")
	handle("key", "written")

	e := value("short")
	e.TTL = 50 * time.Millisecond
	s.put("short", e)
	if e, ok := s.store.Peek("short"); ok && e.Handle != nil {
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if _, _, _, ok := e.Handle.Peek(); !ok {
				break
			}
		}
		gone(e.Handle, "its time")
	}
}

func tagged(data string, tags ...string) cache.Entry {
	e := value(data)
	e.Tags = tags
	return e
}

func testPurgeTag(s *suite) {
	s.put("a", tagged("a", "one", "two"))
	s.put("b", tagged("b", "two"))
	s.put("c", tagged("c", "ONE", "on", "one "))
	s.begin("begun", 100, cache.Begun)
	s.begin("untagged", 100, cache.Begun)
	s.purge(cache.Purge{Tags: []string{"one", "unused"}})
	s.wantMiss("a")
	s.wantData("b", "b")
	s.wantData("c", "c")
	stored, err := s.store.Fill(s.Context(), "begun", s.ticket("begun", 100), tagged("old", "one"))
	s.ok(err)
	if stored {
		s.broken("a fill that began before the purge was stored")
	}
	s.wantMiss("begun")
	s.fill("untagged", 100, "data", true)
	s.wantData("untagged", "data")
	s.put("a", tagged("new", "one"))
	s.wantData("a", "new")
	s.purge(cache.Purge{Tags: []string{"two"}})
	s.wantMiss("b")
	s.wantData("a", "new")
}

func testPurgePrefix(s *suite) {
	for _, key := range []string{"a", "ab", "abc", "b", ""} {
		s.put(key, value("data"))
	}
	s.begin("abd", 100, cache.Begun)
	s.purge(cache.Purge{Prefixes: []string{"ab", "longer than every key"}})
	for _, key := range []string{"ab", "abc"} {
		s.wantMiss(key)
	}
	for _, key := range []string{"a", "b", ""} {
		s.wantData(key, "data")
	}
	s.fill("abd", 100, "old", false)
	s.wantMiss("abd")
	s.put("abc", value("new"))
	s.wantData("abc", "new")
	s.purge(cache.Purge{Prefixes: []string{""}})
	s.wantMiss("b")
	s.wantMiss("")
}

func testPurgeAll(s *suite) {
	s.put("a", value("data"))
	s.put("b", tagged("data", "tag"))
	s.begin("begun", 100, cache.Begun)
	s.purge(cache.Purge{All: true})
	s.wantMiss("a")
	s.wantMiss("b")
	s.fill("begun", 100, "old", false)
	s.wantMiss("begun")
	s.put("a", value("new"))
	s.wantData("a", "new")
}

func testPurgeSoft(s *suite) {
	for i, p := range []cache.Purge{{Keys: []string{"key"}}, {Tags: []string{"tag"}}, {Prefixes: []string{"k"}}, {All: true}} {
		p.Soft = true
		e := tagged(fmt.Sprint("data ", i), "tag")
		e.StaleFor = time.Minute
		s.put("key", e)
		fresh := s.wantData("key", string(e.Data))
		if fresh.TTL <= 0 {
			s.broken("TTL = %v before the purge", fresh.TTL)
		}
		s.purge(p)
		stale := s.wantData("key", string(e.Data))
		if stale.TTL > 0 {
			s.broken("TTL = %v after a purge of %+v", stale.TTL, p)
		}
		if left := stale.TTL + stale.StaleFor; left > fresh.TTL+fresh.StaleFor+time.Second || left < time.Minute {
			s.broken("it is kept for another %v, before the purge it was %v", left, fresh.TTL+fresh.StaleFor)
		}
		if e, ok := s.store.Peek("key"); ok && e.TTL > 0 {
			s.broken("Peek says it is fresh after a purge of %+v", p)
		}
		p.Soft = false
		s.purge(p)
		s.wantMiss("key")
	}
	s.purge(cache.Purge{Keys: []string{"nothing"}, Soft: true})
	s.wantMiss("nothing")
}

func testSoftPurgeEndsFill(s *suite) {
	for i, p := range []cache.Purge{{Keys: []string{"key"}}, {Tags: []string{"tag"}}, {Prefixes: []string{"k"}}, {All: true}} {
		p.Soft = true
		token := uint64(100 + i)
		s.begin("key", token, cache.Begun)
		s.purge(p)
		e := tagged("old", "tag")
		e.StaleFor = time.Minute
		stored, err := s.store.Fill(s.Context(), "key", s.ticket("key", token), e)
		s.ok(err)
		if stored {
			s.broken("after a purge of %+v Fill says that what had begun before is stored, as if it were fresh", p)
		}
		if e, ok := s.get("key"); ok && e.TTL > 0 {
			s.broken("after a purge of %+v TTL = %v", p, e.TTL)
		}
		s.purge(cache.Purge{Keys: []string{"key"}})
	}
}

func testTooManyTags(s *suite) {
	s.begin("key", 1, cache.Begun)
	tags := make([]string, 1_001)
	for i := range tags {
		tags[i] = fmt.Sprint(i)
	}
	if _, err := s.store.Fill(s.Context(), "key", s.ticket("key", 1), tagged("data", tags...)); err == nil {
		s.broken("Fill with %d tags: no error", len(tags))
	}
	s.put("most", tagged("data", tags[:1_000]...))
	s.purge(cache.Purge{Tags: []string{"999"}})
	s.wantMiss("most")
}

func (s *suite) beginWrite(key string) cache.Ticket {
	s.Helper()
	t, err := s.store.BeginWrite(s.Context(), key, time.Minute)
	s.ok(err)
	return t
}

func (s *suite) write(key string, t cache.Ticket, e cache.Entry, want bool) {
	s.Helper()
	stored, err := s.store.Write(s.Context(), key, t, e)
	s.ok(err)
	if stored != want {
		s.broken("Write(%q) = %v, want %v", key, stored, want)
	}
}

func testWriteReplaces(s *suite) {
	s.put("key", value("old"))
	changed := s.watch("key")
	s.write("key", s.beginWrite("key"), value("new"), true)
	s.wantWake(changed)
	s.wantData("key", "new")

	s.begin("other", 100, cache.Begun)
	t := s.beginWrite("other")
	s.fill("other", 100, "loaded before", false)
	s.begin("other", 101, cache.Begun)
	s.write("other", t, value("new"), true)
	s.fill("other", 101, "loaded before", false)
	s.wantData("other", "new")
}

func testWriteFails(s *suite) {
	s.put("key", value("old"))
	t := s.beginWrite("key")
	s.wantData("key", "old") // the source may still have it
	s.write("key", t, cache.Entry{}, false)
	s.wantMiss("key")
	s.put("key", value("new"))
	s.wantData("key", "new")
}

func testWritesOverlap(s *suite) {
	s.put("key", value("old"))
	first := s.beginWrite("key")
	second := s.beginWrite("key")
	s.write("key", first, value("first"), false)
	s.wantMiss("key")
	third := s.beginWrite("key")
	s.write("key", second, value("second"), false)
	s.write("key", third, value("third"), false)
	s.wantMiss("key")
	s.write("key", s.beginWrite("key"), value("alone"), true)
	s.wantData("key", "alone")
	s.write("other", s.beginWrite("other"), value("one after"), true)
	s.write("other", s.beginWrite("other"), value("the other"), true)
	s.wantData("other", "the other")
}

func testWriteAfterPurge(s *suite) {
	for _, p := range []cache.Purge{{Keys: []string{"key"}}, {Tags: []string{"tag"}}, {Prefixes: []string{"k"}}, {All: true}, {Keys: []string{"key"}, Soft: true}} {
		t := s.beginWrite("key")
		s.purge(p)
		_, err := s.store.Write(s.Context(), "key", t, tagged("written before", "tag"))
		s.ok(err)
		s.wantMiss("key")
	}
	s.write("key", s.beginWrite("key"), value("new"), true)
	s.wantData("key", "new")
}

func testFillWhileWritten(s *suite) {
	t := s.beginWrite("key")
	s.begin("key", 100, cache.Begun)
	s.fill("key", 100, "perhaps old", true)
	if e := s.wantData("key", "perhaps old"); e.TTL > time.Second || e.TTL+e.StaleFor > time.Second {
		s.broken("it lives for %v and %v", e.TTL, e.StaleFor)
	}
	s.write("key", t, value("new"), true)
	if e := s.wantData("key", "new"); e.TTL < 10*time.Second {
		s.broken("what was written lives for %v", e.TTL)
	}
	s.purge(cache.Purge{Keys: []string{"key"}})
	s.put("key", value("loaded afterwards"))
	if e := s.wantData("key", "loaded afterwards"); e.TTL < 10*time.Second {
		s.broken("what was loaded after the write lives for %v", e.TTL)
	}
}

func testStands(s *suite) {
	store, ok := s.store.(cache.Listener)
	if !ok {
		return // it is not one
	}
	stands := func(key string, want bool, after any, tags ...string) {
		s.Helper()
		if got := store.Stands(key, s.ticket(key, 1), tags); got != want {
			s.broken("after %+v Stands(%q, %q) = %v, want %v", after, key, tags, got, want)
		}
	}
	for i, p := range []cache.Purge{{Keys: []string{"other"}}, {Tags: []string{"other"}}, {Prefixes: []string{"other"}}} {
		key := fmt.Sprint("key", i)
		s.begin(key, 1, cache.Begun)
		stands(key, true, "its beginning", "tag")
		s.purge(p)
		stands(key, true, p, "tag")
		s.fill(key, 1, "data", true)
		stands(key, false, "its end", "tag")
	}
	for i, p := range []cache.Purge{{Tags: []string{"tag"}}, {Prefixes: []string{"gone"}}, {All: true}, {}} {
		for _, soft := range []bool{true, false} {
			key := fmt.Sprint("gone", i, soft)
			if p.Soft = soft; i == 3 {
				p.Keys = []string{key}
			}
			s.purge(p)
			s.begin(key, 1, cache.Begun)
			stands(key, true, "a purge before it", "tag")
			s.purge(p)
			stands(key, false, p, "tag")
		}
	}
	s.begin("written", 1, cache.Begun)
	s.write("written", s.beginWrite("written"), value("new"), true)
	stands("written", false, "a write")
}

func testBodies(s *suite) {
	store, ok := s.store.(cache.BodyStore)
	if !ok {
		return // it is not one
	}
	read := func(key string, b cache.Body) (string, error) {
		r, err := store.OpenBody(s.Context(), key, b)
		if err != nil {
			return "", err
		}
		defer r.Close()
		data, err := io.ReadAll(r)
		return string(data), err
	}
	for i, size := range []int{0, 1, 1 << 10, 1<<20 - 1, 1 << 20, 3<<20 + 1} {
		key := fmt.Sprint("key", i)
		want := strings.Repeat(fmt.Sprint(i), size)[:size]
		w, err := store.CreateBody(s.Context(), key, time.Minute)
		s.ok(err)
		for rest := want; len(rest) > 0; {
			n, err := io.WriteString(w, rest[:min(len(rest), 100_000)])
			s.ok(err)
			rest = rest[n:]
		}
		body, err := w.Finish()
		s.ok(err)
		if body.ID == "" || body.Size != int64(size) {
			s.broken("Finish = %+v after %d bytes", body, size)
		}
		e := value("head")
		e.Body = body
		s.put(key, e)
		got := s.wantData(key, "head").Body
		if got != body {
			s.broken("the entry has the body %+v, want %+v", got, body)
		}
		if data, err := read(key, got); err != nil || data != want {
			s.broken("%d bytes were read of %d, equal: %v, error: %v", len(data), size, data == want, err)
		}
	}
	if _, err := read("key1", cache.Body{ID: "made up", Size: 10}); err == nil {
		s.broken("a body that was made up could be read")
	}
	s.seekBody(store)
	w, err := store.CreateBody(s.Context(), "aborted", time.Minute)
	s.ok(err)
	_, err = io.WriteString(w, "half")
	s.ok(err)
	w.Abort()
	if _, err := w.Finish(); err == nil {
		s.broken("Finish after Abort: no error")
	}
}

// seekBody reads parts of a body, if what reads it can seek.
func (s *suite) seekBody(store cache.BodyStore) {
	const size = 3<<20 + 7
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i>>16) ^ byte(i*7)
	}
	w, err := store.CreateBody(s.Context(), "long", time.Minute)
	s.ok(err)
	_, err = w.Write(data)
	s.ok(err)
	body, err := w.Finish()
	s.ok(err)
	e := value("head")
	e.Body = body
	s.put("long", e)
	r, err := store.OpenBody(s.Context(), "long", body)
	s.ok(err)
	defer r.Close()
	seeker, ok := r.(io.Seeker)
	if !ok {
		return
	}
	for _, step := range []struct {
		offset int64
		whence int
		at     int64 // where that is
		read   int64
	}{
		{0, io.SeekEnd, size, 0},
		{-10, io.SeekEnd, size - 10, 10},
		{1<<20 + 1, io.SeekStart, 1<<20 + 1, 100},
		{50, io.SeekCurrent, 1<<20 + 151, 1 << 20}, // over the ends of chunks
		{-1 << 20, io.SeekCurrent, 1<<20 + 151, 5},
		{0, io.SeekCurrent, 1<<20 + 156, 1},
		{1 << 18, io.SeekStart, 1 << 18, 1 << 18},
		{size + 10, io.SeekStart, size + 10, 0}, // behind the end there is nothing
		{0, io.SeekStart, 0, size},
	} {
		at, err := seeker.Seek(step.offset, step.whence)
		if err != nil || at != step.at {
			s.broken("Seek(%d, %d) = %d, %v; want %d", step.offset, step.whence, at, err, step.at)
		}
		got := make([]byte, step.read)
		if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, data[min(at, size):min(at, size)+step.read]) {
			s.broken("%d bytes were read from %d on, equal: false, error: %v", step.read, at, err)
		}
		if at+step.read < size {
			continue
		}
		if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			s.broken("Read at the end = %d, %v; want 0, io.EOF", n, err)
		}
	}
	for _, wrong := range []struct {
		offset int64
		whence int
	}{{-1, io.SeekStart}, {-size - 1, io.SeekEnd}, {0, 3}} {
		if _, err := seeker.Seek(wrong.offset, wrong.whence); err == nil {
			s.broken("Seek(%d, %d): no error", wrong.offset, wrong.whence)
		}
	}
	if at, err := seeker.Seek(0, io.SeekCurrent); err != nil || at != size {
		s.broken("after Seeks that were refused it stands at %d, %v; want %d", at, err, int64(size))
	}
}
