package redislock_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/fence"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// processVar makes the test binary another process that takes leases for a test;
// its value is the address of the Redis server and the prefix.
const processVar = "HERDLESS_LOCK_PROCESS"

func TestMain(m *testing.M) {
	if args := os.Getenv(processVar); args != "" {
		if err := serveProcess(strings.Fields(args)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(redistest.Run(m))
}

// process is another process with a Locker of its own. It does what the test
// orders, by net/rpc on its standard input and output, and ends with its input.
//
// All processes are on one machine, so the times that they tell are of the same
// clock.
type process struct {
	*rpc.Client
	cmd *exec.Cmd
}

// startProcess starts a process, which ends with the test.
func startProcess(t *testing.T, addr, prefix string) process {
	t.Helper()
	p, err := newProcess(addr, prefix)
	require.NoError(t, err)
	t.Cleanup(p.end)
	return p
}

func newProcess(addr, prefix string) (process, error) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s", processVar, addr, prefix))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return process{}, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return process{}, err
	}
	if err := cmd.Start(); err != nil {
		return process{}, err
	}
	return process{rpc.NewClient(pipes{out, in}), cmd}, nil
}

// end ends the process and waits until it is gone. It does nothing the second
// time.
func (p process) end() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	_ = p.Close()
}

// signal returns when it was sent, or rather just before.
func (p process) signal(t *testing.T, s syscall.Signal) time.Time {
	t.Helper()
	now := time.Now()
	require.NoError(t, p.cmd.Process.Signal(s))
	return now
}

// acquire takes a lease, which the process holds until it is told otherwise.
func (p process) acquire(t *testing.T, o Order) Held {
	t.Helper()
	var h Held
	require.NoError(t, p.Call("Process.Acquire", o, &h))
	return h
}

// acquireSoon is acquire for a lease that is held by another.
func (p process) acquireSoon(o Order) <-chan *rpc.Call {
	return p.Go("Process.Acquire", o, new(Held), make(chan *rpc.Call, 1)).Done
}

// release returns when the process began to release the lease.
func (p process) release(t *testing.T, name string) time.Time {
	t.Helper()
	var at time.Time
	require.NoError(t, p.Call("Process.Release", name, &at))
	return at
}

// held waits for the answer to acquireSoon.
func held(t *testing.T, call <-chan *rpc.Call) Held {
	t.Helper()
	c := <-call
	require.NoError(t, c.Error)
	return *c.Reply.(*Held)
}

// pipes is the two directions as one stream. Closing it closes both.
type pipes struct {
	io.ReadCloser
	w io.WriteCloser
}

func (p pipes) Write(data []byte) (int, error) { return p.w.Write(data) }
func (p pipes) Close() error                   { return errors.Join(p.w.Close(), p.ReadCloser.Close()) }

// serveProcess is the main function of a process.
func serveProcess(args []string) error {
	rdb := redis.NewClient(&redis.Options{Addr: args[0]})
	locker, err := lock.New(storeOn(rdb, args[1]), &lock.Options{DriftFactor: timersAreLate})
	if err != nil {
		return err
	}
	s := rpc.NewServer()
	if err := s.RegisterName("Process", &service{rdb: rdb, locker: locker, overtaken: make(chan Overtaken, 1), leases: make(map[string]*lock.Lease)}); err != nil {
		return err
	}
	s.ServeConn(pipes{untilTheEnd{os.Stdin}, os.Stdout})
	return nil
}

// untilTheEnd ends the process at the end of its input, whatever it does, so that
// none is left behind by a test that was killed.
type untilTheEnd struct{ io.ReadCloser }

func (u untilTheEnd) Read(data []byte) (int, error) {
	n, err := u.ReadCloser.Read(data)
	if err != nil {
		os.Exit(0)
	}
	return n, err
}

// service is what a process does for its parent.
type service struct {
	rdb       *redis.Client
	locker    *lock.Locker
	overtaken chan Overtaken

	mu     sync.Mutex
	worst  func() time.Duration   // of the Probe
	leases map[string]*lock.Lease // by name
}

// Probe begins to measure for how long the process is held up.
func (s *service) Probe(struct{}, *struct{}) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.worst, _ = probe()
	return nil
}

// Stalled answers what Probe has measured so far.
func (s *service) Stalled(_ struct{}, worst *time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	*worst = s.worst()
	return nil
}

// Order is about a lease.
type Order struct {
	Kind string // of the Locker: see ofKind
	Name string
	TTL  time.Duration
}

