package rediscache_test

import (
	"fmt"
	"net"
	"net/rpc"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	// budget is the default of Options.StoreTimeout: for how long a call may be
	// held up before it loads, and once more when it has.
	budget = 50 * time.Millisecond
	// recovery is how soon a store that is back is to be used again.
	recovery = 2 * time.Second
	// loadTakes is how long the loads take while Redis is away.
	loadTakes = time.Millisecond
)

// hammered keeps a process busy.
type hammered struct {
	process
	source source
	keys   []string
	soon   <-chan *rpc.Call
}

// hammer has 8 goroutines of a process read some keys all the time. It returns
// when they have been in the cache.
func hammer(t *testing.T, p process, source source, keys ...string) hammered {
	t.Helper()
	for _, key := range keys {
		source.set(t, key, key)
	}
	h := hammered{process: p, source: source, keys: keys}
	h.soon = callSoon[Hammered](p, "Hammer", HammerOrder{
		Keys: keys, Goroutines: 8, Pause: time.Millisecond, Load: LoadOrder{Takes: loadTakes},
	})
	h.cached(t)
	return h
}

// cached waits until the process has got something from the cache.
func (h hammered) cached(t *testing.T) {
	t.Helper()
	hits := func() uint64 {
		s := h.stats(t)
		return s.HitsLocal + s.HitsStore
	}
	before := hits()
	eventually(t, 3*patience, "something comes from the cache", func() bool { return hits() > before })
}

// end stops it. Everybody must have got the right value.
func (h hammered) end(t *testing.T) Hammered {
	t.Helper()
	h.stop(t)
	all := answer[Hammered](t, h.soon)
	slices.SortFunc(all.Calls, func(a, b Call) int { return a.Asked.Compare(b.Asked) })
	for _, c := range all.Calls {
		require.Empty(t, c.Err)
	}
	return all
}

// between returns how long the calls took that began between two times.
func (h Hammered) between(from, to time.Time) (f figures) {
	for _, c := range h.Calls {
		if !c.Asked.Before(from) && c.Asked.Before(to) {
			f = append(f, c.Took)
		}
	}
	return f
}

// oneAtATime fails the test if a process loaded a key while it did so already. It
// returns the number of loads.
func (h hammered) oneAtATime(t *testing.T) (total int) {
	t.Helper()
	for _, key := range h.keys {
		var last *load
		for _, l := range h.source.loads(t, key) {
			if l.pid != h.cmd.Process.Pid {
				continue
			}
			total++
			if last != nil {
				require.False(t, l.began.Before(last.ended), "two loads of %s at a time", key)
			}
			last = l
		}
	}
	return total
}

// While Redis is away everybody is served, and nobody waits for it for long.
func TestRedisIsAway(t *testing.T) {
	t.Parallel()
	direct := func(s *redistest.Server, _ *redistest.Proxy) string { return s.Addr() }
	proxied := func(_ *redistest.Server, p *redistest.Proxy) string { return p.Addr() }
	tests := []struct {
		name        string
		through     func(*redistest.Server, *redistest.Proxy) string
		fault, heal func(*testing.T, *redistest.Server, *redistest.Proxy)
	}{
		{
			"killed", direct,
			func(t *testing.T, s *redistest.Server, _ *redistest.Proxy) { s.Kill(t) },
			func(t *testing.T, s *redistest.Server, _ *redistest.Proxy) { s.Restart(t) },
		},
		{
			"stopped", direct,
			func(t *testing.T, s *redistest.Server, _ *redistest.Proxy) { s.Stop(t) },
			func(t *testing.T, s *redistest.Server, _ *redistest.Proxy) { s.Continue(t) },
		},
		{
			"slow", proxied,
			func(_ *testing.T, _ *redistest.Server, p *redistest.Proxy) { p.SetLatency(5 * time.Second) },
			func(_ *testing.T, _ *redistest.Server, p *redistest.Proxy) { p.SetLatency(0) },
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tries(t, func(m *measurement) {
				server := redistest.NewStandalone(t)
				proxy := redistest.NewProxy(t, server.Addr())
				src := newSource(t)
				setup := Setup{URL: "redis://" + tt.through(server, proxy), Prefix: redistest.Prefix(t), Source: string(src), TTL: 300 * time.Millisecond}
				h := hammer(t, startProcess(t, setup), src, "a", "b", "c", "d")
				began := time.Now()
				time.Sleep(time.Second)

				failed := time.Now()
				tt.fault(t, server, proxy)
				const lasts, settled = 3 * time.Second, 1500 * time.Millisecond
				time.Sleep(lasts)
				during := h.stats(t)
				back := time.Now()
				tt.heal(t, server, proxy)
				healed := time.Now()
				h.cached(t)
				recovered := time.Since(healed)
				all := h.end(t)
				loads := h.oneAtATime(t)
				first, later := all.between(failed, failed.Add(settled)), all.between(failed.Add(settled), back)
				t.Logf("before: %v", all.between(began, failed))
				t.Logf("the first %v: %v; target: at most %v", settled, first, budget)
				t.Logf("the next %v: %v of %d calls; loads take %v", lasts-settled, later, len(later), loadTakes)
				t.Logf("cached again after %v; target: %v", recovered, recovery)
				t.Logf("%d calls, %d loads, %d goroutines more at most, %+v", len(all.Calls), loads, all.Most, during)
				m.within(2*budget+loadTakes+slack, first.percentile(100), "the longest call at first")
				m.within(2*budget+loadTakes+slack, later.percentile(100), "the longest call later")
				m.within(loadTakes+budget/2, later.percentile(50), "the median later")
				m.within(recovery, recovered, "until it is cached again")
				assert.True(t, during.BreakerOpen)
				assert.NotZero(t, during.StoreErrors)
				assert.Less(t, all.Most, 100, "goroutines")
			})
		})
	}
}

