package redistest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Kill ends the process with SIGKILL and returns when it is gone. It does
// nothing if the process is gone already.
func (s *Server) Kill(tb testing.TB) {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.proc.kill(); err != nil {
		tb.Fatal(err)
	}
}

// Stop stops the process with SIGSTOP, so that the server hangs: connections
// are accepted by the system, nothing is answered. It returns when the process
// has stopped. Kill, Restart and the end of the test work on a stopped server.
func (s *Server) Stop(tb testing.TB) {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := suspend(s.proc.cmd.Process); err != nil {
		tb.Fatalf("redistest: stop %s: %v", s.Addr(), err)
	}
	s.hung = true
	// The signal is sent, but the process may be about to answer on another
	// processor.
	err := until(context.Background(), startLimit, "stop "+s.Addr(), func(context.Context) error {
		if state := processState(s.proc.pid()); state != "T" {
			return fmt.Errorf("process %d is in state %q", s.proc.pid(), state)
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// Continue lets a stopped process go on, with SIGCONT. It does nothing to one
// that runs.
func (s *Server) Continue(tb testing.TB) {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := resume(s.proc.cmd.Process); err != nil {
		tb.Fatalf("redistest: continue %s: %v", s.Addr(), err)
	}
	s.hung = false
}

// Restart starts the server again on the same port, without any data, and
// returns when it answers. A running one is killed before. A cluster node
// keeps its identity, a server under Sentinel the options that it began with.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.restart(); err != nil {
		tb.Fatal(err)
	}
}

func (s *Server) restart() error {
	if err := s.proc.kill(); err != nil {
		return err
	}
	// A replica may have kept the snapshot that its primary sent.
	dumps, err := filepath.Glob(filepath.Join(s.dir, "*.rdb"))
	if err != nil {
		return fmt.Errorf("redistest: %w", err)
	}
	for _, dump := range append(dumps, filepath.Join(s.dir, "appendonlydir"), filepath.Join(s.dir, "appendonly.aof")) {
		if err := os.RemoveAll(dump); err != nil {
			return fmt.Errorf("redistest: %w", err)
		}
	}
	// Whoever sits on the port may only be looking whether it is free.
	return until(context.Background(), startLimit, "restart "+s.Addr(), func(ctx context.Context) error {
		err := s.start(ctx)
		if err != nil && !errors.Is(err, errPortTaken) {
			return permanent{err}
		}
		return err
	})
}

// awake says whether the server can be expected to answer: no test has killed
// or stopped it.
func (s *Server) awake() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc.running() && !s.hung
}

// awake returns those of the servers that can be expected to answer.
func awake(list []*Server) []*Server {
	var out []*Server
	for _, s := range list {
		if s.awake() {
			out = append(out, s)
		}
	}
	return out
}
