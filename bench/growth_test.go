package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/bench/internal/report"
	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/rediscache"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/responsecache"
)

// Of growth the rows are sizes. A row's × is how many times cheaper the
// smallest size is.
func growthScenarios() []scenario {
	keys, tags := []int{1_000, 10_000, 100_000}, []int{10, 1_000, 10_000}
	if theEffort().large {
		keys, tags = append(keys, 1_000_000), append(tags, 100_000)
	}
	if theEffort().mode == "smoke" {
		keys, tags = keys[:2], tags[:2]
	}
	const remark = " × is how many times cheaper it is in the first row: growth costs nothing where it is 1."
	return []scenario{{
		id: "growth-processes", title: "Growth: processes", headline: "cpu",
		text: "1, 3 and 9 processes with four goroutines each, on one Redis. CPU is that of all processes, by request. More processes than cores " +
			"make each wait longer, and should not make it cost more." + remark,
		measure: growingProcesses,
	}, {
		id: "growth-keys", title: "Growth: keys", headline: "cpu", loads: goroutines(4), apart: true,
		text:     "Values of 100 bytes, read from Redis at random; each row has a Redis of its own with so many of them." + remark,
		entrants: rowsOf(keys, "keys", openKeys),
	}, {
		id: "growth-bodies", title: "Growth: bodies", headline: "perkib", loads: goroutines(4), apart: true,
		text:     "A page from Redis, by its length, with the CPU of a KiB of it. A short page's cost is that of the request." + remark,
		entrants: rowsOf([]int{1, 16, 256, 1 << 10, 10 << 10}, "KiB", openBodies),
	}, {
		id: "growth-tags", title: "Growth: tags that were purged", headline: "cpu", loads: goroutines(4), apart: true,
		text:     "A page with three tags from Redis, after so many other tags were purged, which every process remembers." + remark,
		entrants: rowsOf(tags, "tags", openTags),
	}, {
		id: "growth-purge", title: "Growth: pages that a purge of a tag reaches", headline: "cpu", loads: goroutines(1), apart: true,
		text:     "A purge of a tag that so many values in Redis have." + remark,
		entrants: rowsOf(keys, "values", openPurges),
	}}
}

// rowsOf is a row for each size.
func rowsOf(sizes []int, unit string, open func(addr string, size int) (*opened, error)) []entrant {
	var out []entrant
	for _, n := range sizes {
		size := 0.0
		if unit == "KiB" {
			size = float64(n)
		}
		out = append(out, entrant{name: digitGroups(n) + " " + unit, kind: report.Ours, kib: size, open: func(addr string) (*opened, error) { return open(addr, n) }})
	}
	return out
}