// A Redis that answers, but not with what is asked for, is another way of being
// away.
func TestRedisRefuses(t *testing.T) {
	t.Parallel()
	set := func(t *testing.T, rdb *redis.Client, name, value string) {
		t.Helper()
		require.NoError(t, rdb.ConfigSet(t.Context(), name, value).Err())
	}
	// primary is another server, with so many keys.
	primary := func(t *testing.T, keys int) *redistest.Server {
		t.Helper()
		s := redistest.NewStandalone(t, "--repl-diskless-sync-delay", "0")
		_, err := s.Client(t).Pipelined(t.Context(), func(p redis.Pipeliner) error {
			for i := range keys {
				p.Set(t.Context(), fmt.Sprint("other", i), make([]byte, 1024), time.Hour)
			}
			return p.Ping(t.Context()).Err()
		})
		require.NoError(t, err)
		return s
	}
	follow := func(t *testing.T, rdb *redis.Client, primary *redistest.Server) {
		t.Helper()
		host, port, err := net.SplitHostPort(primary.Addr())
		require.NoError(t, err)
		require.NoError(t, rdb.ReplicaOf(t.Context(), host, port).Err())
	}
	tests := []struct {
		name    string
		error   string // of its answers
		primary int    // keys of another server
		fault   func(*testing.T, *redis.Client, *redistest.Server)
		heal    func(*testing.T, *redis.Client)
	}{
		{
			name: "OOM", error: "OOM",
			fault: func(t *testing.T, rdb *redis.Client, _ *redistest.Server) { set(t, rdb, "maxmemory", "1") },
			heal:  func(t *testing.T, rdb *redis.Client) { set(t, rdb, "maxmemory", "0") },
		},
		{
			name: "MISCONF", error: "MISCONF",
			fault: func(t *testing.T, rdb *redis.Client, _ *redistest.Server) {
				set(t, rdb, "save", "3600 1")
				dir, err := rdb.ConfigGet(t.Context(), "dir").Result()
				require.NoError(t, err)
				file, err := rdb.ConfigGet(t.Context(), "dbfilename").Result()
				require.NoError(t, err)
				require.NoError(t, os.Mkdir(filepath.Join(dir["dir"], file["dbfilename"]), 0o700)) // in the way
				require.NoError(t, rdb.BgSave(t.Context()).Err())
			},
			heal: func(t *testing.T, rdb *redis.Client) { set(t, rdb, "stop-writes-on-bgsave-error", "no") },
		},
		{
			name: "READONLY", error: "READONLY", primary: 1,
			fault: follow,
			heal: func(t *testing.T, rdb *redis.Client) {
				require.NoError(t, rdb.ReplicaOf(t.Context(), "NO", "ONE").Err())
			},
		},
		{
			name: "LOADING", error: "LOADING", primary: 3000,
			fault: func(t *testing.T, rdb *redis.Client, primary *redistest.Server) {
				set(t, rdb, "loading-process-events-interval-bytes", "1024")
				set(t, rdb, "key-load-delay", "1000") // µs
				follow(t, rdb, primary)
			},
			heal: func(t *testing.T, rdb *redis.Client) {
				eventually(t, patience, "it is loaded", func() bool { return rdb.ReplicaOf(t.Context(), "NO", "ONE").Err() == nil })
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tries(t, func(m *measurement) {
				server, src := redistest.NewStandalone(t), newSource(t)
				proxy := redistest.NewProxy(t, server.Addr())
				rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), MaxRetries: -1})
				t.Cleanup(func() { _ = rdb.Close() })
				var other *redistest.Server
				if tt.primary > 0 {
					other = primary(t, tt.primary)
				}
				h := hammer(t, startProcess(t, Setup{
					URL: "redis://" + proxy.Addr(), Prefix: redistest.Prefix(t), Source: string(src), TTL: 300 * time.Millisecond,
				}), src, "a", "b", "c", "d")
				roundTrips := func(during time.Duration) int64 {
					proxy.Reset()
					time.Sleep(during)
					return proxy.Stats().RoundTrips
				}
				normal := roundTrips(time.Second)
				tt.fault(t, rdb, other)
				eventually(t, patience, "it refuses", func() bool {
					read, write := rdb.Get(t.Context(), "x").Err(), rdb.Set(t.Context(), "x", "x", time.Second).Err()
					return redis.HasErrorPrefix(read, tt.error) || redis.HasErrorPrefix(write, tt.error)
				})
				failed := time.Now()
				loads := src.count(t, h.cmd.Process.Pid, h.keys...)
				const lasts = 2 * time.Second
				sent := roundTrips(lasts)
				loads = src.count(t, h.cmd.Process.Pid, h.keys...) - loads
				during, back := h.stats(t), time.Now()
				tt.heal(t, rdb)
				healed := time.Now()
				h.cached(t)
				recovered := time.Since(healed)
				all := h.end(t)
				h.oneAtATime(t)
				took := all.between(failed, back)
				t.Logf("%d calls: %v", len(took), took)
				t.Logf("%d round trips in %v, for %d loads; before it were %d in a second", sent, lasts, loads, normal)
				t.Logf("cached again after %v; target: %v; %+v", recovered, recovery, during)
				m.within(2*budget+loadTakes+slack, took.percentile(100), "the longest call")
				// A read, a try at the lease, and that it is given up; one more for
				// connections that are opened, and what the feed asks.
				assert.Less(t, sent, int64(50+4*loads), "round trips for %d loads", loads)
				assert.NotZero(t, during.StoreErrors)
				m.within(recovery, recovered, "until it is cached again")
			})
		})
	}
}

