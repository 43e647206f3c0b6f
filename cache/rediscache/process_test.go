package rediscache_test

import (
	"crypto/rand"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"net/rpc"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// patient is a budget that no machine exceeds, for tests in which the store must
// not be given up.
const patient = 2 * time.Second

// longLease is a lease's TTL that no machine exceeds, for tests in which none must end.
const longLease = 10 * time.Second

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
	const takes = 800 * time.Millisecond
	tries(t, func(m *measurement) {
		key := rand.Text()
		source.set(t, key, "value")
		commands, began := monitor(t, server), time.Now()
		var calls []<-chan *rpc.Call
		for _, p := range processes {
			calls = append(calls, p.getSoon(GetOrder{Key: key, Callers: 500, Load: LoadOrder{Takes: takes}}))
		}
		var all []Answer
		for _, soon := range calls {
			all = append(all, answers(t, soon, "value")...)
		}
		counts, lasted := commands(), time.Since(began)
		total := 0
		for _, n := range counts {
			total += n
		}
		loads := source.loads(t, key)
		require.Len(t, all, 1500)
		late := since(loads[0].ended, all)
		t.Logf("answers came after the end of the load: %v; target: p99 ≤ 5 ms and a round trip", late)
		t.Logf("%d commands in %v: %v; target: ≤ 60", total, lasted, counts)
		m.check(len(loads) == 1, "%d loads", len(loads))
		m.within(slack, late.percentile(99), "p99 of the answers")
		m.check(total <= 60, "%d commands in %v", total, lasted)
	})
}

// Whoever waits for a process that dies is not kept waiting for longer than its
// lease lasts.
func TestTheLoadingProcessIsKilled(t *testing.T) {
	t.Parallel()
	server, source := redistest.Standalone(t), newSource(t)
	setup := Setup{URL: server.URL(), Prefix: redistest.Prefix(t), Source: string(source), StoreTimeout: patient}
	processes := startProcesses(t, setup)
	var took figures
	dies := processes[0]
	for range 3 {
		tries(t, func(m *measurement) {
			key := rand.Text()
			source.set(t, key, "value")
			dies.getSoon(GetOrder{Key: key, Load: LoadOrder{Takes: time.Hour}})
			source.begun(t, key, 1)
			var calls []<-chan *rpc.Call
			for _, p := range processes[1:] {
				calls = append(calls, p.getSoon(GetOrder{Key: key, Callers: 200, Load: LoadOrder{Takes: 100 * time.Millisecond}}))
			}
			time.Sleep(leaseTTL + mathrand.N(leaseTTL)) // the lease is renewed
			killed := dies.signal(t, syscall.SIGKILL)
			for _, soon := range calls {
				require.Len(t, answers(t, soon, "value"), 200)
			}
			loads := source.loads(t, key)
			takeover := loads[1].began.Sub(killed)
			took = append(took, takeover)
			m.check(takeover > 0, "the process has lost its lease before it died")
			m.check(len(loads) == 2, "%d loads, want that of the process that died, and another one", len(loads))
			m.within(600*time.Millisecond, takeover, "another load began after the death")
			dies = startProcess(t, setup)
		})
	}
	t.Logf("another load began after the death: %v; target: ≤ 600 ms", took)
}

