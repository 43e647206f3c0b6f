package rediscache_test

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"net/rpc"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/rediscache"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// patient is a budget that no machine exceeds, for tests in which the store must
// not be given up.
const patient = 2 * time.Second

// answers waits for all answers to callers who should have got want.
func answers(t *testing.T, soon <-chan *rpc.Call, want ...string) []Answer {
	t.Helper()
	list := answer[[]Answer](t, soon)
	for _, a := range list {
		require.Empty(t, a.Err)
		require.Contains(t, want, a.Value)
	}
	return list
}

// since returns how long after from the callers had their answers.
func since(from time.Time, list []Answer) (f figures) {
	for _, a := range list {
		f = append(f, a.At.Sub(from))
	}
	return f
}

// 1,500 callers in three processes want what nobody has.
func TestAColdKeyIsLoadedOnce(t *testing.T) {
	server, source := redistest.NewStandalone(t), newSource(t)
	processes := startProcesses(t, Setup{URL: server.URL(), Prefix: redistest.Prefix(t), Source: string(source), StoreTimeout: patient})
	source.set(t, "key", "value")

	commands := monitor(t, server)
	var calls []<-chan *rpc.Call
	for _, p := range processes {
		calls = append(calls, p.getSoon(GetOrder{Key: "key", Callers: 500, Load: LoadOrder{Takes: 800 * time.Millisecond}}))
	}
	var all []Answer
	for _, soon := range calls {
		all = append(all, answers(t, soon, "value")...)
	}
	counts := commands()
	total := 0
	for _, n := range counts {
		total += n
	}
	loads := source.loads(t, "key")
	require.Len(t, loads, 1)
	require.Len(t, all, 1500)
	late := since(loads[0].ended, all)
	t.Logf("answers came after the end of the load: %v; target: p99 ≤ 5 ms and a round trip", late)
	t.Logf("%d commands: %v; target: ≤ 60", total, counts)
	assert.Less(t, late.percentile(99), slack)
	assert.LessOrEqual(t, total, 60)
}

// Whoever waits for a process that dies is not kept waiting for longer than its
// lease lasts.
func TestTheLoadingProcessIsKilled(t *testing.T) {
	t.Parallel()
	server, source := redistest.Standalone(t), newSource(t)
	setup := Setup{URL: server.URL(), Prefix: redistest.Prefix(t), Source: string(source), StoreTimeout: patient}
	processes := startProcesses(t, setup)
	var took figures
	for round := range 3 {
		key := fmt.Sprint("key", round)
		source.set(t, key, "value")
		dies := processes[0]
		if round > 0 {
			dies = startProcess(t, setup)
		}
		dies.getSoon(GetOrder{Key: key, Load: LoadOrder{Takes: time.Hour}})
		source.begun(t, key, 1)
		var calls []<-chan *rpc.Call
		for _, p := range processes[1:] {
			calls = append(calls, p.getSoon(GetOrder{Key: key, Callers: 200, Load: LoadOrder{Takes: 100 * time.Millisecond}}))
		}
		time.Sleep(leaseTTL + rand.N(leaseTTL)) // the lease is renewed
		require.Len(t, source.loads(t, key), 1, "the process lives")
		killed := dies.signal(t, syscall.SIGKILL)
		for _, soon := range calls {
			require.Len(t, answers(t, soon, "value"), 200)
		}
		loads := source.loads(t, key)
		require.Len(t, loads, 2, "the one that died, and another one")
		took = append(took, loads[1].began.Sub(killed))
	}
	t.Logf("another load began after the death: %v; target: ≤ 600 ms", took)
	assert.LessOrEqual(t, took.percentile(100), leaseTTL+100*time.Millisecond+slack)
}

