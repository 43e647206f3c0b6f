package redistest

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// Proxy stands on loopback in front of a server, counts what passes, and
// breaks what it is told to break: latency, cut connections, a server that
// refuses, a network that swallows everything. Its methods are safe for
// concurrent use; a change holds for present and new connections alike.
//
// Up is the direction from the client to the server, down the other one.
type Proxy struct {
	target   string
	listener net.Listener
	ctx      context.Context // ends dials
	cancel   context.CancelFunc
	running  sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	refuse  bool
	refused int // how many connections, since Reset
	latency time.Duration
	open    chan struct{} // closed while bytes may pass
	conns   []*proxyConn  // in order of arrival, with those that have ended since Reset
}

// NewProxy starts a proxy in front of target, a "host:port", for this test
// alone, and closes it with the test. Nothing is broken at first.
func NewProxy(tb testing.TB, target string) *Proxy {
	tb.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("redistest: proxy: %v", err)
	}
	p := &Proxy{target: target, listener: l, open: make(chan struct{})}
	close(p.open)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.running.Go(p.accept)
	tb.Cleanup(p.close)
	return p
}

// close ends the proxy with all its goroutines.
func (p *Proxy) close() {
	p.cancel()
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	p.cut()
	p.mu.Unlock()
	p.running.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // the client has gone before it was accepted
		}
		p.mu.Lock()
		if p.closed || p.refuse {
			_ = client.Close()
			p.refused++
		} else {
			c := newProxyConn(p, client)
			p.conns = append(p.conns, c)
			p.running.Go(c.serve)
		}
		p.mu.Unlock()
	}
}

// Addr returns the address for clients, "127.0.0.1:port".
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// SetLatency delays each reply, that is whatever comes down from now on, by d;
// 0, the default, for no delay. Requests are not delayed, so that d is what a
// round trip takes longer. Replies that arrive together leave together: it is
// a long line and not a narrow one.
func (p *Proxy) SetLatency(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.latency = d
}

// Cut closes all present connections, with what is under way on them. New ones
// are accepted.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut()
}

// cut is called with mu held.
func (p *Proxy) cut() {
	for _, c := range p.conns {
		c.end()
	}
}

// Refuse cuts all present connections and, while on, closes new ones at once.
// They do not appear in Conns.
func (p *Proxy) Refuse(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = on
	if on {
		p.cut()
	}
}

// Refused returns how many connections Refuse has closed as they came, since the
// start or Reset.
func (p *Proxy) Refused() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refused
}

// Blackhole holds back, while on, all bytes in both directions: after it has
// returned, nothing is delivered. Connections stay open and new ones are
// accepted, and no side learns that the other has closed one. When it is off
// again, what was held back is delivered.
func (p *Proxy) Blackhole(on bool) {
	if !p.shut(on) {
		return
	}
	// A delivery that had found the gate open ends now. One whose receiver does
	// not read may take for ever; it is not waited for.
	limit := time.NewTimer(time.Second)
	defer limit.Stop()
	for _, c := range p.known() {
		for _, l := range c.lines() {
			select {
			case l.turn <- struct{}{}:
				<-l.turn
			case <-c.done:
			case <-limit.C:
				return
			}
		}
	}
}

// shut shuts or opens the gate and says whether that shut it.
func (p *Proxy) shut(on bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
		if on {
			p.open = make(chan struct{})
		}
		return on
	default:
		if !on {
			close(p.open)
		}
		return false
	}
}

func (p *Proxy) known() []*proxyConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.conns)
}

// gate returns a channel that is closed while bytes may pass.
func (p *Proxy) gate() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open
}

// due returns when a reply that arrives now may leave.
func (p *Proxy) due() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Add(p.latency)
}