// What a process has loaded that was stopped, while others went on, is not stored.
func TestTheLoadingProcessIsStopped(t *testing.T) {
	t.Parallel()
	server, source := redistest.Standalone(t), newSource(t)
	processes := startProcesses(t, Setup{URL: server.URL(), Prefix: redistest.Prefix(t), Source: string(source), StoreTimeout: patient})
	stops := processes[0]
	tries(t, func(m *measurement) {
		key, refused := rand.Text(), stops.stats(t).FillsRefused
		source.set(t, key, "old")
		first := stops.getSoon(GetOrder{Key: key, Callers: 20, Load: LoadOrder{Takes: time.Second}})
		source.begun(t, key, 1)
		stopped := stops.signal(t, syscall.SIGSTOP)
		time.Sleep(20 * time.Millisecond) // it has stopped
		source.set(t, key, "new")

		var calls []<-chan *rpc.Call
		for _, p := range processes[1:] {
			calls = append(calls, p.getSoon(GetOrder{Key: key, Callers: 20, Load: LoadOrder{Takes: 20 * time.Millisecond}}))
		}
		for _, soon := range calls {
			others := answers(t, soon, "new")
			t.Logf("others had the value after %v", since(stopped, others))
		}
		time.Sleep(time.Until(stopped.Add(3 * leaseTTL)))
		continued := stops.signal(t, syscall.SIGCONT)
		late := since(continued, answers(t, first, "old", "new"))
		t.Logf("those who waited in the stopped process had an answer %v after it went on", late)
		m.within(patient, late.percentile(100), "until those had an answer who waited in the stopped process")

		for _, p := range processes {
			answers(t, p.getSoon(GetOrder{Key: key}), "new")
		}
		assert.EqualValues(t, 1, stops.stats(t).FillsRefused-refused)
		loads := source.loads(t, key)
		m.check(len(loads) == 2, "%d loads, want 2: the value is stored", len(loads))
	})
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
	began := time.Now()
	time.Sleep(3 * time.Second)
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
	lasts := time.Since(began)
	t.Logf("%d loads by %d processes in %v; target: one in %v by each at most", len(loads), len(perProcess), lasts, backoff)
	assert.Greater(t, len(loads), 1, "it is tried again")
	assert.LessOrEqual(t, len(loads), len(processes)*(int(lasts/backoff)+1))
}

