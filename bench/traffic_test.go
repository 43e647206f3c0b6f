package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/middleware/traffic"
	"github.com/herdless/herdless/middleware/traffic/redistraffic"
)

// BenchmarkTraffic is what counting adds to a request, while the process flushes once
// a second, next to the bare handler.
func BenchmarkTraffic(b *testing.B) {
	var requests []*http.Request
	for i := range 4096 {
		r := httptest.NewRequest(http.MethodGet, fmt.Sprintf("/product/%d", i), nil)
		r.RemoteAddr = fmt.Sprintf("192.0.2.%d:4711", i%256)
		r.Pattern = "GET /product/{id}"
		requests = append(requests, r)
	}
	run := func(b *testing.B, h http.Handler) {
		w := &discard{header: http.Header{"Cache-Status": {`herdless; hit; ttl=53; key="https://example.com/product/17"`}}}
		for _, r := range requests {
			h.ServeHTTP(w, r)
		}
		b.ReportAllocs()
		began := cpuTime()
		for i := 0; b.Loop(); i++ {
			h.ServeHTTP(w, requests[i%len(requests)])
		}
		b.ReportMetric(float64(cpuTime()-began)/float64(b.N), "cpu-ns/op")
	}
	b.Run("bare", func(b *testing.B) { run(b, http.HandlerFunc(page)) })
	b.Run("counted", func(b *testing.B) {
		r, err := traffic.New(redistraffic.New(redistest.Standalone(b).Client(b), nil), nil)
		if err != nil {
			b.Fatal(err)
		}
		defer r.Close(context.Background())
		run(b, r.Handler(http.HandlerFunc(page)))
	})
}

// BenchmarkTrafficBatches is what 200,000 requests to 200,000 paths, by Zipf's law
// with 1.05, cost Redis that come on three servers in batches of 5,000.
func BenchmarkTrafficBatches(b *testing.B) {
	const requests, batch = 200_000, 5_000
	server := redistest.NewStandalone(b)
	rdb := server.Client(b)
	for range b.N {
		if err := rdb.FlushAll(b.Context()).Err(); err != nil {
			b.Fatal(err)
		}
		var nodes []*traffic.Recorder
		for i := range 3 {
			r, err := traffic.New(redistraffic.New(rdb, nil), &traffic.Options{Node: fmt.Sprint("web", i), Interval: time.Hour})
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close(context.Background())
			nodes = append(nodes, r)
		}
		zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.05, 1, 200_000-1)
		before := mustCount(b, rdb)
		flushes := 0
		for i := range requests {
			node := nodes[i%3]
			node.Record(traffic.Hit{
				Route: "GET /product/{id}", Path: fmt.Sprint("/product/", zipf.Uint64()), Status: 200, Bytes: 4096,
				Latency: time.Duration(i%1000) * time.Microsecond, Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}),
			})
			if (i/3+1)%batch == 0 {
				flushes++
				if err := node.Flush(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		}
		for _, node := range nodes {
			flushes++
			if err := node.Flush(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		done, calls := mustCount(b, rdb).since(before), 0.0
		for _, n := range done.calls {
			calls += n
		}
		b.ReportMetric(calls/requests, "commands/request")
		b.ReportMetric(float64(done.cpu.Microseconds())/float64(flushes), "redis-cpu-µs/flush")
	}
}