// All are served while a primary dies and a replica takes over, and then there is
// a cache again.
func TestAFailoverOfSentinel(t *testing.T) {
	t.Parallel()
	tries(t, func(m *measurement) {
		sentinels, src := redistest.NewSentinels(t), newSource(t)
		setup := Setup{URL: sentinels.URL(), Prefix: redistest.Prefix(t), Source: string(src), TTL: 300 * time.Millisecond}
		var processes []hammered
		for range 3 {
			processes = append(processes, hammer(t, startProcess(t, setup), src, "a", "b", "c", "d"))
		}
		old := sentinels.Primary(t)
		killed := time.Now()
		old.Kill(t)
		eventually(t, 3*patience, "another primary", func() bool { return sentinels.Primary(t) != old })
		changed := time.Now()
		rdb := sentinels.Client(t)
		eventually(t, patience, "the new primary can be written", func() bool {
			return rdb.Set(t.Context(), setup.Prefix+"x", "x", time.Minute).Err() == nil
		})
		writable := time.Now()
		for _, h := range processes {
			h.cached(t)
		}
		again := time.Now()
		t.Logf("another primary %v after the death, writable after %v, all cache again after %v", changed.Sub(killed), writable.Sub(killed), again.Sub(killed))
		for _, h := range processes {
			all := h.end(t)
			loads := h.oneAtATime(t)
			took := all.between(killed, again)
			t.Logf("%d calls meanwhile: %v; %d loads, %d goroutines more at most; %+v", len(took), took, loads, all.Most, h.stats(t))
			m.within(2*budget+loadTakes+slack, took.percentile(100), "the longest call")
			assert.Less(t, all.Most, 100, "goroutines")
		}
		m.within(recovery+2*slack, again.Sub(writable), "until all cache again")
	})
}

