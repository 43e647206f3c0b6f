package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/bench/internal/report"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/redis/go-redis/v9"
)

// op is one request, and looks at what came of it.
type op func() error

// entrant is one implementation of a scenario.
type entrant struct {
	name string
	kind report.Kind
	// open prepares it on the Redis server at addr.
	open func(addr string) (*opened, error)
	// local says that its requests need no Redis. All others must ask it.
	local bool
	// free says that they may need it or not.
	free bool
	// most bounds the goroutines it takes part with, 0 for any number.
	most int
}

// opened is an entrant that is ready.
type opened struct {
	// worker returns the requests of one goroutine.
	worker func(i int) (op, error)
	// check, if not nil, says after each turn whether it was the work that was
	// meant.
	check func() error
	close func()
}

// load is what one case of a scenario asks for at a time.
type load struct {
	name       string
	goroutines int
}

func goroutines(numbers ...int) []load {
	out := make([]load, len(numbers))
	for i, n := range numbers {
		out[i] = load{fmt.Sprintf("%d at a time", n), n}
		if n == 1 {
			out[i].name = "one at a time"
		}
	}
	return out
}

// scenario is work that several entrants do in turn. The first is herdless.
type scenario struct {
	id, title, text string
	headline        string
	entrants        []entrant
	loads           []load
	// measure, if not nil, is how it is measured in place of compare.
	measure func(b *testing.B, s scenario) []report.Case
}

// effort is how much time is spent on it.
type effort struct {
	mode   string
	rounds int
	turn   time.Duration
	herds  int // rounds of what takes seconds each
	large  bool
}

// efforts by the value of the environment variable HERDLESS_BENCH.
var efforts = map[string]effort{
	"full":  {mode: "full", rounds: 25, turn: 100 * time.Millisecond, herds: 7, large: true},
	"quick": {mode: "quick", rounds: 9, turn: 40 * time.Millisecond, herds: 3},
	// smoke shows that everything runs, and its figures mean nothing.
	"smoke": {mode: "smoke", rounds: 1, turn: 5 * time.Millisecond, herds: 1},
}

func theEffort() effort {
	if e, ok := efforts[os.Getenv("HERDLESS_BENCH")]; ok {
		return e
	}
	return efforts["full"]
}

// compare runs the entrants in turn, under each load.
func compare(b *testing.B, s scenario) []report.Case {
	var cases []report.Case
	for _, l := range s.loads {
		var taking []entrant
		for _, e := range s.entrants {
			if e.most == 0 || l.goroutines <= e.most {
				taking = append(taking, e)
			}
		}
		cases = append(cases, interleave(b, s.headline, l, taking))
	}
	return cases
}

func interleave(b *testing.B, headline string, l load, entrants []entrant) report.Case {
	b.Helper()
	e := theEffort()
	server := redistest.NewStandalone(b)
	observer := server.Client(b)
	crews := make([]*crew, len(entrants))
	for i, en := range entrants {
		crews[i] = hire(b, en, server.Addr(), l.goroutines)
		_, _, err := crews[i].run(e.turn / 2) // opens connections, loads scripts, grows pools
		crews[i].mustBe(b, err)
	}
	samples := make([][]report.Sample, len(entrants))
	for round := range e.rounds {
		for i := range entrants {
			i = (i + round) % len(entrants) // nobody always comes first
			samples[i] = append(samples[i], crews[i].turn(b, observer, e.turn))
		}
	}
	rows := make([]report.Row, len(entrants))
	for i, en := range entrants {
		rows[i] = report.NewRow(en.name, en.kind, headline, samples[0], samples[i])
		crews[i].leave()
	}
	for i, en := range entrants {
		for id, v := range countOnTheWire(b, server, en, l.goroutines) {
			rows[i].Values[id] = v
		}
	}
	return report.Case{Name: l.name, Rounds: e.rounds, Rows: rows}
}

// crew is an entrant with its goroutines' work laid out.
type crew struct {
	entrant
	*opened
	ops []op
}

func hire(b *testing.B, e entrant, addr string, goroutines int) *crew {
	b.Helper()
	o, err := e.open(addr)
	if err != nil {
		b.Fatalf("%s: %v", e.name, err)
	}
	c := &crew{entrant: e, opened: o, ops: make([]op, goroutines)}
	b.Cleanup(c.leave)
	for i := range c.ops {
		if c.ops[i], err = o.worker(i); err == nil {
			err = c.ops[i]()
		}
		if err != nil {
			b.Fatalf("%s: %v", e.name, err)
		}
	}
	return c
}

// leave may be called again.
func (c *crew) leave() {
	if c.close != nil {
		c.close()
		c.close = nil
	}
}

// run has all goroutines at work for a while, and returns how many requests
// there were.
func (c *crew) run(length time.Duration) (requests int64, took time.Duration, err error) {
	var stop atomic.Bool
	var total atomic.Int64
	errs := make([]error, len(c.ops))
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i, do := range c.ops {
		wg.Go(func() {
			<-start
			n := int64(0)
			for !stop.Load() && errs[i] == nil {
				errs[i] = do()
				n++
			}
			total.Add(n)
		})
	}
	began := time.Now()
	close(start)
	time.Sleep(length)
	stop.Store(true)
	wg.Wait()
	return total.Load(), time.Since(began), errors.Join(errs...)
}