// digitGroups writes 1000000 as 1,000,000.
func digitGroups(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// fill does something n times, many at a time.
func fill(n int, do func(i int) error) error {
	var next atomic.Int64
	errs := make([]error, 64)
	var wg sync.WaitGroup
	for w := range errs {
		wg.Go(func() {
			for errs[w] == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				errs[w] = do(i)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// values is a namespace of strings on Redis, without a tier in the process.
func values(addr string) (*cache.Engine, *cache.Namespace[string], func(), error) {
	rdb, err := openRedis(addr)
	if err != nil {
		return nil, nil, nil, err
	}
	engine, err := cache.New(rediscache.New(rdb, &rediscache.Options{TierBytes: -1}), &cache.Options{StoreTimeout: 10 * time.Second})
	if err != nil {
		return nil, nil, nil, err
	}
	space, err := cache.For[string](engine, "value", cache.Policy{TTL: time.Hour})
	return engine, space, func() { _ = rdb.Close() }, err
}

// openKeys fills Redis with n values, unless they are there, and has each worker
// read one after the other at random.
func openKeys(addr string, n int) (*opened, error) {
	_, space, closeIt, err := values(addr)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	var loads atomic.Int64
	get := func(i int) error {
		key := strconv.Itoa(i)
		v, err := space.Get(ctx, key, func(context.Context, string) (string, error) {
			loads.Add(1)
			return fmt.Sprintf("%0*s", valueLength, key), nil
		})
		if err == nil && v != fmt.Sprintf("%0*s", valueLength, key) {
			err = errNotIt
		}
		return err
	}
	if err := fill(n, get); err != nil {
		return nil, err
	}
	filled := loads.Load()
	return &opened{
		worker: func(int) (op, error) {
			random := rand.New(rand.NewPCG(rand.Uint64(), 1))
			return func() error { return get(random.IntN(n)) }, nil
		},
		check: func() error {
			if loads.Load() != filled {
				return errors.New("what was cached was loaded again")
			}
			return nil
		},
		close: closeIt,
	}, nil
}

// openBodies has one page of n KiB for each worker.
func openBodies(addr string, n int) (*opened, error) {
	p := newPages(n << 10)
	web, closeSite, err := herdlessOnRedis(-1)(addr, p, policy{ttl: pageTTL})
	if err != nil {
		return nil, err
	}
	return openPages(web, p, closeSite, ownPage)
}

// openTags purges n tags, and has each worker ask for a page that has others.
func openTags(addr string, n int) (*opened, error) {
	rdb, err := openRedis(addr)
	if err != nil {
		return nil, err
	}
	c, err := responsecache.New(rediscache.New(rdb, &rediscache.Options{TierBytes: -1, CompressAbove: -1}), &responsecache.Options{StoreTimeout: 10 * time.Second})
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	if err := fill(n, func(i int) error { return c.PurgeTags(ctx, "purged"+strconv.Itoa(i)) }); err != nil {
		return nil, err
	}
	p := newPages(small)
	web := httpSite{c.With(responsecache.Policy{TTL: pageTTL, Tags: []string{"a", "b", "c"}}).Handler(http.Handler(p))}
	return openPages(web, p, func() { _ = rdb.Close() }, ownPage)
}

// openPurges stores n values with a tag, and has a worker purge it.
func openPurges(addr string, n int) (*opened, error) {
	engine, space, closeIt, err := values(addr)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	const tag = "all of them"
	err = fill(n, func(i int) error {
		_, err := space.Get(ctx, strconv.Itoa(i), func(ctx context.Context, key string) (string, error) {
			cache.AddTags(ctx, tag)
			return key, nil
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &opened{
		worker: func(int) (op, error) { return func() error { return engine.PurgeTags(ctx, tag) }, nil },
		check: func() error {
			again := false
			_, err := space.Get(ctx, "0", func(ctx context.Context, key string) (string, error) {
				again = true
				cache.AddTags(ctx, tag)
				return key, nil
			})
			if err == nil && !again {
				err = errors.New("the purge has reached nothing")
			}
			return err
		},
		close: closeIt,
	}, nil
}

// WorkOrder has a process do an entrant's work.
type WorkOrder struct {
	Scenario, Entrant string
	Goroutines        int
	At                int64
	For               time.Duration
}

// Work is what came of it.
type Work struct {
	Requests int64
	CPU      time.Duration
}

// Enter opens an entrant, for Work to come.
func (s *service) Enter(o WorkOrder, _ *Work) error {
	for _, sc := range scenarios() {
		for _, e := range sc.entrants {
			if sc.id != o.Scenario || e.name != o.Entrant {
				continue
			}
			opened, err := e.open(s.addr)
			if err != nil {
				return err
			}
			c := &crew{entrant: e, opened: opened, ops: make([]op, o.Goroutines)}
			for i := range c.ops {
				if c.ops[i], err = opened.worker(i); err != nil {
					return err
				}
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.crew = c
			return nil
		}
	}
	return fmt.Errorf("no entrant %s of %s", o.Entrant, o.Scenario)
}

// Work does it.
func (s *service) Work(o WorkOrder, did *Work) error {
	time.Sleep(time.Until(time.Unix(0, o.At)))
	cpu := cpuTime()
	n, _, err := s.crew.run(o.For)
	did.Requests, did.CPU = n, cpuTime()-cpu
	if err == nil && s.crew.check != nil {
		err = s.crew.check()
	}
	return err
}

// growingProcesses has more and more processes do the same work.
func growingProcesses(b *testing.B, s scenario) []report.Case {
	e := theEffort()
	sizes := []int{1, 3, 9}
	var cases []report.Case
	for _, work := range []WorkOrder{
		{Scenario: "session-read", Entrant: "herdless"},
		{Scenario: "session-write", Entrant: "herdless"},
		{Scenario: "page-redis", Entrant: "herdless"},
		{Scenario: "page-memory", Entrant: "herdless in process over Redis"},
		{Scenario: "limit-allowed", Entrant: "herdless"},
	} {
		server := redistest.NewStandalone(b)
		observer := server.Client(b)
		processes := startProcesses(b, sizes[len(sizes)-1], server.Addr())
		work.Goroutines = 4
		work.For = 3 * e.turn
		// One after the other: the pages of one process are then there for the next.
		for i := range processes {
			if _, err := askAll[Work](processes[i:i+1], "Process.Enter", work); err != nil {
				b.Fatal(err)
			}
		}
		rows := []row{{"1 process", report.Ours}, {"3 processes", report.Ours}, {"9 processes", report.Ours}}
		cases = append(cases, inTurn(work.Scenario+": "+work.Entrant, s.headline, max(3, e.rounds/3), rows, func(_, i int) report.Sample {
			work.At = time.Now().Add(20 * time.Millisecond).UnixNano()
			counted := mustCount(b, observer)
			results, err := askAll[Work](processes[:sizes[i]], "Process.Work", work)
			if err != nil {
				b.Fatal(err)
			}
			did := mustCount(b, observer).since(counted)
			var sum Work
			for _, r := range results {
				sum.Requests += r.Requests
				sum.CPU += r.CPU
			}
			n := float64(sum.Requests)
			return report.Sample{"ops": n / work.For.Seconds(), "cpu": micros(sum.CPU) / n, "rediscpu": micros(did.cpu) / n}
		}))
		for _, p := range processes {
			_ = p.Close() // so that they do not stand by while the next ones work
		}
	}
	return cases
}
