package bench

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/pprof"
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
	// kib is the length of what a request moves, where it matters.
	kib float64
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
	// apart gives each entrant a Redis server of its own.
	apart bool
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
	name := cmp.Or(os.Getenv("HERDLESS_BENCH"), "full")
	e, ok := efforts[name]
	if !ok {
		panic(fmt.Sprintf("HERDLESS_BENCH is %q; it can be full, quick or smoke", name))
	}
	return e
}

// compare runs the entrants in turn, under each load.
func compare(b *testing.B, s scenario) []report.Case {
	var cases []report.Case
	for _, l := range s.loads {
		cases = append(cases, interleave(b, theEffort(), s, l))
	}
	return cases
}

func interleave(tb testing.TB, e effort, s scenario, l load) report.Case {
	tb.Helper()
	if l.goroutines == 1 {
		defer keepAwake(tb)()
	}
	entrants := s.entrants
	servers := make([]*redistest.Server, len(entrants))
	observers := make([]*redis.Client, len(entrants))
	crews := make([]*crew, len(entrants))
	for i, en := range entrants {
		if i > 0 && !s.apart {
			servers[i], observers[i] = servers[0], observers[0]
		} else {
			servers[i] = redistest.NewStandalone(tb)
			observers[i] = servers[i].Client(tb)
		}
		crews[i] = hire(tb, en, servers[i].Addr(), l.goroutines)
		_, _, err := crews[i].run(e.turn / 2) // opens connections, loads scripts, grows pools
		crews[i].mustBe(tb, err)
	}
	rows := make([]row, len(entrants))
	for i, en := range entrants {
		rows[i] = row{en.name, en.kind}
	}
	c := inTurn(l.name, s.headline, e.rounds, rows, func(_, i int) report.Sample { return crews[i].turn(tb, observers[i], e.turn) })
	for _, crew := range crews {
		crew.leave()
	}
	for i, en := range entrants {
		for id, v := range countOnTheWire(tb, servers[i], en, l.goroutines, max(5, 200/l.goroutines)) {
			c.Rows[i].Values[id] = v
		}
	}
	return c
}

// row is what takes a turn.
type row struct {
	name string
	kind report.Kind
}

// inTurn has the rows of a case take turns, in another order each round, so that
// nobody always comes first.
func inTurn(name, headline string, rounds int, rows []row, turn func(round, i int) report.Sample) report.Case {
	samples := make([][]report.Sample, len(rows))
	for round := range rounds {
		for i := range rows {
			i = (i + round) % len(rows)
			samples[i] = append(samples[i], turn(round, i))
		}
	}
	c := report.Case{Name: name, Rounds: rounds}
	for i, r := range rows {
		c.Rows = append(c.Rows, report.NewRow(r.name, r.kind, headline, samples[0], samples[i]))
	}
	return c
}

// crew is an entrant with its goroutines' work laid out.
type crew struct {
	entrant
	*opened
	ops []op
}