// When a master of a Cluster dies, what is on others is still there, unless it has
// the log of purges: then all is as if Redis were away, until a replica takes over.
func TestMastersOfAClusterDie(t *testing.T) {
	t.Parallel()
	tries(t, func(m *measurement) {
		cluster, src := redistest.NewCluster(t), newSource(t)
		for _, addr := range cluster.Addrs() {
			node := redis.NewClient(&redis.Options{Addr: addr})
			// By default all of a Cluster is down while a part of it is.
			require.NoError(t, node.ConfigSet(t.Context(), "cluster-require-full-coverage", "no").Err())
			require.NoError(t, node.Close())
		}
		setup := Setup{URL: cluster.URL(), Prefix: redistest.Prefix(t), Source: string(src)}
		n := startNode(t, setup)
		masters, ofLog := cluster.Masters(t), cluster.MasterOf(t, setup.Prefix+"{purges}")
		ofEntries := masters[(slices.Index(masters, ofLog)+1)%len(masters)]
		there, elsewhere := keysByMaster(t, cluster, n, ofEntries)
		keys := slices.Concat(there, elsewhere)
		local := []hammered{hammer(t, startProcess(t, setup), src, keys...), hammer(t, startProcess(t, setup), src, keys...)}
		setup.TierBytes = -1 // this one has to ask Redis each time
		processes := append(local, hammer(t, startProcess(t, setup), src, keys...))
		loads := func(of []hammered, keys []string) (n int) {
			for _, h := range of {
				n += src.count(t, h.cmd.Process.Pid, keys...)
			}
			return n
		}
		// cached waits until nothing has been loaded for a while.
		cached := func() {
			eventually(t, patience, "nothing is loaded", func() bool {
				n := loads(processes, keys)
				time.Sleep(slack)
				return loads(processes, keys) == n
			})
		}
		cached()
		var died, replaced [2]time.Time
		for i, dies := range []*redistest.Server{ofEntries, ofLog} {
			before, lost, spared := loads(local, keys), loads(processes, there), loads(processes, elsewhere)
			died[i] = time.Now()
			dies.Kill(t)
			eventually(t, 3*patience, "a replica takes over", func() bool { return !slices.Contains(cluster.Masters(t), dies) })
			replaced[i] = time.Now()
			cached()
			again := time.Since(replaced[i]) - slack
			before, lost, spared = loads(local, keys)-before, loads(processes, there)-lost, loads(processes, elsewhere)-spared
			t.Logf("master %d: a replica took over after %v; all was cached again %v later; %d loads of %d keys of the first master, %d of %d others, %d by processes with a tier",
				i, replaced[i].Sub(died[i]), again, lost, len(there), spared, len(elsewhere), before)
			m.within(reload+recovery+2*slack, again, "until all was cached again")
			m.check(dies != ofEntries || before < 20, "%d loads by processes with a tier: what is in process is unaffected, and what is elsewhere", before)
		}
		for i, h := range processes {
			all := h.end(t)
			h.oneAtATime(t)
			for master := range died {
				took := all.between(died[master], replaced[master])
				t.Logf("process %d, master %d: %d calls before the replica took over: %v", i, master, len(took), took)
				m.within(2*budget+loadTakes+slack, took.percentile(100), "the longest call")
			}
			t.Logf("process %d: %d goroutines more at most; %+v", i, all.Most, h.stats(t))
			assert.Less(t, all.Most, 100, "goroutines")
		}
	})
}

// keysByMaster returns two keys whose entries a master of a Cluster has, and six
// that it has nothing to do with.
func keysByMaster(t *testing.T, cluster *redistest.Cluster, n *node, master *redistest.Server) (there, elsewhere []string) {
	t.Helper()
	for i := 0; len(there) < 2 || len(elsewhere) < 6; i++ {
		key := fmt.Sprint("key", i)
		hasEntry := cluster.MasterOf(t, n.entryOf(key)) == master
		hasLease := cluster.MasterOf(t, n.leaseOf(key)) == master
		switch {
		case hasEntry && len(there) < 2:
			there = append(there, key)
		case !hasEntry && !hasLease && len(elsewhere) < 6:
			elsewhere = append(elsewhere, key)
		}
	}
	return there, elsewhere
}

