package traffic

import (
	"math/bits"
	"net/http"
	"time"
)

// LatencyBuckets is how many buckets a latency histogram has. The first is below
// 64 µs, then there are four for each doubling, so that a bucket's end is at most
// a quarter above its beginning. The last one is 59 s and more.
const LatencyBuckets = 1 + 4*20

// Counters are what is counted of some requests.
type Counters struct {
	// Status are the requests by status class, 1xx first. An upgraded
	// connection is one of 1xx.
	Status [5]uint64
	// Bytes are those of the bodies of responses.
	Bytes uint64
	// Micros is the sum of the latencies in microseconds. An upgraded connection has
	// none: it says nothing about how long requests take.
	Micros uint64
	// CacheLookups are the responses with a Cache-Status field (RFC 9211), and
	// CacheHits those of them that came out of the cache.
	CacheLookups, CacheHits uint64
	// Latency is the histogram of the latencies.
	Latency [LatencyBuckets]uint64
}

// Requests returns how many there were.
func (c *Counters) Requests() (n uint64) {
	for _, s := range c.Status {
		n += s
	}
	return n
}

// HitRatio returns the share of cache hits among the lookups, from 0 to 1, and 0
// without any.
func (c *Counters) HitRatio() float64 { return ratio(c.CacheHits, c.CacheLookups) }

func ratio(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}

// Mean returns the mean latency.
func (c *Counters) Mean() time.Duration {
	if n := c.timed(); n > 0 {
		return time.Duration(c.Micros/n) * time.Microsecond
	}
	return 0
}

// timed returns how many requests have a latency.
func (c *Counters) timed() (n uint64) {
	for _, bucket := range c.Latency {
		n += bucket
	}
	return n
}

// Percentile returns the latency that a share p of the requests, from 0 to 1,
// stayed below. It is exact to an eighth or so: the histogram knows of buckets
// only, and within one latencies are taken for spread evenly.
func (c *Counters) Percentile(p float64) time.Duration {
	total := c.timed()
	if total == 0 {
		return 0
	}
	want, below := p*float64(total), 0.0
	for i, n := range c.Latency {
		if n > 0 && below+float64(n) >= want {
			from, to := bucketFrom(i), bucketFrom(i+1)
			return from + time.Duration(float64(to-from)*max(0, want-below)/float64(n))
		}
		below += float64(n)
	}
	return bucketFrom(LatencyBuckets)
}

// Add adds the counters of other requests.
func (c *Counters) Add(o *Counters) {
	for i, n := range o.Status {
		c.Status[i] += n
	}
	c.Bytes += o.Bytes
	c.Micros += o.Micros
	c.CacheLookups += o.CacheLookups
	c.CacheHits += o.CacheHits
	for i, n := range o.Latency {
		c.Latency[i] += n
	}
}

// count adds one request.
func (c *Counters) count(h *Hit) {
	class := min(max(h.Status/100, 1), len(c.Status))
	c.Status[class-1]++
	c.Bytes += uint64(max(h.Bytes, 0))
	if h.Status != http.StatusSwitchingProtocols {
		micros := uint64(max(h.Latency, 0) / time.Microsecond)
		c.Micros += micros
		c.Latency[bucketOf(micros)]++
	}
	switch h.Cache {
	case CacheHit:
		c.CacheLookups++
		c.CacheHits++
	case CacheMiss:
		c.CacheLookups++
	}
}

// firstBits: the first bucket ends at 2^firstBits µs.
const firstBits = 6

func bucketOf(micros uint64) int {
	if micros < 1<<firstBits {
		return 0
	}
	octave := bits.Len64(micros) - 1
	return min(1+4*(octave-firstBits)+int(micros>>(octave-2)&3), LatencyBuckets-1)
}

// bucketFrom returns where a bucket begins.
func bucketFrom(i int) time.Duration {
	if i == 0 {
		return 0
	}
	octave, quarter := (i-1)/4+firstBits, uint64(i-1)%4
	return time.Duration((4+quarter)<<(octave-2)) * time.Microsecond
}
