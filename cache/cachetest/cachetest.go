// Package cachetest states the rules of cache.Store as tests. Every store of
// herdless passes them; run them on a store of your own.
package cachetest

import (
	"context"
	"errors"
	"fmt"
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
			s := &suite{T: t, store: newStore(t), rule: r.rule}
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
}

// suite is one rule on one store.
type suite struct {
	*testing.T
	store cache.Store
	rule  string
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
	b, err := s.store.Begin(s.Context(), key, token, time.Minute)
	s.ok(err)
	if b.Outcome != want {
		s.broken("Begin(%.40q, %d) = %d, want %d", key, token, b.Outcome, want)
	}
	return b
}

func (s *suite) fill(key string, token uint64, data string, want bool) {
	s.Helper()
	stored, err := s.store.Fill(s.Context(), key, token, value(data))
	s.ok(err)
	if stored != want {
		s.broken("Fill(%.40q, %d) = %v, want %v", key, token, stored, want)
	}
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
	for i, kind := range []cache.Kind{cache.Value, cache.Uncacheable} {
		key := fmt.Sprint("key", i)
		s.begin(key, 1, cache.Begun)
		stored, err := s.store.Fill(s.Context(), key, 1, cache.Entry{Kind: kind, Data: []byte("data"), TTL: time.Minute, Age: time.Hour})
		s.ok(err)
		if !stored {
			s.broken("Fill = false")
		}
		e := s.wantData(key, "data")
		if e.Kind != kind {
			s.broken("Kind = %d, want %d", e.Kind, kind)
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
	_, err := s.store.Fill(s.Context(), "key", 1, cache.Entry{Kind: cache.Value, Data: []byte("data"), TTL: ttl})
	s.ok(err)
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
		stored, err := s.store.Fill(s.Context(), "key", 1, cache.Entry{Kind: cache.Value, Data: []byte("x"), TTL: ttl})
		s.ok(err)
		if stored {
			s.broken("Fill with TTL %v = true", ttl)
		}
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
	s.ok(s.store.Purge(s.Context(), "key"))
	s.fill("key", 1, "computed before the purge", false)
	s.wantMiss("key")

	s.begin("key", 2, cache.Begun)
	s.fill("key", 2, "data", true)
	s.ok(s.store.Purge(s.Context(), "key"))
	s.wantMiss("key")
	s.ok(s.store.Purge(s.Context(), "key")) // of nothing

	s.begin("key", 3, cache.Begun)
	s.ok(s.store.Purge(s.Context(), "another key"))
	s.fill("key", 3, "data", true)
}

func testFillWithoutBegin(s *suite) {
	s.fill("key", 1, "never begun", false)
	s.wantMiss("key")

	b, err := s.store.Begin(s.Context(), "key", 1, time.Millisecond)
	s.ok(err)
	if b.Outcome != cache.Begun {
		s.broken("Begin = %d", b.Outcome)
	}
	time.Sleep(20 * time.Millisecond) // a store's own clock decides: nothing to wait on but time
	s.fill("key", 1, "forgotten", false)
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
	s.ok(s.store.Purge(s.Context(), "key"))
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
	s.ok(s.store.Purge(s.Context(), "key"))
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
	_, beginErr := s.store.Begin(ended, "new", 1, time.Minute)
	_, fillErr := s.store.Fill(ended, "begun", 1, value("data"))
	_, _, watchErr := s.store.Watch(ended, "key")
	for step, err := range map[string]error{
		"Get": getErr, "Begin": beginErr, "Fill": fillErr, "Watch": watchErr, "Purge": s.store.Purge(ended, "key"),
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
			b, err := s.store.Begin(s.Context(), "key", token, time.Minute)
			if err != nil {
				s.Error(err)
				return
			}
			if b.Outcome != cache.Begun {
				return
			}
			ok, err := s.store.Fill(s.Context(), "key", token, value(fmt.Sprint(token)))
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