// What a process has loaded that was stopped, while others went on, is not stored.
func TestTheLoadingProcessIsStopped(t *testing.T) {
	t.Parallel()
	server, source := redistest.Standalone(t), newSource(t)
	processes := startProcesses(t, Setup{URL: server.URL(), Prefix: redistest.Prefix(t), Source: string(source), StoreTimeout: patient})
	stops := processes[0]
	source.set(t, "key", "old")
	first := stops.getSoon(GetOrder{Key: "key", Callers: 20, Load: LoadOrder{Takes: time.Second}})
	source.begun(t, "key", 1)
	stopped := stops.signal(t, syscall.SIGSTOP)
	time.Sleep(20 * time.Millisecond) // it has read the source
	source.set(t, "key", "new")

	var calls []<-chan *rpc.Call
	for _, p := range processes[1:] {
		calls = append(calls, p.getSoon(GetOrder{Key: "key", Callers: 20, Load: LoadOrder{Takes: 20 * time.Millisecond}}))
	}
	for _, soon := range calls {
		others := answers(t, soon, "new")
		t.Logf("others had the value after %v", since(stopped, others))
	}
	time.Sleep(time.Until(stopped.Add(3 * leaseTTL)))
	continued := stops.signal(t, syscall.SIGCONT)
	late := since(continued, answers(t, first, "old", "new"))
	t.Logf("those who waited in the stopped process had an answer %v after it went on", late)
	assert.Less(t, late.percentile(100), patient+slack)

	for _, p := range processes {
		answers(t, p.getSoon(GetOrder{Key: "key"}), "new")
	}
	assert.EqualValues(t, 1, stops.stats(t).FillsRefused)
	assert.Len(t, source.loads(t, "key"), 2, "the value is stored")
}

// A source that fails is left alone for a while.
func TestALoadFails(t *testing.T) {
	t.Parallel()
	server, source := redistest.Standalone(t), newSource(t)
	processes := startProcesses(t, Setup{URL: server.URL(), Prefix: redistest.Prefix(t), Source: string(source)})
	source.set(t, "key", "key")
	var calls []<-chan *rpc.Call
	for _, p := range processes {
		calls = append(calls, callSoon[Hammered](p, "Hammer", HammerOrder{
			Keys: []string{"key"}, Goroutines: 20, Pause: 10 * time.Millisecond,
			Load: LoadOrder{Takes: 20 * time.Millisecond, Fails: true},
		}))
	}
	const lasts = 3 * time.Second
	time.Sleep(lasts)
	for i, p := range processes {
		p.stop(t)
		h := answer[Hammered](t, calls[i])
		var took figures
		for _, c := range h.Calls {
			require.Contains(t, []string{errSource.Error(), cache.ErrLoadFailed.Error()}, c.Err)
			took = append(took, c.Took)
		}
		t.Logf("%d calls of one process took %v", len(took), took)
	}
	loads := source.loads(t, "key")
	perProcess := make(map[int][]*load)
	for _, l := range loads {
		perProcess[l.pid] = append(perProcess[l.pid], l)
	}
	for _, list := range perProcess {
		for i := range list[1:] {
			pause := list[i+1].began.Sub(list[i].ended)
			assert.GreaterOrEqual(t, pause, backoff, "between two loads of a process")
		}
	}
	t.Logf("%d loads by %d processes in %v; target: one in %v by each at most", len(loads), len(perProcess), lasts, backoff)
	assert.Greater(t, len(loads), 1, "it is tried again")
	assert.LessOrEqual(t, len(loads), len(processes)*(int(lasts/backoff)+1))
}

