package bench

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/herdless/herdless/bench/internal/report"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/redis/go-redis/v9"
)

const (
	contendProcesses  = 3
	contendGoroutines = 50 // of all processes together
	contendHold       = time.Millisecond
	contendTurn       = 2500 * time.Millisecond
	contendRounds     = 3
	// defaultTurn is long enough for redsync's 32 tries, which take 4.8 s on
	// average.
	defaultTurn = 7 * time.Second
)

// BenchmarkLockContended has goroutines of several processes take one lock in
// turn. The prototypes take part besides the contenders. It fails if two hold the lock at a time, or if a fencing token is not
// larger than that of the holder before.
func BenchmarkLockContended(b *testing.B) {
	keepAwake(b)
	server := redistest.NewStandalone(b)
	observer := server.Client(b)
	processes := startProcesses(b, contendProcesses, server.Addr())
	contenders := slices.Concat(contenders, prototypes)
	results := make([][]contention, len(contenders))
	gaveUp := ""
	turns := 0
	turn := func(c contender, length time.Duration) contention {
		turns++
		return contendTogether(b, processes, observer, c, fmt.Sprint("contended-", turns), length)
	}
	for _, c := range contenders {
		turn(c, contendTurn/10) // opens connections, loads scripts
	}
	for b.Loop() {
		for round := range contendRounds {
			for i := range contenders {
				i = (i + round) % len(contenders)
				results[i] = append(results[i], turn(contenders[i], contendTurn))
			}
		}
		r := turn(redsyncDefault, defaultTurn)
		gaveUp = fmt.Sprintf("%s: %d gave up and %d acquired in %v; longest wait of a goroutine %s ms.", redsyncDefault.name, r.GaveUp, len(r.Holds), defaultTurn, ms(r.LongestWait))
	}

	t := newTable(fmt.Sprintf("one lock, %d goroutines in %d processes, held for %v: %d interleaved turns of %v each", contendGoroutines, contendProcesses, contendHold, len(results[0]), contendTurn),
		"", "locks/s", "× redsync's", "hand-over ms p50", "p99", "max", "wait ms p50", "p99", "longest", "tries/lock", "commands/lock", "client CPU µs/lock", "Redis CPU µs/lock")
	holds := 0
	for i, c := range contenders {
		var sum contention
		var handOvers []time.Duration
		for _, r := range results[i] {
			sum.add(r)
			handOvers = append(handOvers, r.handOvers...)
		}
		holds += len(sum.Holds)
		locks := float64(len(sum.Holds))
		waits := each(sum.Holds, func(h Hold) time.Duration { return h.Waited })
		rate := report.Median(each(results[i], contention.rate))
		ratio := report.Median(each2(results[i], results[1], func(of, by contention) float64 { return of.rate() / by.rate() }))
		t.row(c.name, num(rate), num(ratio),
			ms(report.Median(handOvers)), ms(report.Percentile(handOvers, 99)), ms(report.Percentile(handOvers, 100)),
			ms(report.Median(waits)), ms(report.Percentile(waits, 99)), ms(sum.LongestWait),
			num(float64(sum.Tries)/locks), num(sum.sent/locks),
			num(float64(sum.CPU.Microseconds())/locks), num(float64(sum.redisCPU.Microseconds())/locks))
		switch i {
		case 0:
			b.ReportMetric(0, "ns/op") // hides it
			b.ReportMetric(rate, "locks/s")
			b.ReportMetric(ratio, "rate/redsync's")
			b.ReportMetric(sum.sent/locks, "commands/lock")
		case 1:
			b.ReportMetric(rate, "redsync-locks/s")
		}
	}
	if b.Failed() {
		t.end("NOT A LOCK: see the errors.")
		return
	}
	t.end(fmt.Sprintf("No two held the lock at a time, of %d holds of all processes.\n%s", holds, gaveUp))
}

// contention is what all processes together did in a turn.
type contention struct {
	Contention
	length    time.Duration
	handOvers []time.Duration
	sent      float64
	redisCPU  time.Duration
}

func (c contention) rate() float64 { return float64(len(c.Holds)) / c.length.Seconds() }

func (c *contention) add(d contention) {
	c.Holds = append(c.Holds, d.Holds...)
	c.LongestWait = max(c.LongestWait, d.LongestWait)
	c.GaveUp += d.GaveUp
	c.CPU += d.CPU
	c.handOvers = append(c.handOvers, d.handOvers...)
	c.Tries += d.Tries
	c.sent += d.sent
	c.redisCPU += d.redisCPU
}