// Held is a lease that has been acquired.
type Held struct {
	Token uint64
	At    time.Time
}

// ofKind returns locker for no kind, and what it offers by the name of its method
// otherwise; a number is that of the permits of a semaphore.
func ofKind(locker *lock.Locker, kind string) *lock.Locker {
	switch kind {
	case "":
		return locker
	case "fair":
		return locker.Fair()
	case "shared":
		return locker.Shared()
	}
	n, err := strconv.Atoi(kind)
	if err != nil {
		panic(err)
	}
	return locker.Semaphore(n)
}

// Acquire waits for a lease and keeps it.
func (s *service) Acquire(o Order, h *Held) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	lease, err := ofKind(s.locker, o.Kind).Acquire(ctx, o.Name, o.TTL)
	if err != nil {
		return err
	}
	*h = Held{lease.Token(), time.Now()}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leases[o.Name] = lease
	return nil
}

// Turn waits for a lease and releases it.
func (s *service) Turn(o Order, h *Held) error {
	if err := s.Acquire(o, h); err != nil {
		return err
	}
	return s.Release(o.Name, new(time.Time))
}

// Release releases a lease and answers when it began to.
func (s *service) Release(name string, at *time.Time) error {
	lease := s.lease(name)
	*at = time.Now()
	return lease.Release(context.Background())
}

func (s *service) lease(name string) *lock.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leases[name]
}

// Write writes once under the lease called o.Name, at the key o.Key.
func (s *service) Write(o WriteOrder, _ *struct{}) error {
	return redislock.FencedSet(context.Background(), s.rdb, o.Key, o.Value, s.lease(o.Name).Token(), 0)
}

// WriteOrder is about guarded writes.
type WriteOrder struct {
	Name, Key, Value string
	Times            int
	Pause            time.Duration
}

// Overtaken is what a holder saw who was paused.
type Overtaken struct {
	Accepted, Refused int       // of the writes
	Ended             time.Time // when the context of the lease did
	Lost              bool      // its cause
	Stalled           time.Duration
}

// AwaitPause returns at once. From then on a pause of the whole process is noticed,
// and written after it without looking at the context, as one does whom the pause
// hit just before. Overtaken tells what came of it.
func (s *service) AwaitPause(o WriteOrder, _ *struct{}) error {
	lease := s.lease(o.Name)
	ended := make(chan time.Time, 1)
	context.AfterFunc(lease.Context(), func() { ended <- time.Now() })
	last := time.Now()
	go func() {
		for time.Since(last) < o.Pause {
			last = time.Now()
			time.Sleep(time.Millisecond)
		}
		worst, stop := probe() // not before: the pause is no stall
		defer stop()
		var result Overtaken
		for range o.Times {
			switch err := s.Write(o, nil); {
			case err == nil:
				result.Accepted++
			case errors.Is(err, fence.ErrStale):
				result.Refused++
			}
		}
		select {
		case result.Ended = <-ended:
		case <-time.After(patience):
		}
		result.Lost = errors.Is(context.Cause(lease.Context()), lock.ErrLost)
		result.Stalled = worst()
		s.overtaken <- result
	}()
	return nil
}

// Overtaken waits for the end of what AwaitPause has begun.
func (s *service) Overtaken(_ struct{}, result *Overtaken) error {
	select {
	case *result = <-s.overtaken:
		return nil
	case <-time.After(2 * patience):
		return errors.New("no pause")
	}
}

// ContendOrder has goroutines take one lease in turn until a time is over.
type ContendOrder struct {
	Name      string
	TTL       time.Duration
	Kinds     []string // one for each goroutine
	For, Hold time.Duration
	Dies      float64 // with what probability the process dies while it holds a lease
	Dir       string  // where it keeps its record
}

