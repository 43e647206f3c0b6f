package redistest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Deadlines are generous, because a loaded machine must not fail a test: what
// goes well never comes near them.
const (
	startLimit = 30 * time.Second
	stateLimit = 60 * time.Second
)

// Server is one redis-server on 127.0.0.1, without persistence. Its methods
// are safe for concurrent use.
type Server struct {
	port int
	dir  string
	args []string
	// config, if not nil, returns the content of a configuration file, which
	// Sentinel insists on. It is written anew before each start.
	config func(port int) string

	mu   sync.Mutex // held while it is started, killed, stopped or continued
	proc *process   // the present run or, after Kill, the last one
	hung bool       // by Stop
}

// standalone is the server that Standalone shares.
var standalone = sync.OnceValues(func() (*Server, error) { return startServer(nil) })

// Standalone returns the server that all tests of the binary share; the first
// call starts it. If it could not be started, every caller fails.
func Standalone(tb testing.TB) *Server {
	tb.Helper()
	s, err := standalone()
	if err != nil {
		tb.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.proc.running() {
		tb.Fatalf("redistest: the shared redis-server on %s has ended; %s", s.Addr(), s.proc.logTail())
	}
	return s
}

// NewStandalone starts a server for this test alone, which may kill or stop
// it, and ends it with the test. args are further options of redis-server,
// such as "--maxmemory", "10mb"; they win over those that the package sets.
func NewStandalone(tb testing.TB, args ...string) *Server {
	tb.Helper()
	s, err := startServer(nil, args...)
	if err != nil {
		tb.Fatal(err)
	}
	endWith(tb, s)
	return s
}

// endWith ends the servers with the test, in this order.
func endWith(tb testing.TB, list ...*Server) {
	tb.Cleanup(func() {
		for _, s := range list {
			if err := s.end(); err != nil {
				tb.Error(err)
			}
		}
	})
}

// startServer starts a server on a free port and returns once it answers.
func startServer(config func(port int) string, args ...string) (*Server, error) {
	return startServerOn(ports.take, config, args...)
}

// startServerOn takes another port from take if somebody was faster.
func startServerOn(take func() (int, error), config func(port int) string, args ...string) (*Server, error) {
	var errs []error
	for range 5 {
		port, err := take()
		if err != nil {
			return nil, err
		}
		s := &Server{port: port, args: args, config: config}
		if s.dir, err = servers.mkdir(); err == nil {
			if err = s.start(context.Background()); err == nil {
				return s, nil
			}
		}
		errs = append(errs, err, s.end())
		if !errors.Is(err, errPortTaken) {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// startServers starts n servers at once; on an error none is left running.
// args returns the options of the i-th.
func startServers(n int, config func(port int) string, args func(i int) []string) ([]*Server, error) {
	list := make([]*Server, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { list[i], errs[i] = startServer(config, args(i)...) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, endAll(list))
	}
	return list, nil
}

// endAll ends those of the servers that are not nil.
func endAll(list []*Server) error {
	var errs []error
	for _, s := range list {
		if s != nil {
			errs = append(errs, s.end())
		}
	}
	return errors.Join(errs...)
}

// start starts the process and waits until it answers. It is called before
// others see the server, or with mu held.
func (s *Server) start(ctx context.Context) error {
	args := []string{}
	if s.config != nil {
		file := filepath.Join(s.dir, "redis.conf")
		if err := os.WriteFile(file, []byte(s.config(s.port)), 0o600); err != nil {
			return fmt.Errorf("redistest: %w", err)
		}
		args = append(args, file)
	}
	args = append(
		args,
		"--port", strconv.Itoa(s.port),
		"--bind", "127.0.0.1",
		"--dir", s.dir,
		"--daemonize", "no",
	)
	if s.config == nil { // Sentinel knows of no data
		args = append(args, "--save", "", "--appendonly", "no")
	}
	proc, err := servers.start(s.dir, append(args, s.args...)...)
	if err != nil {
		return err
	}
	s.proc, s.hung = proc, false
	err = until(ctx, startLimit, "start redis-server on "+s.Addr(), func(ctx context.Context) error {
		if proc.running() {
			return s.answers(ctx)
		}
		if strings.Contains(proc.logTail(), "Address already in use") {
			return permanent{fmt.Errorf("redistest: redis-server on %s: %w", s.Addr(), errPortTaken)}
		}
		return permanent{fmt.Errorf("redistest: redis-server on %s ended at its start", s.Addr())}
	})
	if err != nil {
		return fmt.Errorf("%w; %s", err, proc.logTail())
	}
	return nil
}

// answers returns nil if it is the present process, and no stranger on the
// same port, that answers PING on the server's port. It speaks to it without
// go-redis, whose pool backs off after failed dials.
func (s *Server) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp4", s.Addr())
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("INFO server\r\nPING\r\n")); err != nil {
		return err
	}
	var reply strings.Builder
	buf := make([]byte, 4096)
	for !strings.HasSuffix(reply.String(), "+PONG\r\n") {
		n, err := conn.Read(buf)
		if err != nil {
			return fmt.Errorf("no answer to PING: %w; so far: %q", err, reply.String())
		}
		reply.Write(buf[:n])
	}
	if !strings.Contains(reply.String(), fmt.Sprintf("\nprocess_id:%d\r", s.proc.pid())) {
		return fmt.Errorf("%w: another redis-server answers on %s", errPortTaken, s.Addr())
	}
	return nil
}

// end kills the server and removes what it leaves behind.
func (s *Server) end() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc != nil {
		if err := s.proc.kill(); err != nil {
			return err
		}
	}
	ports.release(s.port)
	if s.dir == "" {
		return nil
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("redistest: %w", err)
	}
	return nil
}

// Addr returns the address, "127.0.0.1:port". It never changes.
func (s *Server) Addr() string { return loopback(s.port) }

// URL returns "redis://127.0.0.1:port/0".
func (s *Server) URL() string { return "redis://" + s.Addr() + "/0" }

// PID returns the id of the server's process; after Kill, of the last one.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc.pid()
}

// Client returns a new client with go-redis's defaults, which is closed with
// the test.
func (s *Server) Client(tb testing.TB) *redis.Client {
	rdb := redis.NewClient(&redis.Options{Addr: s.Addr()})
	closeWith(tb, rdb)
	return rdb
}

// closeWith closes the client with the test. The test may close it before.
func closeWith(tb testing.TB, rdb redis.UniversalClient) {
	tb.Cleanup(func() {
		if err := rdb.Close(); err != nil && !errors.Is(err, redis.ErrClosed) {
			tb.Errorf("redistest: close client: %v", err)
		}
	})
}