func contendTogether(b *testing.B, processes []process, observer *redis.Client, c contender, name string, length time.Duration) contention {
	b.Helper()
	counted := mustCount(b, observer)
	results := make([]Contention, len(processes))
	errs := make([]error, len(processes))
	var wg sync.WaitGroup
	for i, p := range processes {
		// The first ones take one goroutine more if they do not divide evenly.
		goroutines := (contendGoroutines + len(processes) - 1 - i) / len(processes)
		wg.Go(func() {
			errs[i] = p.Call("Process.Contend", ContendOrder{LockOrder{c.name, name}, goroutines, length, contendHold}, &results[i])
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			b.Fatal(err)
		}
	}
	did := mustCount(b, observer).since(counted)
	var all contention
	all.length = length
	for _, r := range results {
		all.add(contention{Contention: r})
	}
	all.handOvers = handOvers(b, c, all.Holds)
	all.sent, _, _ = did.sent(c)
	all.redisCPU = did.cpu
	return all
}

// handOvers puts holds in order and returns how long it took from one's release
// to the next one's having the lock. It fails the benchmark if two overlap.
func handOvers(b *testing.B, c contender, holds []Hold) []time.Duration {
	b.Helper()
	slices.SortFunc(holds, func(x, y Hold) int { return cmp.Compare(x.From, y.From) })
	var out []time.Duration
	overlaps, disorder := 0, 0
	for i := 1; i < len(holds); i++ {
		before, next := holds[i-1], holds[i]
		took := time.Duration(next.From - before.To)
		if took < 0 {
			overlaps++
		}
		if before.Fence >= next.Fence && before.Fence != 0 {
			disorder++
		}
		out = append(out, took)
	}
	if overlaps > 0 {
		b.Errorf("%s: two held the lock at a time, %d times among %d holds, for %v at most", c.name, overlaps, len(holds), -slices.Min(out))
	}
	if disorder > 0 {
		b.Errorf("%s: a fencing token was not larger than the one before, %d times among %d holds", c.name, disorder, len(holds))
	}
	return out
}

const (
	handOverPairs  = 8
	handOverRounds = 5
	handOverTurns  = 5 // of each pair in a round: 200 hand-overs in all
	// The lock is held for a time between these, so that a contender that
	// polls, every 250 ms at most, may be anywhere in its interval.
	shortHold, longHold = 50 * time.Millisecond, 300 * time.Millisecond
)

// BenchmarkLockHandOver measures how long a waiter in one process waits on after
// a holder in another has released the lock. Few locks are handed over at a
// time, so that neither Redis nor the processors are busy.
func BenchmarkLockHandOver(b *testing.B) {
	keepAwake(b)
	server := redistest.NewStandalone(b)
	processes := startProcesses(b, 2, server.Addr())
	took := make([][]time.Duration, len(contenders))
	turn := func(c contender, turns int) []time.Duration {
		var mu sync.Mutex
		var out []time.Duration
		var wg sync.WaitGroup
		for pair := range handOverPairs {
			wg.Go(func() {
				for range turns {
					d, err := handOver(processes[0], processes[1], LockOrder{c.name, fmt.Sprint("handed-over-", c.name, pair)})
					if err != nil {
						b.Error(err)
						return
					}
					if d < 0 {
						b.Errorf("%s: two held the lock at a time, for %v", c.name, -d)
					}
					mu.Lock()
					out = append(out, d)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if b.Failed() {
			b.FailNow()
		}
		return out
	}
	for _, c := range contenders {
		turn(c, 1) // opens connections, loads scripts
	}
	for b.Loop() {
		for range handOverRounds {
			for i, c := range contenders {
				took[i] = append(took[i], turn(c, handOverTurns)...)
			}
		}
	}

	t := newTable(fmt.Sprintf("from a release in one process to the waiter in another having the lock: %d hand-overs, %d locks at a time, each held for %v to %v", len(took[0]), handOverPairs, shortHold, longHold),
		"", "ms p50", "p90", "p99", "max")
	for i, c := range contenders {
		t.row(c.name, ms(report.Median(took[i])), ms(report.Percentile(took[i], 90)), ms(report.Percentile(took[i], 99)), ms(report.Percentile(took[i], 100)))
	}
	p50, p99 := report.Median(took[0]), report.Percentile(took[0], 99)
	b.ReportMetric(0, "ns/op") // hides it
	b.ReportMetric(float64(p50), "p50-ns")
	b.ReportMetric(float64(p99), "p99-ns")
	b.ReportMetric(float64(report.Median(took[1])), "redsync-p50-ns")
	t.end(fmt.Sprintf("Median of herdless ÷ median of redsync: %s", num(float64(p50)/float64(report.Median(took[1])))))
}

// handOver has holder take a lock and release it while waiter waits for it.
func handOver(holder, waiter process, o LockOrder) (time.Duration, error) {
	var released, acquired, ignored int64
	if err := holder.Call("Process.Lock", o, &ignored); err != nil {
		return 0, err
	}
	waiting := waiter.Go("Process.Lock", o, &acquired, nil)
	time.Sleep(shortHold + rand.N(longHold-shortHold))
	if err := holder.Call("Process.Unlock", o, &released); err != nil {
		return 0, err
	}
	if err := (<-waiting.Done).Error; err != nil {
		return 0, err
	}
	return time.Duration(acquired - released), waiter.Call("Process.Unlock", o, &ignored)
}
