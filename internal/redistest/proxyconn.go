package redistest

import (
	"net"
	"sync"
	"time"
)

// proxyConn is one connection through a Proxy.
type proxyConn struct {
	proxy    *Proxy
	client   net.Conn
	up, down *proxyLine
	done     chan struct{} // closed by end

	mu     sync.Mutex
	ended  bool
	server net.Conn // nil until it is connected
	stats  Stats
	rising bool // bytes went up last
}

func newProxyConn(p *Proxy, client net.Conn) *proxyConn {
	c := &proxyConn{proxy: p, client: client, done: make(chan struct{})}
	c.up, c.down = newProxyLine(c), newProxyLine(c)
	return c
}

func (c *proxyConn) lines() [2]*proxyLine { return [2]*proxyLine{c.up, c.down} }

// serve connects to the server and returns when the connection has ended.
func (c *proxyConn) serve() {
	defer c.end()
	d := net.Dialer{Timeout: 10 * time.Second}
	server, err := d.DialContext(c.proxy.ctx, "tcp", c.proxy.target)
	if err != nil || !c.connected(server) {
		return
	}
	var lines sync.WaitGroup
	lines.Go(func() { c.up.read(c.client, func() time.Time { return time.Time{} }) })
	lines.Go(func() { c.up.write(server, c.countUp) })
	lines.Go(func() { c.down.read(server, c.proxy.due) })
	lines.Go(func() { c.down.write(c.client, c.countDown) })
	lines.Wait()
}

// connected keeps server, unless the connection has been cut meanwhile: then
// it closes server and returns false.
func (c *proxyConn) connected(server net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		_ = server.Close()
		return false
	}
	c.server = server
	return true
}

// end closes both sides.
func (c *proxyConn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.ended = true
	close(c.done)
	_ = c.client.Close()
	if c.server != nil {
		_ = c.server.Close()
	}
}

// proxyLine is one direction of a connection. What has been read waits in the
// queue until it may be written.
type proxyLine struct {
	conn  *proxyConn
	queue chan proxyChunk
	turn  chan struct{} // holds an element during a delivery
}

// proxyChunk is some bytes, or none for the end of the stream.
type proxyChunk struct {
	data []byte
	due  time.Time
}

func newProxyLine(c *proxyConn) *proxyLine {
	// The bound on the queue bounds the memory that a held-back or slow
	// connection takes: 2 MiB a direction, after which the system's buffers
	// fill and the sender has to wait.
	return &proxyLine{conn: c, queue: make(chan proxyChunk, 64), turn: make(chan struct{}, 1)}
}

// read queues what comes from one side until that ends, for the time that due
// returns.
func (l *proxyLine) read(from net.Conn, due func() time.Time) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && !l.put(proxyChunk{data: append([]byte(nil), buf[:n]...), due: due()}) {
			return
		}
		if err != nil { // the end, or a reset, which is passed on as an end
			l.put(proxyChunk{due: due()})
			return
		}
	}
}

func (l *proxyLine) put(c proxyChunk) bool {
	select {
	case l.queue <- c:
		return true
	case <-l.conn.done:
		return false
	}
}

// write delivers what is queued to the other side, until the end of the stream
// or of the connection. count is told of bytes before they leave, so that
// whoever has received them finds them counted.
func (l *proxyLine) write(to net.Conn, count func(n int)) {
	for {
		select {
		case c := <-l.queue:
			if !l.deliver(to, c, count) {
				return
			}
		case <-l.conn.done:
			return
		}
	}
}

// deliver returns false when nothing can follow.
func (l *proxyLine) deliver(to net.Conn, c proxyChunk, count func(n int)) bool {
	if wait := time.Until(c.due); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-l.conn.done:
			return false
		}
	}
	if !l.pass() {
		return false
	}
	defer func() { <-l.turn }()
	if len(c.data) == 0 {
		if half, ok := to.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
			l.conn.end()
		}
		return false
	}
	count(len(c.data))
	if _, err := to.Write(c.data); err != nil {
		l.conn.end()
		return false
	}
	return true
}

// pass waits until the gate is open and takes the turn, which the caller gives
// back; it returns false, without the turn, if the connection ends before.
//
// That it looks at the gate again once it has the turn prevents this: it finds
// the gate open; Blackhole shuts it, finds no delivery under way, and returns;
// the bytes are delivered all the same.
func (l *proxyLine) pass() bool {
	for {
		select {
		case <-l.conn.proxy.gate():
		case <-l.conn.done:
			return false
		}
		l.turn <- struct{}{} // at most an instant: Blackhole gives it back at once
		select {
		case <-l.conn.proxy.gate():
			return true
		default:
			<-l.turn
		}
	}
}
