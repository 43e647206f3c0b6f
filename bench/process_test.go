package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// addrVar makes this test binary a process of a benchmark; it is the address of
// the Redis server.
const addrVar = "HERDLESS_BENCH_ADDR"

// patience ends what would otherwise hang.
const patience = time.Minute

// process is another process that works for a benchmark, as net/rpc on its
// standard input and output. It ends with its input.
//
// All processes are on one machine, so their times, in nanoseconds since 1970,
// are of the same clock.
type process struct{ *rpc.Client }

// startProcesses starts n of them, which end with the benchmark.
func startProcesses(b *testing.B, n int, addr string) []process {
	b.Helper()
	bin, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	list := make([]process, n)
	for i := range list {
		cmd := exec.CommandContext(b.Context(), bin)
		cmd.Env = append(os.Environ(), addrVar+"="+addr)
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			b.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		list[i] = process{rpc.NewClient(pipes{out, in})}
		b.Cleanup(func() {
			_ = list[i].Close()
			_ = cmd.Wait() // b's context has killed it, if it has not ended by itself
		})
	}
	return list
}

// pipes is the two directions as one stream. Closing it closes both.
type pipes struct {
	io.ReadCloser
	w io.WriteCloser
}

func (p pipes) Write(data []byte) (int, error) { return p.w.Write(data) }
func (p pipes) Close() error                   { return errors.Join(p.w.Close(), p.ReadCloser.Close()) }

// serveProcess is the main function of a process.
func serveProcess(addr string) error {
	s := rpc.NewServer()
	if err := s.RegisterName("Process", &service{addr: addr, lockers: make(map[string]countedLocker), helds: make(map[string]held), sites: make(map[string]*openSite)}); err != nil {
		return err
	}
	s.ServeConn(pipes{os.Stdin, os.Stdout})
	return nil
}

// service is what a process does for its parent.
type service struct {
	addr string

	mu      sync.Mutex
	lockers map[string]countedLocker // one for each contender, with a client of its own
	helds   map[string]held
	sites   map[string]*openSite
	crew    *crew // of Work
}

// countedLocker is a locker and the tries of its client.
type countedLocker struct {
	locker
	*tries
}

func (s *service) locker(contender string) (countedLocker, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l, ok := s.lockers[contender]; ok {
		return l, nil
	}
	c, err := contenderNamed(contender)
	if err != nil {
		return countedLocker{}, err
	}
	rdb := newClient(s.addr)
	l := countedLocker{tries: new(tries)}
	rdb.AddHook(l.tries)
	if l.locker, err = c.open(rdb, lockTTL); err != nil {
		return countedLocker{}, err
	}
	s.lockers[contender] = l
	return l, nil
}

// tries counts the commands of a client that are like its first: with nothing
// held, there is nothing to do with a lock but to ask for it.
type tries struct {
	first atomic.Pointer[string]
	n     atomic.Int64
}

// DialHook implements redis.Hook.
func (*tries) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessPipelineHook implements redis.Hook.
func (t *tries) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			t.see(cmd)
		}
		return next(ctx, cmds)
	}
}

// ProcessHook implements redis.Hook.
func (t *tries) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		t.see(cmd)
		return next(ctx, cmd)
	}
}

// see compares the names of commands, and of scripts which script they are.
func (t *tries) see(cmd redis.Cmder) {
	kind := cmd.Name()
	if script, ok := cmd.Args()[min(1, len(cmd.Args())-1)].(string); ok && kind == "evalsha" {
		kind = script
	}
	if t.first.CompareAndSwap(nil, &kind) || *t.first.Load() == kind {
		t.n.Add(1)
	}
}

// LockOrder asks for a lock, or for its release.
type LockOrder struct{ Contender, Name string }

// Lock waits for a lock and answers when it had it.
func (s *service) Lock(o LockOrder, acquired *int64) error {
	l, err := s.locker(o.Contender)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h, err := l.wait(ctx, o.Name)
	*acquired = time.Now().UnixNano()
	if err != nil {
		return fmt.Errorf("%s: %w", o.Contender, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.helds[o.Name] = h
	return nil
}

// Unlock releases a lock and answers when it began to.
func (s *service) Unlock(o LockOrder, released *int64) error {
	s.mu.Lock()
	h := s.helds[o.Name]
	delete(s.helds, o.Name)
	s.mu.Unlock()
	*released = time.Now().UnixNano()
	if err := h.unlock(context.Background()); err != nil {
		return fmt.Errorf("%s: %w", o.Contender, err)
	}
	return nil
}

// ContendOrder has goroutines take one lock in turn until a time is over, and
// hold it for a while each time.
type ContendOrder struct {
	LockOrder
	Goroutines int
	For, Hold  time.Duration
}

// Contention is what came of it.
type Contention struct {
	Holds       []Hold
	LongestWait time.Duration // also of one that was not over at the end
	CPU         time.Duration
	GaveUp      int
	Tries       int64
}

// Hold is a time for which the lock was held for sure: from when the lock had
// been acquired to just before it was released.
type Hold struct {
	From, To int64
	Waited   time.Duration
	Fence    uint64
}

// Contend carries a ContendOrder out.
func (s *service) Contend(o ContendOrder, result *Contention) error {
	l, err := s.locker(o.Contender)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), o.For)
	defer cancel()
	cpu, tried := cpuTime(), l.n.Load()
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for range o.Goroutines {
		wg.Go(func() {
			got, err := contend(ctx, l, o)
			mu.Lock()
			defer mu.Unlock()
			result.Holds = append(result.Holds, got.Holds...)
			result.LongestWait = max(result.LongestWait, got.LongestWait)
			result.GaveUp += got.GaveUp
			errs = append(errs, err)
		})
	}
	wg.Wait()
	result.CPU, result.Tries = cpuTime()-cpu, l.n.Load()-tried
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%s: %w", o.Contender, err)
	}
	return nil
}

// contend is one goroutine of Contend.
func contend(ctx context.Context, l locker, o ContendOrder) (Contention, error) {
	var c Contention
	end, _ := ctx.Deadline()
	asked := time.Now()
	for {
		h, err := l.wait(ctx, o.Name)
		acquired := time.Now()
		waited := acquired.Sub(asked)
		c.LongestWait = max(c.LongestWait, waited)
		switch {
		case err == nil:
		case !acquired.Before(end):
			return c, nil // ctx's error may not be there yet
		case errors.Is(err, errGaveUp):
			c.GaveUp++
			continue // the waiting goes on
		default:
			return c, err
		}
		time.Sleep(o.Hold)
		c.Holds = append(c.Holds, Hold{acquired.UnixNano(), time.Now().UnixNano(), waited, h.fence()})
		if err := h.unlock(context.WithoutCancel(ctx)); err != nil {
			return c, err
		}
		asked = time.Now()
	}
}