// A load that panics is an error of those who wait, and no more.
func TestALoadPanics(t *testing.T) {
	t.Parallel()
	server, source := redistest.Standalone(t), newSource(t)
	processes := startProcesses(t, Setup{URL: server.URL(), Prefix: redistest.Prefix(t), Source: string(source), StoreTimeout: patient})
	source.set(t, "key", "value")
	panics := processes[0]
	calls := []<-chan *rpc.Call{
		panics.getSoon(GetOrder{Key: "key", Callers: 20, Load: LoadOrder{Takes: 500 * time.Millisecond, Panics: true}}),
	}
	source.begun(t, "key", 1)
	for _, p := range processes[1:] {
		calls = append(calls, p.getSoon(GetOrder{Key: "key", Callers: 20, Load: LoadOrder{Takes: 10 * time.Millisecond}}))
	}
	got := make([][]Answer, len(calls))
	for i, soon := range calls {
		got[i] = answer[[]Answer](t, soon)
	}
	panicked := source.loads(t, "key")[0].ended
	for i, list := range got {
		for _, a := range list {
			if i == 0 {
				require.Equal(t, "cache: the load panicked: the source panics", a.Err)
			} else if a.Err != cache.ErrLoadFailed.Error() {
				require.Empty(t, a.Err)
				require.Equal(t, "value", a.Value)
			}
		}
		late := since(panicked, list)
		t.Logf("process %d: answers like %+v came after the panic: %v; target: 100 ms", i, list[0], late)
		assert.Less(t, late.percentile(100), 100*time.Millisecond+slack)
	}
	for _, p := range processes {
		eventually(t, backoff+slack, "the key works again", func() bool {
			a := p.get(t, GetOrder{Key: "key"})[0]
			return a.Err == "" && a.Value == "value"
		})
	}
}

// spread is how long a purge or a write takes at most to be known everywhere.
const spread = 200 * time.Millisecond

// What was read before a purge is returned to nobody who asks after it, also if
// the tag that it is purged by becomes known only after the purge.
func TestAPurgeDuringALoad(t *testing.T) {
	t.Parallel()
	server := redistest.Standalone(t)
	for _, how := range []string{"Delete", "PurgeTags"} {
		t.Run(how, func(t *testing.T) {
			source := newSource(t)
			processes := startProcesses(t, Setup{URL: server.URL(), Prefix: redistest.Prefix(t), Source: string(source), StoreTimeout: patient})
			source.set(t, "key", "old")
			loading, purging := processes[0], processes[1]
			first := loading.getSoon(GetOrder{Key: "key", Callers: 5, Load: LoadOrder{Takes: 800 * time.Millisecond, Tag: "tag"}})
			source.begun(t, "key", 1)
			time.Sleep(20 * time.Millisecond) // it has read the source
			purged := purging.write(t, WriteOrder{Key: "key", Value: "new", How: how, Tag: "tag"})

			ask := GetOrder{Key: "key", Callers: 5, Load: LoadOrder{Takes: 10 * time.Millisecond, Tag: "tag"}}
			calls := []<-chan *rpc.Call{purging.getSoon(ask)}
			time.Sleep(time.Until(purged.Add(spread)))
			require.Zero(t, source.loads(t, "key")[0].ended, "the load goes on")
			for _, p := range processes {
				calls = append(calls, p.getSoon(ask))
			}
			answers(t, first, "old", "new")
			for _, soon := range calls {
				answers(t, soon, "new")
			}
			for _, p := range processes {
				answers(t, p.getSoon(ask), "new")
			}
			assert.EqualValues(t, 1, loading.stats(t).FillsRefused)
			t.Logf("%d loads", len(source.loads(t, "key")))
			assert.LessOrEqual(t, len(source.loads(t, "key")), 2, "the new value is stored")
		})
	}
}

