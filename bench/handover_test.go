package bench

import (
	"fmt"
	"testing"
	"time"

	"github.com/herdless/herdless/bench/internal/report"
	"github.com/herdless/herdless/internal/redistest"
)

// handOverTurn is how long each contender's goroutines take a lock in turn.
const handOverTurn = 2 * time.Second

// handOverCases is BenchmarkLockContended for the report.
func handOverCases(b *testing.B, s scenario) []report.Case {
	e := theEffort()
	server := redistest.NewStandalone(b)
	observer := server.Client(b)
	processes := startProcesses(b, contendProcesses, server.Addr())
	turns := 0
	turn := func(c contender, length time.Duration) contention {
		turns++
		return contendTogether(b, processes, observer, c, fmt.Sprint("contended-", turns), length)
	}
	for _, c := range contenders {
		turn(c, handOverTurn/10) // opens connections, loads scripts
	}
	samples := make([][]report.Sample, len(contenders))
	for round := range e.herds {
		for i := range contenders {
			i = (i + round) % len(contenders)
			r := turn(contenders[i], handOverTurn)
			locks := float64(len(r.Holds))
			samples[i] = append(samples[i], report.Sample{
				"ops":      r.rate(),
				"p50":      millis(report.Median(r.handOvers)),
				"p99":      millis(report.Percentile(r.handOvers, 99)),
				"max":      millis(r.LongestWait),
				"commands": r.sent / locks,
				"cpu":      micros(r.CPU) / locks,
				"rediscpu": micros(r.redisCPU) / locks,
			})
		}
	}
	rows := make([]report.Row, len(contenders))
	for i, c := range contenders {
		kind := report.Peer
		if i == 0 {
			kind = report.Ours
		}
		rows[i] = report.NewRow(c.name, kind, s.headline, samples[0], samples[i])
	}
	return []report.Case{{Name: fmt.Sprintf("%d goroutines in %d processes", contendGoroutines, contendProcesses), Rounds: e.herds, Rows: rows}}
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
