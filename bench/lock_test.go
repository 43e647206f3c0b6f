package bench

import (
	"context"
	"fmt"
	"runtime"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/bench/internal/report"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/redis/go-redis/v9"
)

const (
	// sliceLength is long enough for hundreds of locks, and short enough that
	// whatever else the machine does hits all contenders of a round alike.
	sliceLength = 25 * time.Millisecond
	sliceRounds = 50
)

// BenchmarkLockUncontended takes and releases a lock that nobody else wants, in
// one goroutine, and in 8 and 64 with a lock each. With -cpuprofile, the label
// "lock" of a sample says whose it is: go tool pprof -tagfocus=lock=herdless.
func BenchmarkLockUncontended(b *testing.B) {
	for _, goroutines := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("goroutines=%d", goroutines), func(b *testing.B) {
			uncontended(b, goroutines)
		})
	}
}

func uncontended(b *testing.B, goroutines int) {
	if goroutines == 1 {
		keepAwake(b)
	}
	server := redistest.NewStandalone(b)
	observer := server.Client(b)
	lockers := make([]locker, len(contenders))
	slices := make([][]slice, len(contenders))
	for i, c := range contenders {
		lockers[i] = open(b, c, newClientFor(b, server), lockTTL)
		runSlice(b, c, lockers[i], observer, goroutines) // opens connections, loads scripts
	}
	for b.Loop() {
		for round := range sliceRounds {
			for i := range contenders {
				i = (i + round) % len(contenders) // nobody always comes first
				slices[i] = append(slices[i], runSlice(b, contenders[i], lockers[i], observer, goroutines))
			}
		}
	}

	t := newTable(fmt.Sprintf("lock and unlock, uncontended, %d at a time: medians of %d interleaved slices of %v each", goroutines, len(slices[0]), sliceLength),
		"", "ops/s", "µs/op", "time ÷ redsync's", "allocs/op", "B/op", "commands/op", "…called in scripts", "client CPU µs/op", "Redis CPU µs/op", "…in commands")
	for i, c := range contenders {
		per := func(f func(slice) float64) float64 { return report.Median(each(slices[i], f)) }
		micros := per(slice.time) / 1e3
		ratio := report.Median(each2(slices[i], slices[1], func(of, by slice) float64 { return of.time() / by.time() }))
		t.row(c.name, num(1e6/micros), num(micros), num(ratio),
			num(per(func(s slice) float64 { return s.allocs / s.ops })),
			num(per(func(s slice) float64 { return s.bytes / s.ops })),
			num(per(func(s slice) float64 { return s.sent / s.ops })),
			num(per(func(s slice) float64 { return s.called / s.ops })),
			num(per(func(s slice) float64 { return float64(s.cpu.Nanoseconds()) / 1e3 / s.ops })),
			num(per(func(s slice) float64 { return float64(s.redisCPU.Nanoseconds()) / 1e3 / s.ops })),
			num(per(func(s slice) float64 { return float64(s.redisBusy.Nanoseconds()) / 1e3 / s.ops })))
		switch i {
		case 0:
			b.ReportMetric(micros*1e3, "ns/op")
			b.ReportMetric(ratio, "time/redsync's")
			b.ReportMetric(per(func(s slice) float64 { return s.allocs / s.ops }), "allocs/op")
			b.ReportMetric(per(func(s slice) float64 { return s.bytes / s.ops }), "B/op")
		case 1:
			b.ReportMetric(micros*1e3, "redsync-ns/op")
		}
	}
	t.end("The ratio is the median of those of slices that ran one after the other.")
}

func open(tb testing.TB, c contender, rdb *redis.Client, ttl time.Duration) locker {
	tb.Helper()
	l, err := c.open(rdb, ttl)
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

// slice is what one contender did in its turn.
type slice struct {
	ops                 float64
	elapsed, cpu        time.Duration
	allocs, bytes       float64
	sent, called        float64 // commands
	redisCPU, redisBusy time.Duration
}

// time returns that of one lock and unlock, in nanoseconds.
func (s slice) time() float64 { return float64(s.elapsed) / s.ops }

func runSlice(b *testing.B, c contender, l locker, observer *redis.Client, goroutines int) slice {
	runtime.GC() // what the one before has left is not this one's to clear away
	var before, after runtime.MemStats
	counted := mustCount(b, observer)
	runtime.ReadMemStats(&before)
	cpu, start := cpuTime(), time.Now()

	var ops atomic.Int64
	var wg sync.WaitGroup
	pprof.Do(b.Context(), pprof.Labels("lock", c.name), func(ctx context.Context) {
		for g := range goroutines {
			wg.Go(func() {
				name := fmt.Sprint("uncontended-", c.name, g)
				n := 0
				for time.Since(start) < sliceLength {
					h, err := l.try(ctx, name)
					if err == nil {
						err = h.unlock(ctx)
					}
					if err != nil {
						b.Errorf("%s: %v", c.name, err)
						break
					}
					n++
				}
				ops.Add(int64(n))
			})
		}
		wg.Wait()
	})

	s := slice{ops: float64(ops.Load()), elapsed: time.Since(start), cpu: cpuTime() - cpu}
	runtime.ReadMemStats(&after)
	if b.Failed() {
		b.FailNow()
	}
	did := mustCount(b, observer).since(counted)
	s.allocs, s.bytes = float64(after.Mallocs-before.Mallocs), float64(after.TotalAlloc-before.TotalAlloc)
	s.sent, s.called, s.redisBusy = did.sent(c)
	s.redisCPU = did.cpu
	return s
}

// each returns f of every value.
func each[T, V any](values []T, f func(T) V) []V {
	out := make([]V, len(values))
	for i, v := range values {
		out[i] = f(v)
	}
	return out
}

// each2 returns f of every two values that belong together.
func each2[T, V any](a, b []T, f func(a, b T) V) []V {
	out := make([]V, len(a))
	for i := range a {
		out[i] = f(a[i], b[i])
	}
	return out
}
