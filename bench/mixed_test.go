package bench

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/bench/internal/report"
	"github.com/herdless/herdless/internal/redistest"
)

// In the mix a large page is asked for every so often: 50 MiB a second, which is
// far from what the machine can do.
const (
	largeEvery   = 10 * time.Millisecond
	smallClients = 4
)

func mixedScenarios() []scenario {
	return []scenario{{
		id: "mixed", title: "Small pages beside large ones, from Redis", headline: "beside",
		text: "Four goroutines ask for pages of 4 KiB, alone, and while a page of 512 KiB is asked for every 10 ms by the same client. " +
			"\"Times as slow\" is the p50 beside them by that alone, within each round.",
		measure: mixed,
	}}
}

// mixedEntrants have one worker more than there are smallClients; his page is
// large.
func mixedEntrants() []entrant {
	smallBody, largeBody := newPages(small).body, newPages(large).body
	var out []entrant
	for _, lib := range redisPageLibraries {
		out = append(out, entrant{name: lib.name, kind: lib.kind, open: func(addr string) (*opened, error) {
			p := newPages(small)
			p.large = largeBody
			web, closeSite, err := lib.open(addr, p, policy{ttl: pageTTL})
			if err != nil {
				return nil, err
			}
			return openPages(web, p, closeSite, func(worker int) string {
				if worker == smallClients {
					return largePath
				}
				return ownPage(worker)
			})
		}})
	}
	return slices.Concat(out, rawPages(func(worker int) []byte {
		if worker == smallClients {
			return largeBody
		}
		return smallBody
	}))
}

func mixed(b *testing.B, s scenario) []report.Case {
	e := theEffort()
	server := redistest.NewStandalone(b)
	entrants := mixedEntrants()
	crews := make([]*crew, len(entrants))
	for i, en := range entrants {
		crews[i] = hire(b, en, server.Addr(), smallClients+1)
	}
	rows := make([]row, len(entrants))
	for i, en := range entrants {
		rows[i] = row{en.name, en.kind}
	}
	return []report.Case{inTurn("4 at a time", s.headline, e.rounds, rows, func(_, i int) report.Sample {
		ops := crews[i].ops
		alone, _, err1 := latencies(ops[:smallClients], nil, 2*e.turn)
		beside, answered, err2 := latencies(ops[:smallClients], ops[smallClients], 2*e.turn)
		crews[i].mustBe(b, errors.Join(err1, err2))
		a, with := micros(report.Median(alone)), micros(report.Median(beside))
		return report.Sample{
			"slowed": with / a, "alone": a, "beside": with, "p99": millis(report.Percentile(beside, 99)), "large": float64(answered) / (2 * e.turn).Seconds(),
		}
	})}
}

// latencies returns how long each of the requests of smalls took, and how many
// of another one were answered beside them.
func latencies(smalls []op, another op, length time.Duration) (took []time.Duration, answered int, err error) {
	var stop atomic.Bool
	var beside sync.WaitGroup
	errs := make([]error, len(smalls)+1)
	if another != nil {
		beside.Go(func() {
			tick := time.NewTicker(largeEvery)
			defer tick.Stop()
			for !stop.Load() {
				if err := another(); err != nil {
					errs[len(smalls)] = err
					return
				}
				answered++
				<-tick.C
			}
		})
	}
	all := make([][]time.Duration, len(smalls))
	var wg sync.WaitGroup
	for i, do := range smalls {
		wg.Go(func() {
			for start := time.Now(); errs[i] == nil && time.Since(start) < length; {
				from := time.Now()
				errs[i] = do()
				all[i] = append(all[i], time.Since(from))
			}
		})
	}
	wg.Wait()
	stop.Store(true)
	beside.Wait()
	return slices.Concat(all...), answered, errors.Join(errs...)
}
