package redisconn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// failuresToWait is how many dials of a server must fail, one after the
	// other, before it is dialled now and then only.
	failuresToWait = 3
	// dialEvery is how often, while that lasts. A feature asks a store that
	// failed again after 950 ms, and should not come too early.
	dialEvery = 900 * time.Millisecond
)

// dialer dials a server that is away once a second. go-redis dials for each
// command and each repetition of it: all requests of all processes knock on the
// door that is about to open. And it counts: after PoolSize failures it leaves the
// server alone, but for a look once a second in the background, whose second comes
// on top of that of everybody who has stopped asking. So it is not told of
// failures: it gets connections that fail, see deadConn.
type dialer struct {
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	quiet time.Duration // a silence that is as long is not due to a caller in a hurry

	mu   sync.Mutex
	away map[string]*failing // by address; those that can be reached are not in it
}

type failing struct {
	times int
	last  time.Time // when it was dialled last
	err   error
}

// newDialer returns a dialer for a client that waits for readTimeout, or for as long as its
// caller does. Half of it is silence enough: those who have just as much time, as sessions
// by default, have spent some of it when they ask.
func newDialer(dial func(ctx context.Context, network, addr string) (net.Conn, error), readTimeout time.Duration) *dialer {
	return &dialer{dial: dial, quiet: readTimeout / 2, away: make(map[string]*failing)}
}

// Dial is for go-redis' Options.Dialer.
func (d *dialer) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if err := d.refuse(addr); err != nil {
		return deadConn{err}, nil //nolint:nilerr // the connection has it
	}
	conn, err := d.dial(ctx, network, addr)
	switch {
	case err == nil:
		return d.watch(conn, addr), nil
	case errors.Is(ctx.Err(), context.Canceled):
		return nil, err // it was given up, which says little about the server
	}
	d.tell(addr, err)
	return deadConn{err}, nil
}

// refuse returns an error if addr must not be dialled now.
func (d *dialer) refuse(addr string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.away[addr]
	switch {
	case f == nil || f.times < failuresToWait:
		return nil
	case time.Since(f.last) >= dialEvery:
		f.last = time.Now() // others have to wait for what comes of it
		return nil
	}
	// Not wrapped: go-redis would take it for a reason to try again.
	return fmt.Errorf("redisconn: the server could not be reached, and is dialled once a second until it can: %v", f.err) //nolint:errorlint // see above
}

// tell notes whether addr could be reached.
func (d *dialer) tell(addr string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		delete(d.away, addr)
		return
	}
	f := d.away[addr]
	if f == nil {
		f = &failing{}
		d.away[addr] = f
	}
	f.times++
	f.last, f.err = time.Now(), err
}

// watchedConn tells whether the server has said anything: one that takes
// connections and closes them is not there, and neither is one that never answers.
// Who closes it before there can be an answer, as its caller's time is up, says
// nothing about the server.
type watchedConn struct {
	net.Conn
	quiet  time.Duration
	asked  atomic.Pointer[time.Time] // when something was written first
	failed atomic.Bool               // otherwise than by a deadline
	once   sync.Once
	told   func(err error)
}

// watchedSocket is one whose file go-redis can look at, to find out whether an idle
// connection is still open.
type watchedSocket struct {
	*watchedConn
	syscall.Conn
}

func (d *dialer) watch(conn net.Conn, addr string) net.Conn {
	w := &watchedConn{Conn: conn, quiet: d.quiet, told: func(err error) { d.tell(addr, err) }}
	if socket, ok := conn.(syscall.Conn); ok {
		return watchedSocket{w, socket}
	}
	return w
}

var errSilent = errors.New("it has closed the connection, or was silent on it")

func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.once.Do(func() { c.told(nil) })
	}
	c.note(err)
	return n, err
}

func (c *watchedConn) Write(b []byte) (int, error) {
	if c.asked.Load() == nil {
		now := time.Now()
		c.asked.Store(&now)
	}
	n, err := c.Conn.Write(b)
	c.note(err)
	return n, err
}

func (c *watchedConn) note(err error) {
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.failed.Store(true)
	}
}

func (c *watchedConn) Close() error {
	asked := c.asked.Load()
	if c.failed.Load() || asked != nil && time.Since(*asked) >= c.quiet {
		c.once.Do(func() { c.told(errSilent) })
	}
	return c.Conn.Close()
}

// deadConn is a connection that has failed from the start.
type deadConn struct{ err error }

func (c deadConn) Read([]byte) (int, error)       { return 0, c.err }
func (c deadConn) Write([]byte) (int, error)      { return 0, c.err }
func (deadConn) Close() error                     { return nil }
func (deadConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (deadConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (deadConn) SetDeadline(time.Time) error      { return nil }
func (deadConn) SetReadDeadline(time.Time) error  { return nil }
func (deadConn) SetWriteDeadline(time.Time) error { return nil }
