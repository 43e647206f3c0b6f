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

var handOverName = fmt.Sprintf("%d goroutines in %d processes", contendGoroutines, contendProcesses)

// handOverCases is BenchmarkLockContended for the report.
func handOverCases(b *testing.B, s scenario) []report.Case {
	defer keepAwake(b)()
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
	rows := make([]row, len(contenders))
	for i, c := range contenders {
		rows[i] = row{c.name, report.Peer}
	}
	rows[0].kind = report.Ours
	return []report.Case{inTurn(handOverName, s.headline, e.herds, rows, func(_, i int) report.Sample {
		r := turn(contenders[i], handOverTurn)
		locks := float64(len(r.Holds))
		return report.Sample{
			"ops":      r.rate(),
			"p50":      millis(report.Median(r.handOvers)),
			"p99":      millis(report.Percentile(r.handOvers, 99)),
			"max":      millis(r.LongestWait),
			"commands": r.sent / locks,
			"cpu":      micros(r.CPU) / locks,
			"rediscpu": micros(r.redisCPU) / locks,
		}
	})}
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