// A load that panics is an error of those who wait, and no more.
func TestALoadPanics(t *testing.T) {
	t.Parallel()
	server, source := redistest.Standalone(t), newSource(t)
	processes := startProcesses(t, Setup{URL: server.URL(), Prefix: redistest.Prefix(t), Source: string(source), StoreTimeout: patient})
	panics := processes[0]
	tries(t, func(m *measurement) {
		key := rand.Text()
		source.set(t, key, "value")
		calls := []<-chan *rpc.Call{
			panics.getSoon(GetOrder{Key: key, Callers: 20, Load: LoadOrder{Takes: 500 * time.Millisecond, Panics: true}}),
		}
		source.begun(t, key, 1)
		for _, p := range processes[1:] {
			calls = append(calls, p.getSoon(GetOrder{Key: key, Callers: 20, Load: LoadOrder{Takes: 10 * time.Millisecond}}))
		}
		got := make([][]Answer, len(calls))
		for i, soon := range calls {
			got[i] = answer[[]Answer](t, soon)
		}
		panicked := source.loads(t, key)[0].ended
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
			t.Logf("process %d: answers like %+v came after the panic: %v", i, list[0], late)
			m.within(100*time.Millisecond, late.percentile(100), "the last answer after the panic")
		}
		for _, p := range processes {
			eventually(t, patience, "the key works again", func() bool {
				a := p.get(t, GetOrder{Key: key})[0]
				return a.Err == "" && a.Value == "value"
			})
		}
	})
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
			processes := startProcesses(t, Setup{URL: server.URL(), Prefix: redistest.Prefix(t), Source: string(source), StoreTimeout: patient, LeaseTTL: longLease})
			source.set(t, "key", "old")
			loading, purging := processes[0], processes[1]
			first := loading.getSoon(GetOrder{Key: "key", Callers: 5, Load: LoadOrder{Held: true, Tag: "tag"}})
			source.begun(t, "key", 1)
			time.Sleep(20 * time.Millisecond) // it has read the source
			purged := purging.write(t, WriteOrder{Key: "key", Value: "new", How: how, Tag: "tag"})

			ask := GetOrder{Key: "key", Callers: 5, Load: LoadOrder{Takes: 10 * time.Millisecond, Tag: "tag"}}
			calls := []<-chan *rpc.Call{purging.getSoon(ask)}
			time.Sleep(time.Until(purged.Add(spread)))
			for _, p := range processes {
				calls = append(calls, p.getSoon(ask))
			}
			time.Sleep(spread) // they wait for the load that goes on
			source.letGo(t, "key")
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
	const rounds, together, takes = 1000, 10, 4 * time.Millisecond
	key := func(i int) string { return fmt.Sprint("key", i) }
	var late figures
	during := 0
	over := make([]time.Time, rounds)
	for batch := 0; batch < rounds; batch += together {
		first, writes := make([]<-chan *rpc.Call, together), make([]<-chan *rpc.Call, together)
		for i := range together {
			source.set(t, key(batch+i), "old")
			first[i] = loading.getSoon(GetOrder{Key: key(batch + i), Load: LoadOrder{Takes: takes}})
		}
		for i := range together {
			time.Sleep(mathrand.N(4 * takes / together))
			writes[i] = callSoon[time.Time](writing, "Write", WriteOrder{Key: key(batch + i), Value: "new", How: "Put"})
		}
		for i := range together {
			key := key(batch + i)
			written := answer[time.Time](t, writes[i])
			for _, p := range processes[1:] {
				answers(t, p.getSoon(GetOrder{Key: key}), "new")
			}
			over[batch+i] = answers(t, first[i], "old", "new")[0].At
			eventually(t, patience, "the process that has loaded the old value has the new one", func() bool {
				return loading.get(t, GetOrder{Key: key})[0].Value == "new"
			})
			late = append(late, time.Since(written))
			for _, l := range source.loads(t, key) {
				if l.began.Before(written) && l.ended.After(written.Add(-takes)) {
					during++
				}
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

// staleness returns for how long after each write others could ask and get what was
// before. last is when each version was asked for last.
func staleness(written map[int]time.Time, last map[int]time.Time) (f figures) {
	for version, at := range written {
		worst := time.Duration(0)
		for got, r := range last {
			if got < version {
				worst = max(worst, r.Sub(at))
			}
		}
		f = append(f, worst)
	}
	return f
}

// Others have a value in their own memory while one process changes it.
func TestNobodyReadsWhatIsOldForLong(t *testing.T) {
	t.Parallel()
	server, source := redistest.Standalone(t), newSource(t)
	proxy := redistest.NewProxy(t, server.Addr())
	setup := Setup{URL: server.URL(), Prefix: redistest.Prefix(t), Source: string(source)}
	source.set(t, "key", "0")
	writer, reader := startProcess(t, setup), startProcess(t, setup)
	setup.URL = "redis://" + proxy.Addr()
	cutOff := startProcess(t, setup)
	readers := []process{reader, cutOff}
	reading := func(p process) <-chan *rpc.Call {
		return callSoon[map[int]time.Time](p, "Read", GetOrder{Key: "key", Load: LoadOrder{Tag: "tag"}})
	}
	version := 0
	write := func(times int, pause time.Duration, hows ...string) map[int]time.Time {
		written := make(map[int]time.Time)
		for range times {
			version++
			o := WriteOrder{Key: "key", Value: strconv.Itoa(version), How: hows[version%len(hows)], Tag: "tag"}
			written[version] = writer.write(t, o)
			time.Sleep(mathrand.N(2 * pause))
		}
		return written
	}
	// local waits until the process reads from its own memory.
	local := func(p process) {
		before := p.stats(t).HitsLocal
		eventually(t, patience, "the value is in process", func() bool { return p.stats(t).HitsLocal > before })
	}
	check := func(when string, written map[int]time.Time, last ...map[int]time.Time) {
		t.Helper()
		var f figures
		for _, l := range last {
			require.NotEmpty(t, l)
			f = append(f, staleness(written, l)...)
		}
		t.Logf("%s: an old value was read after a write for %v; bound: %v", when, f, bound)
		assert.LessOrEqual(t, f.percentile(100), bound)
		assert.Less(t, f.percentile(50), spread)
	}

	for _, how := range []string{"Put", "Delete", "PurgeTags"} {
		calls := []<-chan *rpc.Call{reading(reader), reading(cutOff)}
		local(reader)
		local(cutOff)
		written := write(100, 5*time.Millisecond, how)
		time.Sleep(spread)
		var last []map[int]time.Time
		for i, p := range readers {
			p.stop(t)
			last = append(last, answer[map[int]time.Time](t, calls[i]))
		}
		check(how, written, last...)
	}

	// The same, with one process cut off from Redis, but not from the source.
	const lasts = 10 * time.Second
	soon := reading(cutOff)
	local(cutOff)
	proxy.Blackhole(true)
	// No tags: the log of purges would tell of them even afterwards.
	written := write(int(lasts/(100*time.Millisecond)), 100*time.Millisecond, "Put", "Delete")
	hits := cutOff.stats(t).HitsLocal
	time.Sleep(100 * time.Millisecond)
	assert.Equal(t, hits, cutOff.stats(t).HitsLocal, "a process that is cut off does not trust its memory")
	cutOff.stop(t)
	check("cut off", written, answer[map[int]time.Time](t, soon))

	soon = reading(cutOff)
	tries(t, func(m *measurement) {
		proxy.Cut() // what was on its way is lost
		proxy.Blackhole(false)
		back := time.Now()
		local(cutOff)
		took := time.Since(back)
		t.Logf("the process read from its memory again %v after the network was back", took)
		if m.within(2*time.Second, took, "until it read from its memory again"); len(m.missed) > 0 {
			proxy.Blackhole(true)
			time.Sleep(2 * bound)
		}
	})
	proxy.Blackhole(false)
	maps.Copy(written, write(50, 5*time.Millisecond, "Put", "Delete", "PurgeTags"))
	time.Sleep(spread)
	cutOff.stop(t)
	check("back", written, answer[map[int]time.Time](t, soon))
}

// copies makes ARGV[2] other keys, all with the bytes at KEYS[1].
const copies = `
local bytes = redis.call('GET', KEYS[1])
for i = 1, ARGV[2] do redis.call('SET', KEYS[1] .. ':' .. ARGV[1] .. ':' .. i, bytes, 'EX', 600) end
return 1`

// A purge costs the same for one entry and for a million.
func TestAPurgeOfATagOfAMillionEntries(t *testing.T) {
	server := redistest.NewStandalone(t)
	prefix := redistest.Prefix(t)
	n := startNode(t, Setup{URL: server.URL(), Prefix: prefix, StoreTimeout: patient})
	const entries, sampled, atOnce = 1_000_000, 100, 10_000
	// Each entry has several tags: for each of them there is a first purge.
	common := make([]string, 16)
	for i := range common {
		common[i] = fmt.Sprint("common", i)
	}
	key := func(i int) string { return fmt.Sprint("values:", i) }
	fillOne := func(key string, tags ...string) {
		require.True(t, fillWith(t, n.store, key, 1, cache.Entry{Kind: cache.Value, Data: []byte("data"), TTL: 10 * time.Minute, Tags: tags}))
	}
	fillOne("values:one", "rare")
	for i := range sampled {
		fillOne(key(i), common...)
	}
	for i := range entries / atOnce {
		require.NoError(t, server.Client(t).Eval(t.Context(), copies, []string{n.entryOf("0")}, i, atOnce).Err())
	}
	sample := func() (found int) {
		for i := range sampled {
			_, ok, err := n.store.Get(t.Context(), key(i))
			require.NoError(t, err)
			if ok {
				found++
			}
		}
		return found
	}
	require.Equal(t, sampled, sample())

	// One that reads nothing, and so sends nothing else.
	proxy := redistest.NewProxy(t, server.Addr())
	purging := startNode(t, Setup{URL: "redis://" + proxy.Addr(), Prefix: prefix, StoreTimeout: patient})
	purge := func(tags ...string) (took figures, sent redistest.Stats) {
		proxy.Reset()
		for _, tag := range tags {
			began := time.Now()
			require.NoError(t, purging.engine.PurgeTags(t.Context(), tag))
			took = append(took, time.Since(began))
		}
		return took, proxy.Stats()
	}
	purge("none") // connects
	took, rare := purge("rare")
	t.Logf("1 entry: %v, %+v", took, rare)
	took, many := purge(common[0])
	t.Logf("%d entries: %v, %+v", entries, took, many)
	require.EqualValues(t, 1, rare.RoundTrips)
	require.EqualValues(t, 1, many.RoundTrips)
	assert.Equal(t, rare.BytesDown, many.BytesDown)
	time.Sleep(spread)
	require.Zero(t, sample())
	others := common[1:]
	tries(t, func(m *measurement) {
		first, _ := purge(others[:5]...)
		others = others[5:]
		again, _ := purge(slices.Repeat(common, 2)...)
		t.Logf("tags of %d entries: first purges %v, others %v", entries, first, again)
		m.within(5*time.Millisecond, first.percentile(50), "the median of the first purges")
		m.within(5*time.Millisecond, again.percentile(50), "the median of others")
	})
}
