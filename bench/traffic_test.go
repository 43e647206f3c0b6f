package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/herdless/herdless/bench/internal/report"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/middleware/traffic"
	"github.com/herdless/herdless/middleware/traffic/redistraffic"
)

// trafficScenarios measure what counting adds to a request, while the process
// flushes once a second, next to the bare handler.
func trafficScenarios() []scenario {
	return []scenario{{
		id: "traffic", title: "Traffic: a request that is counted", headline: "cpu", loads: goroutines(1, 16, 128),
		text: "A handler of 4 KiB in the process, whose requests come from 256 addresses to 4,096 products, counted by route, status, latency, visitor and top paths.",
		entrants: []entrant{
			{name: "herdless", kind: report.Ours, free: true, open: func(addr string) (*opened, error) {
				rdb, err := openRedis(addr)
				if err != nil {
					return nil, err
				}
				r, err := traffic.New(redistraffic.New(rdb, nil), nil)
				if err != nil {
					return nil, err
				}
				o := productRequests(r.Handler)
				o.close = func() {
					_ = r.Close(context.Background())
					_ = rdb.Close()
				}
				return o, nil
			}},
			{name: plain, kind: report.Floor, local: true, open: func(string) (*opened, error) {
				o := productRequests(func(h http.Handler) http.Handler { return h })
				o.close = func() {}
				return o, nil
			}},
		},
	}}
}

var errProduct = errors.New("the page of a product is not whole")

func productRequests(mw func(http.Handler) http.Handler) *opened {
	body := bytes.Repeat([]byte("x"), 4096)
	h := mw(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(body)
	}))
	return &opened{worker: func(int) (op, error) {
		requests := make([]*http.Request, 4096)
		for i := range requests {
			r := newRequest(fmt.Sprintf("/product/%d", i), nil)
			r.RemoteAddr = fmt.Sprintf("192.0.2.%d:4711", i%256)
			r.Pattern = "GET /product/{id}"
			requests[i] = r
		}
		w, i := &sink{header: http.Header{"Content-Type": {"text/plain"}}}, 0
		return func() error {
			w.status, w.length = 0, 0
			h.ServeHTTP(w, requests[i%len(requests)])
			i++
			if w.length != len(body) {
				return errProduct
			}
			return nil
		}, nil
	}}
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