// Slots of a Cluster move to another master. A client that knows what a Cluster is
// follows. One that does not is refused with MOVED, as if Redis were away.
func TestSlotsMove(t *testing.T) {
	t.Parallel()
	cluster := redistest.NewCluster(t)
	tries(t, func(m *measurement) {
		src := newSource(t)
		prefix, key, from, slots := onOneMaster(t, cluster)
		setup := Setup{URL: cluster.URL(), Prefix: prefix, Source: string(src), TTL: 300 * time.Millisecond, TierBytes: -1}
		masters := cluster.Masters(t)
		to := masters[(slices.Index(masters, from)+1)%len(masters)]
		proxy := redistest.NewProxy(t, from.Addr())
		follows := hammer(t, startProcess(t, setup), src, key)
		setup.URL = "redis://" + proxy.Addr()
		lost := hammer(t, startProcess(t, setup), src, key)

		moved := time.Now()
		for _, slot := range slots {
			move(t, slot, from, to, masters)
		}
		follows.cached(t)
		before, began, proxied := lost.stats(t), time.Now(), proxy.Stats().RoundTrips
		time.Sleep(time.Second)
		during, ended := lost.stats(t), time.Now()
		loads, sent := during.Loads-before.Loads, proxy.Stats().RoundTrips-proxied
		assert.NotZero(t, during.StoreErrors)
		m.check(during.BreakerOpen, "the circuit breaker is closed while all is refused")
		m.check(sent < 50+int64(loads), "%d round trips for %d loads", sent, loads)
		m.check(during.HitsStore == before.HitsStore, "%d hits", during.HitsStore-before.HitsStore)
		of := follows.stats(t)

		for _, slot := range slots {
			move(t, slot, to, from, masters)
		}
		back := time.Now()
		lost.cached(t)
		recovered := time.Since(back)
		m.within(recovery, recovered, "until it is cached again")
		for name, h := range map[string]hammered{"a client of the Cluster": follows, "another client": lost} {
			all := h.end(t)
			h.oneAtATime(t)
			took := all.between(moved, time.Now())
			t.Logf("%s: %d calls: %v", name, len(took), took)
			m.within(2*budget+loadTakes+slack, took.percentile(100), "the longest call by "+name)
		}
		t.Logf("the other client: %d round trips in %v, for %d loads; cached again after %v; %+v", sent, ended.Sub(began), loads, recovered, during)
		t.Logf("the client of the Cluster: %+v", of)
	})
}

// onOneMaster returns a prefix and a key of which the master that has the log of
// purges has all that is needed, that master, and the slots. With some prefixes there
// is no such key: for what differs in the prefix only, the slots differ by a constant.
func onOneMaster(t *testing.T, cluster *redistest.Cluster) (prefix, key string, master *redistest.Server, slots []int64) {
	t.Helper()
	rdb := cluster.Client(t)
	ranges, err := rdb.ClusterSlots(t.Context()).Result() //nolint:staticcheck // Redis 6.2 has no CLUSTER SHARDS
	require.NoError(t, err)
	for range 100 {
		n := startNode(t, Setup{URL: cluster.URL(), Prefix: redistest.Prefix(t)})
		master = cluster.MasterOf(t, n.store.HeadName())
		for i := range 50 {
			key, slots = fmt.Sprint("key", i), nil
			for _, name := range []string{n.store.HeadName(), n.entryOf(key), n.leaseOf(key)} {
				slot, err := rdb.ClusterKeySlot(t.Context(), name).Result()
				require.NoError(t, err)
				if slices.ContainsFunc(ranges, func(r redis.ClusterSlot) bool {
					return int64(r.Start) <= slot && slot <= int64(r.End) && r.Nodes[0].Addr == master.Addr()
				}) {
					slots = append(slots, slot)
				}
			}
			if len(slots) == 3 {
				return n.prefix, key, master, slots
			}
		}
	}
	require.FailNow(t, "no such prefix")
	panic("not reached")
}

// move moves a slot and what is in it from one master to another, as redis-cli does.
func move(t *testing.T, slot int64, from, to *redistest.Server, masters []*redistest.Server) {
	t.Helper()
	ctx := t.Context()
	do := func(s *redistest.Server, args ...any) *redis.Cmd {
		t.Helper()
		cmd := s.Client(t).Do(ctx, args...)
		require.NoError(t, cmd.Err())
		return cmd
	}
	fromID, err := do(from, "CLUSTER", "MYID").Text()
	require.NoError(t, err)
	toID, err := do(to, "CLUSTER", "MYID").Text()
	require.NoError(t, err)
	host, port, err := net.SplitHostPort(to.Addr())
	require.NoError(t, err)
	do(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", fromID)
	do(from, "CLUSTER", "SETSLOT", slot, "MIGRATING", toID)
	for {
		keys, err := do(from, "CLUSTER", "GETKEYSINSLOT", slot, 100).StringSlice()
		require.NoError(t, err)
		if len(keys) == 0 {
			break
		}
		args := []any{"MIGRATE", host, port, "", 0, 5000, "REPLACE", "KEYS"}
		for _, key := range keys {
			args = append(args, key)
		}
		do(from, args...)
	}
	for _, s := range append([]*redistest.Server{to, from}, masters...) {
		do(s, "CLUSTER", "SETSLOT", slot, "NODE", toID)
	}
}