// Contend carries a ContendOrder out. Its record of when each lease was live, as
// far as the holder could tell, is a file, which survives the process. A line is
// the kind, which lease it is, a time, and whether the release follows.
func (s *service) Contend(o ContendOrder, _ *struct{}) error {
	file, err := os.OpenFile(filepath.Join(o.Dir, strconv.Itoa(os.Getpid())), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	over := time.Now().Add(o.For)
	var leases atomic.Int64
	errs := make([]error, len(o.Kinds))
	var wg sync.WaitGroup
	for i, kind := range o.Kinds {
		wg.Go(func() {
			for errs[i] == nil && time.Now().Before(over) {
				id := fmt.Sprintf("%d-%d", os.Getpid(), leases.Add(1))
				errs[i] = s.contend(o, kind, func(at time.Time, last bool) {
					fmt.Fprintf(file, "%q %s %d %v\n", kind, id, at.UnixNano(), last)
				})
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// contend is one lease of Contend.
func (s *service) contend(o ContendOrder, kind string, record func(at time.Time, last bool)) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	lease, err := ofKind(s.locker, kind).Acquire(ctx, o.Name, o.TTL)
	if err != nil {
		return err
	}
	hold, dies := o.Hold/2+rand.N(o.Hold), rand.Float64() < o.Dies
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		now := time.Now() // the lease is live now if its context says so after this
		if lease.Context().Err() != nil {
			break
		}
		over := now.Sub(began) >= hold
		record(now, over && !dies)
		if over && dies {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		if over {
			break
		}
	}
	if err := lease.Release(ctx); !errors.Is(err, lock.ErrLost) {
		return err
	}
	return nil // on a busy machine
}

// newLocker returns a Locker with a client of its own, as another server has.
func newLocker(t *testing.T, addr, prefix string) *lock.Locker {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: addr})
	t.Cleanup(func() { _ = rdb.Close() })
	return lockerOn(t, rdb, prefix)
}

func lockerOn(t *testing.T, rdb redislock.Client, prefix string) *lock.Locker {
	t.Helper()
	return lockerWith(t, storeOn(rdb, prefix))
}

func lockerWith(t *testing.T, store lock.Store) *lock.Locker {
	t.Helper()
	locker, err := lock.New(store, nil)
	require.NoError(t, err)
	return locker
}

// another returns a client like rdb with connections of its own.
func another(t *testing.T, rdb redis.UniversalClient) redis.UniversalClient {
	t.Helper()
	var other redis.UniversalClient
	switch rdb := rdb.(type) {
	case *redis.Client: // that of Sentinel, too: its options hold its way to the primary
		other = redis.NewClient(rdb.Options())
	case *redis.ClusterClient:
		other = redis.NewClusterClient(rdb.Options())
	default:
		t.Fatalf("a client of type %T", rdb)
	}
	t.Cleanup(func() { _ = other.Close() })
	return other
}

// patience is what even a busy machine should not need.
const patience = 30 * time.Second

// within returns t's context, bounded by patience.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually polls until ok, and fails the test if that takes too long.
func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for began := time.Now(); !ok(); time.Sleep(time.Millisecond) {
		if time.Since(began) > limit {
			require.FailNow(t, "not within "+limit.String()+": "+what)
		}
	}
}

// reliable is what a Locker counts on of a TTL.
func reliable(ttl time.Duration) time.Duration { return ttl - ttl/100 - 2*time.Millisecond }

// timersAreLate is a drift factor for tests that look whether a lease is still
// alive when another one is. With the default, a timer that a busy machine runs
// some milliseconds late is taken for two holders at a time.
const timersAreLate = 0.1

// slack is what a busy machine may add to a deadline.
const slack = 500 * time.Millisecond

// stalls measures for how long this machine holds up who wants to run now, which
// no deadline can be better than: in this process, and in those that take part. It
// looks until the test ends; worst returns the worst so far.
func stalls(t *testing.T, processes ...process) (worst func() time.Duration) {
	t.Helper()
	here, stop := probe()
	t.Cleanup(stop)
	for _, p := range processes {
		require.NoError(t, p.Call("Process.Probe", struct{}{}, new(struct{})))
	}
	return func() time.Duration {
		longest := here()
		for _, p := range processes {
			var there time.Duration
			require.NoError(t, p.Call("Process.Stalled", struct{}{}, &there))
			longest = max(longest, there)
		}
		return longest
	}
}

// probe measures for how long this process is held up, until stop.
func probe() (worst func() time.Duration, stop func()) {
	var longest atomic.Int64
	stopped := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		const nap = time.Millisecond
		for {
			began := time.Now()
			select {
			case <-time.After(nap):
				longest.Store(max(longest.Load(), int64(time.Since(began)-nap)))
			case <-stopped:
				return
			}
		}
	})
	return func() time.Duration { return time.Duration(longest.Load()) }, func() { close(stopped); wg.Wait() }
}

// percentile returns the p-th of sorted figures.
func percentile(sorted []time.Duration, p int) time.Duration {
	return sorted[min(len(sorted)*p/100, len(sorted)-1)]
}
