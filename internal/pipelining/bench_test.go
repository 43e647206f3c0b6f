package pipelining_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/pipelining"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/redis/go-redis/v9"
)

// BenchmarkPipelined compares what goes together with what does not: a session of
// ten values of 100 bytes is read, as redisstore does it. "Plain" is NoPipelining.
//
//	go test -run '^$' -bench Pipelined -count 6 ./internal/pipelining
func BenchmarkPipelined(b *testing.B) {
	rdb := redis.NewClient(&redis.Options{Addr: redistest.NewStandalone(b).Addr(), ContextTimeoutEnabled: true, PoolSize: 200})
	defer rdb.Close()
	fields := map[string]any{}
	for i := range 10 {
		fields[fmt.Sprint("f", i)] = fmt.Sprintf("%0100d", i)
	}
	if err := rdb.HSet(b.Context(), "s", fields).Err(); err != nil {
		b.Fatal(err)
	}
	for _, goroutines := range []int{1, 4, 8, 16, 128} {
		for _, plain := range []bool{true, false} {
			c := pipelining.New(rdb, plain)
			b.Run(fmt.Sprintf("%d/%s", goroutines, map[bool]string{true: "plain", false: "together"}[plain]), func(b *testing.B) {
				b.ReportAllocs()
				var wg sync.WaitGroup
				began := time.Now()
				for g := range goroutines {
					wg.Go(func() {
						for range (b.N - g + goroutines - 1) / goroutines {
							if err := c.Pipelined(b.Context(), func(p redis.Pipeliner) error {
								p.HGetAll(b.Context(), "s")
								p.PTTL(b.Context(), "s")
								return nil
							}); err != nil {
								b.Error(err)
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "reads/s")
			})
		}
	}
}