// A value that is written stays, whatever another process read before and stores
// afterwards.
func TestAPutDuringALoad(t *testing.T) {
	t.Parallel()
	server, source := redistest.Standalone(t), newSource(t)
	processes := startProcesses(t, Setup{URL: server.URL(), Prefix: redistest.Prefix(t), Source: string(source), StoreTimeout: patient})
	loading, writing := processes[0], processes[1]
	rounds := 200
	if soak() {
		rounds = 1000
	}
	const takes = 4 * time.Millisecond
	key := func(i int) string { return fmt.Sprint("key", i) }
	var late figures
	during := 0
	over := make([]time.Time, rounds)
	for i := range rounds {
		source.set(t, key(i), "old")
		first := loading.getSoon(GetOrder{Key: key(i), Load: LoadOrder{Takes: takes}})
		time.Sleep(rand.N(2 * takes))
		written := writing.write(t, WriteOrder{Key: key(i), Value: "new", How: "Put"})
		for _, p := range processes[1:] {
			answers(t, p.getSoon(GetOrder{Key: key(i)}), "new")
		}
		over[i] = answers(t, first, "old", "new")[0].At
		eventually(t, spread+slack, "the process that has loaded the old value has the new one", func() bool {
			return loading.get(t, GetOrder{Key: key(i)})[0].Value == "new"
		})
		late = append(late, time.Since(written))
		for _, l := range source.loads(t, key(i)) {
			if l.began.Before(written) && l.ended.After(written.Add(-takes)) {
				during++
			}
		}
	}
	for i := range rounds {
		for _, p := range processes {
			answers(t, p.getSoon(GetOrder{Key: key(i)}), "new")
		}
		for _, l := range source.loads(t, key(i)) {
			require.True(t, l.pid == loading.cmd.Process.Pid && l.began.Before(over[i]), "what was written is there: nobody needs to load it")
		}
	}
	t.Logf("%d rounds, in %d of them a load ended about when the write did; %d fills were refused", rounds, during, loading.stats(t).FillsRefused)
	t.Logf("the loading process had the new value after %v", late)
	assert.NotZero(t, during)
}

// staleness returns for how long after each write others got what was before.
// Who asked before the write was done may.
func staleness(written map[int]time.Time, last map[int]Reading) (f figures) {
	for version, at := range written {
		worst := time.Duration(0)
		for got, r := range last {
			if got < version && r.Asked.After(at) {
				worst = max(worst, r.Answered.Sub(at))
			}
		}
		f = append(f, worst)
	}
	return f
}

// Others have a value in their own memory while one process changes it.
func TestNobodyReadsWhatIsOldForLong(t *testing.T) {
	server, source := redistest.Standalone(t), newSource(t)
	proxy := redistest.NewProxy(t, server.Addr())
	setup := Setup{URL: server.URL(), Prefix: redistest.Prefix(t), Source: string(source)}
	source.set(t, "key", "0")
	writer, reader := startProcess(t, setup), startProcess(t, setup)
	setup.URL = "redis://" + proxy.Addr()
	cutOff := startProcess(t, setup)
	readers := []process{reader, cutOff}
	reading := func(p process) <-chan *rpc.Call {
		return callSoon[map[int]Reading](p, "Read", GetOrder{Key: "key", Load: LoadOrder{Tag: "tag"}})
	}
	version := 0
	write := func(times int, pause time.Duration, hows ...string) map[int]time.Time {
		written := make(map[int]time.Time)
		for range times {
			version++
			o := WriteOrder{Key: "key", Value: strconv.Itoa(version), How: hows[version%len(hows)], Tag: "tag"}
			written[version] = writer.write(t, o)
			time.Sleep(rand.N(2 * pause))
		}
		return written
	}
	// local waits until the process reads from its own memory.
	local := func(p process) {
		before := p.stats(t).HitsLocal
		eventually(t, patience, "the value is in process", func() bool { return p.stats(t).HitsLocal > before })
	}
	check := func(when string, written map[int]time.Time, last ...map[int]Reading) {
		t.Helper()
		var f figures
		for _, l := range last {
			require.NotEmpty(t, l)
			f = append(f, staleness(written, l)...)
		}
		t.Logf("%s: an old value was read after a write for %v; bound: %v", when, f, bound)
		assert.LessOrEqual(t, f.percentile(100), bound+slack)
		assert.Less(t, f.percentile(50), spread)
	}

	for _, how := range []string{"Put", "Delete", "PurgeTags"} {
		calls := []<-chan *rpc.Call{reading(reader), reading(cutOff)}
		local(reader)
		local(cutOff)
		written := write(100, 5*time.Millisecond, how)
		time.Sleep(spread)
		var last []map[int]Reading
		for i, p := range readers {
			p.stop(t)
			last = append(last, answer[map[int]Reading](t, calls[i]))
		}
		check(how, written, last...)
	}

	// The same, with one process cut off from Redis, but not from the source.
	lasts := 5 * time.Second
	if soak() {
		lasts = 10 * time.Second
	}
	soon := reading(cutOff)
	local(cutOff)
	proxy.Blackhole(true)
	// No tags: the log of purges would tell of them even afterwards.
	written := write(int(lasts/(100*time.Millisecond)), 100*time.Millisecond, "Put", "Delete")
	hits := cutOff.stats(t).HitsLocal
	time.Sleep(100 * time.Millisecond)
	assert.Equal(t, hits, cutOff.stats(t).HitsLocal, "a process that is cut off does not trust its memory")
	cutOff.stop(t)
	check("cut off", written, answer[map[int]Reading](t, soon))

	proxy.Cut() // what was on its way is lost
	proxy.Blackhole(false)
	back := time.Now()
	soon = reading(cutOff)
	local(cutOff)
	t.Logf("the process read from its memory again %v after the network was back; target: 2 s", time.Since(back))
	assert.LessOrEqual(t, time.Since(back), 2*time.Second+slack)
	maps.Copy(written, write(50, 5*time.Millisecond, "Put", "Delete", "PurgeTags"))
	time.Sleep(spread)
	cutOff.stop(t)
	check("back", written, answer[map[int]Reading](t, soon))
}