func hire(tb testing.TB, e entrant, addr string, goroutines int) *crew {
	tb.Helper()
	o, err := e.open(addr)
	if err != nil {
		tb.Fatalf("%s: %v", e.name, err)
	}
	c := &crew{entrant: e, opened: o, ops: make([]op, goroutines)}
	tb.Cleanup(c.leave)
	for i := range c.ops {
		if c.ops[i], err = o.worker(i); err == nil {
			err = c.ops[i]()
		}
		if err != nil {
			tb.Fatalf("%s: %v", e.name, err)
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
	var began time.Time
	labels := pprof.Labels("entrant", c.name) // go tool pprof -tagfocus=entrant=herdless
	var wg sync.WaitGroup
	for i, do := range c.ops {
		wg.Go(func() {
			<-start
			n := int64(0)
			pprof.Do(context.Background(), labels, func(context.Context) {
				for !stop.Load() && errs[i] == nil {
					errs[i] = do()
					// Where all goroutines compute, the one that would say
					// stop is long in coming to its turn.
					if n++; n%64 == 0 && time.Since(began) >= length {
						return
					}
				}
			})
			total.Add(n)
		})
	}
	began = time.Now()
	close(start)
	time.Sleep(length)
	stop.Store(true)
	wg.Wait()
	return total.Load(), time.Since(began), errors.Join(errs...)
}

// mustBe ends the benchmark if there was an error, or it was not the work that
// was meant.
func (c *crew) mustBe(tb testing.TB, err error) {
	tb.Helper()
	if err == nil && c.check != nil {
		err = c.check()
	}
	if err != nil {
		tb.Fatalf("%s: %v", c.name, err)
	}
}

// turn measures a run.
func (c *crew) turn(tb testing.TB, observer *redis.Client, length time.Duration) report.Sample {
	tb.Helper()
	runtime.GC() // what the last one left is not on this one's account
	counted := mustCount(tb, observer)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu := cpuTime()
	n, took, err := c.run(length)
	cpu = cpuTime() - cpu
	runtime.ReadMemStats(&after)
	did := mustCount(tb, observer).since(counted)
	c.mustBe(tb, err)
	ops := float64(n)
	s := report.Sample{
		"ops":    ops / took.Seconds(),
		"cpu":    micros(cpu) / ops,
		"allocs": float64(after.Mallocs-before.Mallocs) / ops,
		"bytes":  float64(after.TotalAlloc-before.TotalAlloc) / ops,
	}
	if c.kib > 0 {
		s["perkib"] = s["cpu"] / c.kib
	}
	if !c.local {
		s["rediscpu"] = micros(did.cpu) / ops
	}
	return s
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// countOnTheWire has each goroutine of an entrant do some requests through a
// proxy, and returns what went to Redis and back for each.
func countOnTheWire(tb testing.TB, server *redistest.Server, e entrant, goroutines, each int) report.Sample {
	tb.Helper()
	proxy := redistest.NewProxy(tb, server.Addr())
	c := hire(tb, e, proxy.Addr(), goroutines)
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
			tb.Fatalf("%s: %v", e.name, err)
		}
	}
	do(2) // opens all the connections that it takes
	feed := monitor(tb, server.Addr())
	proxy.Reset()
	if e.local {
		each *= 50 // so that what is done now and then does not count
	}
	do(each)
	stats, sent := proxy.Stats(), feed.sent()
	c.mustBe(tb, nil)
	n := float64(each * goroutines)
	s := report.Sample{
		"commands": float64(sent.commands) / n,
		"trips":    float64(stats.RoundTrips) / n,
		"up":       float64(stats.BytesUp) / n,
		"down":     float64(stats.BytesDown) / n,
	}
	switch {
	case e.local && s["commands"] > 0.1: // of others, such as looking for messages
		tb.Errorf("%s: %v commands a request, of what should need no Redis", e.name, s["commands"])
	case !e.local && !e.free && float64(sent.asked)/n < 0.5:
		tb.Errorf("%s: %v keys a request: it does not ask Redis", e.name, float64(sent.asked)/n)
	}
	return s
}

// watched counts the commands that clients send. Those that scripts call are
// not among them, nor is what go-redis says on a new connection.
type watched struct {
	tb   testing.TB
	conn net.Conn
	addr string
	seen chan counted
}

// counted is what clients have sent.
type counted struct {
	commands int
	// asked is more where a script has several keys: it may be of as many requests.
	asked int
}

// marker ends what a watched counts.
const marker = "herdless-bench-marker"

// monitor begins to count, by MONITOR, which shows each command and where it
// came from.
func monitor(tb testing.TB, addr string) *watched {
	tb.Helper()
	conn, err := new(net.Dialer).DialContext(tb.Context(), "tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := conn.Write([]byte("MONITOR\r\n")); err != nil {
		tb.Fatal(err)
	}
	w := &watched{tb: tb, conn: conn, addr: addr, seen: make(chan counted, 1)}
	began := make(chan struct{})
	go w.read(began)
	select {
	case <-began:
	case <-time.After(patience):
		tb.Fatal("no answer to MONITOR")
	}
	return w
}

func (w *watched) read(began chan struct{}) {
	var n counted
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
				n.commands++
				n.asked += keysOfScript(line)
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

// keysOfScript says how many keys a script has that a line of MONITOR shows. Of any other
// command it is one.
func keysOfScript(line string) int {
	_, command, _ := strings.Cut(line, "] ")
	var name, script string
	n := 1
	if _, err := fmt.Sscanf(command, `%q %q "%d"`, &name, &script, &n); err != nil || !strings.EqualFold(name, "evalsha") {
		return 1
	}
	return max(1, n)
}

// sent returns what came so far, and ends the counting.
func (w *watched) sent() counted {
	w.tb.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: w.addr})
	defer rdb.Close()
	if err := rdb.Echo(context.Background(), marker).Err(); err != nil {
		w.tb.Fatal(err)
	}
	defer w.conn.Close()
	select {
	case n := <-w.seen:
		return n
	case <-time.After(patience):
		w.tb.Fatal("MONITOR has not shown what came before")
		return counted{}
	}
}