// mustBe ends the benchmark if there was an error, or it was not the work that
// was meant.
func (c *crew) mustBe(b *testing.B, err error) {
	b.Helper()
	if err == nil && c.check != nil {
		err = c.check()
	}
	if err != nil {
		b.Fatalf("%s: %v", c.name, err)
	}
}

// turn measures a run.
func (c *crew) turn(b *testing.B, observer *redis.Client, length time.Duration) report.Sample {
	b.Helper()
	runtime.GC() // what the last one left is not on this one's account
	counted := mustCount(b, observer)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu := cpuTime()
	n, took, err := c.run(length)
	cpu = cpuTime() - cpu
	runtime.ReadMemStats(&after)
	did := mustCount(b, observer).since(counted)
	c.mustBe(b, err)
	ops := float64(n)
	s := report.Sample{
		"ops":    ops / took.Seconds(),
		"cpu":    micros(cpu) / ops,
		"allocs": float64(after.Mallocs-before.Mallocs) / ops,
		"bytes":  float64(after.TotalAlloc-before.TotalAlloc) / ops,
	}
	if !c.local {
		s["rediscpu"] = micros(did.cpu) / ops
	}
	return s
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// countOnTheWire has an entrant do some requests through a proxy, and returns
// what went to Redis and back for each.
func countOnTheWire(b *testing.B, server *redistest.Server, e entrant, goroutines int) report.Sample {
	b.Helper()
	proxy := redistest.NewProxy(b, server.Addr())
	c := hire(b, e, proxy.Addr(), goroutines)
	defer c.leave()
	do := func(each int) {
		errs := make([]error, len(c.ops))
		var wg sync.WaitGroup
		for i, do := range c.ops {
			wg.Go(func() {
				for range each {
					if errs[i] = do(); errs[i] != nil {
						return
					}
				}
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			b.Fatalf("%s: %v", e.name, err)
		}
	}
	do(2) // opens all the connections that it takes
	feed := monitor(b, server.Addr())
	proxy.Reset()
	each := max(5, 200/goroutines)
	do(each)
	stats, sent := proxy.Stats(), feed.sent()
	c.mustBe(b, nil)
	n := float64(each * goroutines)
	s := report.Sample{
		"commands": float64(sent) / n,
		"trips":    float64(stats.RoundTrips) / n,
		"up":       float64(stats.BytesUp) / n,
		"down":     float64(stats.BytesDown) / n,
	}
	switch {
	case e.local && s["commands"] > 0.1: // of others, such as looking for messages
		b.Errorf("%s: %v commands a request, of what should need no Redis", e.name, s["commands"])
	case !e.local && !e.free && s["commands"] < 0.5:
		b.Errorf("%s: %v commands a request: it does not ask Redis", e.name, s["commands"])
	}
	return s
}

// watched counts the commands that clients send. Those that scripts call are
// not among them, nor is what go-redis says on a new connection.
type watched struct {
	b    *testing.B
	conn net.Conn
	addr string
	seen chan int
}

// marker ends what a watched counts.
const marker = "herdless-bench-marker"

// monitor begins to count, by MONITOR, which shows each command and where it
// came from.
func monitor(b *testing.B, addr string) *watched {
	b.Helper()
	conn, err := new(net.Dialer).DialContext(b.Context(), "tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := conn.Write([]byte("MONITOR\r\n")); err != nil {
		b.Fatal(err)
	}
	w := &watched{b: b, conn: conn, addr: addr, seen: make(chan int, 1)}
	began := make(chan struct{})
	go w.read(began)
	select {
	case <-began:
	case <-time.After(patience):
		b.Fatal("no answer to MONITOR")
	}
	return w
}

func (w *watched) read(began chan struct{}) {
	n := 0
	buf := make([]byte, 0, 1<<16)
	chunk := make([]byte, 1<<16)
	for {
		got, err := w.conn.Read(chunk)
		if err != nil {
			return
		}
		buf = append(buf, chunk[:got]...)
		for {
			end := bytes.Index(buf, []byte("\r\n"))
			if end < 0 {
				break
			}
			switch line := string(buf[:end]); {
			case line == "+OK":
				close(began)
			case strings.Contains(line, marker):
				w.seen <- n
				return
			case fromClient(line):
				n++
			}
			buf = buf[end+2:]
		}
	}
}

// fromClient says whether a line of MONITOR is a command of a client's that is
// about its work:
//
//	+1339518083.107412 [0 127.0.0.1:60866] "get" "key"
//	+1339518083.107412 [0 lua] "get" "key"
func fromClient(line string) bool {
	_, rest, ok := strings.Cut(line, " [")
	source, command, ok2 := strings.Cut(rest, "] ")
	if !ok || !ok2 || strings.HasSuffix(source, " lua") {
		return false
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(command, `"`), `"`)
	switch strings.ToLower(name) {
	case "hello", "client", "info":
		return false
	}
	return true
}

// sent returns how many commands came so far, and ends the counting.
func (w *watched) sent() int {
	w.b.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: w.addr})
	defer rdb.Close()
	if err := rdb.Echo(context.Background(), marker).Err(); err != nil {
		w.b.Fatal(err)
	}
	defer w.conn.Close()
	select {
	case n := <-w.seen:
		return n
	case <-time.After(patience):
		w.b.Fatal("MONITOR has not shown what came before")
		return 0
	}
}