// encodeAt is Encode for an entry that began in an epoch. See codec.go for the
// offsets.
func encodeAt(epoch uint64, key string, e cache.Entry) []byte {
	b := rediscache.Encode(key, e)
	binary.BigEndian.PutUint64(b[39:], epoch)
	binary.BigEndian.PutUint32(b[5:], crc32.Checksum(b[9:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// A purge costs the same for one entry and for any number.
func TestAPurgeOfATagOfManyEntries(t *testing.T) {
	server := redistest.NewStandalone(t)
	prefix := redistest.Prefix(t)
	n := startNode(t, Setup{URL: server.URL(), Prefix: prefix, StoreTimeout: patient})
	entries := 100_000
	if soak() {
		entries = 1_000_000
	}
	key := func(i int) string { return fmt.Sprint("values:", i) }
	require.True(t, fillWith(t, n.store, "values:one", 1, cache.Entry{Kind: cache.Value, TTL: time.Minute, Tags: []string{"rare"}}))
	rdb, batch := server.Client(t), 1000
	for i := 0; i < entries; i += batch {
		_, err := rdb.Pipelined(t.Context(), func(p redis.Pipeliner) error {
			for j := i; j < i+batch; j++ {
				e := cache.Entry{Kind: cache.Value, Data: []byte("data"), TTL: 10 * time.Minute, Tags: []string{"common"}}
				p.Set(t.Context(), n.entryOf(strconv.Itoa(j)), encodeAt(n.store.Known(), key(j), e), e.TTL)
			}
			return nil
		})
		require.NoError(t, err)
	}
	sample := func() (found int) {
		for range 1000 {
			if _, ok, err := n.store.Get(t.Context(), key(rand.N(entries))); ok {
				require.NoError(t, err)
				found++
			}
		}
		return found
	}
	require.Equal(t, 1000, sample())

	// One that reads nothing, and so sends nothing else.
	proxy := redistest.NewProxy(t, server.Addr())
	purging := startNode(t, Setup{URL: "redis://" + proxy.Addr(), Prefix: prefix, StoreTimeout: patient})
	purge := func(tag string) (took figures, sent redistest.Stats) {
		proxy.Reset()
		for range 20 { // all but the first find nothing, and do the same
			began := time.Now()
			require.NoError(t, purging.engine.PurgeTags(t.Context(), tag))
			took = append(took, time.Since(began))
		}
		return took, proxy.Stats()
	}
	purge("none") // connects
	took, rare := purge("rare")
	t.Logf("1 entry: %v; 20 purges: %+v", took, rare)
	took, common := purge("common")
	t.Logf("%d entries: the first purge %v, %v; 20 purges: %+v; target: < 5 ms", entries, took[0], took, common)
	assert.Equal(t, rare, common, "commands")
	assert.Less(t, took.percentile(50), 20*time.Millisecond)
	time.Sleep(spread)
	require.Zero(t, sample())
}
