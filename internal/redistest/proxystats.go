package redistest

import "slices"

// Stats counts what a Proxy has delivered. What it holds back is not counted
// before it leaves.
type Stats struct {
	BytesUp, BytesDown int64 // from the client to the server, and back

	// RoundTrips counts how often bytes went up after bytes had come down, or
	// as the first of a connection. A command is one, and so is a pipeline,
	// but for one so large that the server's first replies cross its end.
	// Connecting takes go-redis some of its own, before the first command and
	// again before the first pipeline, for which it keeps other connections:
	// who counts does both once and then calls Reset.
	RoundTrips int64
}

func (c *proxyConn) countUp(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.BytesUp += int64(n)
	if !c.rising {
		c.rising = true
		c.stats.RoundTrips++
	}
}

func (c *proxyConn) countDown(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.BytesDown += int64(n)
	c.rising = false
}

func (c *proxyConn) snapshot() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// Stats returns the totals over all connections since the start or Reset,
// including those that have ended.
func (p *Proxy) Stats() Stats {
	var total Stats
	for _, s := range p.Conns() {
		total.BytesUp += s.BytesUp
		total.BytesDown += s.BytesDown
		total.RoundTrips += s.RoundTrips
	}
	return total
}

// Conns returns the counts of each connection in order of arrival, including
// those that have ended since the start or Reset.
func (p *Proxy) Conns() []Stats {
	var out []Stats
	for _, c := range p.known() {
		out = append(out, c.snapshot())
	}
	return out
}

// Reset zeroes all counters and forgets the connections that have ended. The
// next bytes up on a connection begin a round trip.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = slices.DeleteFunc(p.conns, (*proxyConn).reset)
	p.refused = 0
}

// reset zeroes the counters and says whether the connection has ended.
func (c *proxyConn) reset() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats, c.rising = Stats{}, false
	return c.ended
}
