//go:build unix

package pipelining_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/deadline"
	"github.com/herdless/herdless/internal/pipelining"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/redis/go-redis/v9"
)

// BenchmarkGet compares the cost of a GET of 1,000 bytes, with a deadline, to this process:
// with go-redis alone, with its own automatic pipelining, which has no deadlines, and with a
// Client.
//
//	go test -run '^$' -bench Get -count 6 ./internal/pipelining
func BenchmarkGet(b *testing.B) {
	rdb := redis.NewClient(&redis.Options{Addr: redistest.NewStandalone(b).Addr(), ContextTimeoutEnabled: true, PoolSize: 200})
	defer rdb.Close()
	if err := rdb.Set(b.Context(), "k", strings.Repeat("x", 1000), 0).Err(); err != nil {
		b.Fatal(err)
	}
	auto, err := rdb.AutoPipeline()
	if err != nil {
		b.Fatal(err)
	}
	defer auto.Close()
	c := pipelining.New(rdb, false)
	process := func(ctx context.Context) error { return c.Process(ctx, redis.NewStringCmd(ctx, "get", "k")) }
	for _, goroutines := range []int{1, 16, 128} {
		for _, test := range []struct {
			name string
			get  func(context.Context) error
		}{
			{"go-redis", within(func(ctx context.Context) error { return rdb.Get(ctx, "k").Err() })},
			{"go-redis-auto", func(ctx context.Context) error { return auto.Get(ctx, "k").Err() }},
			{"Client", within(process)},
			{"Client-deadline", func(ctx context.Context) error {
				ctx, cancel := deadline.After(ctx, time.Second, nil)
				defer cancel()
				return process(ctx)
			}},
		} {
			b.Run(fmt.Sprintf("%d/%s", goroutines, test.name), func(b *testing.B) {
				b.ReportAllocs()
				before, redisBefore := processorTime(), redisTime(b, rdb)
				var wg sync.WaitGroup
				for g := range goroutines {
					wg.Go(func() {
						ctx, cancel := context.WithCancel(b.Context()) // as that of a request
						defer cancel()
						for range (b.N - g + goroutines - 1) / goroutines {
							if err := test.get(ctx); err != nil {
								b.Error(err)
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64((processorTime()-before).Nanoseconds())/1e3/float64(b.N), "cpu-µs/op")
				b.ReportMetric(float64((redisTime(b, rdb)-redisBefore).Nanoseconds())/1e3/float64(b.N), "redis-µs/op")
			})
		}
	}
}

func within(f func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		return f(ctx)
	}
}

// processorTime returns what this process has used of it.
func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // never fails for oneself
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// redisTime returns what the server has used of it.
func redisTime(b *testing.B, rdb *redis.Client) (sum time.Duration) {
	info, err := rdb.InfoMap(b.Context(), "cpu").Result()
	if err != nil {
		b.Fatal(err)
	}
	for _, field := range []string{"used_cpu_user", "used_cpu_sys"} {
		seconds, err := strconv.ParseFloat(info["CPU"][field], 64)
		if err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(seconds * float64(time.Second))
	}
	return sum
}
