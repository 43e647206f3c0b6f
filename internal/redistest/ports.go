package redistest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// Ports are taken from below the ranges out of which systems serve outgoing
// connections (from 32768 on Linux, from 49152 on macOS), and so are the
// cluster bus ports above them. Port 0 would give a port from within such a
// range, and then an outgoing connection of any process could sit on the port
// of a killed server by the time it is restarted.
const (
	firstPort     = 10000
	lastPort      = 22000
	busPortOffset = 10000 // fixed by Redis before 7.0
)

// errPortTaken says that a server could not have its port because another
// process was faster.
var errPortTaken = errors.New("port taken by another process")

// portBook hands out ports, none of them twice while it is held, so that a
// killed server finds its own port free when it is restarted, and so that the
// nodes of a Cluster never meet a stranger where a killed one was: they would
// strike its address from their lists and let no replica take over from it.
// Tests of several packages run at once, so that a port is also claimed against
// other processes.
type portBook struct {
	mu     sync.Mutex
	held   map[int]bool
	claims *os.File // of all processes of this user; nil until the first take
}

var ports = portBook{held: make(map[int]bool)}

// take returns a port on which nothing listens at present, and nothing on its
// cluster bus port either. A process that is not a test can still take it
// before the server does: who starts a server tries again then.
func (b *portBook) take() (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.open(); err != nil {
		return 0, err
	}
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		if b.held[port] || !claim(b.claims, port) {
			continue
		}
		if free(port) && free(port+busPortOffset) {
			b.held[port] = true
			return port, nil
		}
		unclaim(b.claims, port)
	}
	return 0, fmt.Errorf("redistest: no free port between %d and %d", firstPort, lastPort)
}

// open is called with mu held.
func (b *portBook) open() error {
	if b.claims != nil {
		return nil
	}
	name := filepath.Join(os.TempDir(), fmt.Sprintf("herdless-redistest-ports-%d", os.Getuid()))
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("redistest: claims to ports: %w", err)
	}
	b.claims = f
	return nil
}

func (b *portBook) release(port int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held[port] {
		delete(b.held, port)
		unclaim(b.claims, port)
	}
}

func free(port int) bool {
	l, err := net.Listen("tcp4", loopback(port))
	if err != nil {
		return false
	}
	return l.Close() == nil
}

func loopback(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}
