package redislock_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/fence"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// history is what several processes did to the same locks, or to the registers that
// these guard: when each operation was called, when it was over, and what came of
// it. Porcupine looks for an order in which a model allows all of it.
//
// It is on one clock, that of the test. The processes do what they are told, so what
// they did began after they were told and was over before they said so.
type history struct {
	began time.Time
	mu    sync.Mutex
	ops   []porcupine.Operation
}

func (h *history) now() int64 { return int64(time.Since(h.began)) }

// neverEnds is when an operation is over of which the outcome is unknown: it may
// happen at any time after its call. If it never does, that is as if it did after all
// others.
const neverEnds = math.MaxInt64

func (h *history) add(client int, in any, call int64, out any, end int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: end})
}

// leaseOp is an operation on a lock, by its token.
//
//   - acquire: a lease began. A try without success is no operation: others may have
//     held the lock, or waited for it. Nor is one of which the outcome is unknown: it
//     may have taken a lease for a while, but that only keeps others out.
//   - release: the holder released the lease, which was held until then.
//   - end: the lease ended at some time after the call, which is when it was last
//     certain that it is held.
type leaseOp struct {
	op     string
	name   string
	token  uint64
	shared bool
	limit  int
}

// leaseState is what is held of a name. It can be compared with ==.
type leaseState struct {
	exclusive bool
	held      [64]uint64 // the tokens, the smallest first
	n         int        // so many
	top       uint64     // the largest token so far
	topAlone  uint64     // the largest of an exclusive lease
}

func (l leaseState) remove(token uint64) (leaseState, bool) {
	i := slices.Index(l.held[:l.n], token)
	if i < 0 {
		return l, false
	}
	copy(l.held[i:], l.held[i+1:])
	l.held[l.n-1] = 0
	l.n--
	l.exclusive = l.exclusive && l.n > 0
	return l, true
}

// leaseModel is a lock: nobody holds a lease together with an exclusive one, nor
// more shared ones than the limit. The token of an exclusive lease is larger than
// all before it, that of a shared one than those of all exclusive ones before it.
var leaseModel = porcupine.Model{
	Init:      func() any { return leaseState{} },
	Partition: byName,
	Step: func(state, in, _ any) (bool, any) {
		l, op := state.(leaseState), in.(leaseOp)
		switch op.op {
		case "acquire":
			fits := l.n == 0
			if op.shared {
				fits = !l.exclusive && (op.limit == 0 || l.n < op.limit)
			}
			grows := op.token > l.top
			if op.shared {
				grows = op.token > l.topAlone && !slices.Contains(l.held[:l.n], op.token)
			}
			if !fits || !grows || l.n == len(l.held) {
				return false, l
			}
			i, _ := slices.BinarySearch(l.held[:l.n], op.token)
			copy(l.held[i+1:], l.held[i:l.n])
			l.held[i] = op.token
			l.n++
			l.exclusive = !op.shared
			l.top = max(l.top, op.token)
			if l.exclusive {
				l.topAlone = op.token
			}
			return true, l
		case "release":
			l, held := l.remove(op.token)
			return held, l
		default:
			l, _ := l.remove(op.token)
			return true, l
		}
	},
	DescribeOperation: func(in, _ any) string {
		op := in.(leaseOp)
		kind := "exclusive"
		if op.shared {
			kind = "shared"
		}
		return fmt.Sprintf("%s %s %d", op.op, kind, op.token)
	},
	DescribeState: func(state any) string {
		l := state.(leaseState)
		return fmt.Sprintf("held: %v, exclusive: %v, last: %d", l.held[:l.n], l.exclusive, l.top)
	},
}

// byName takes apart what happens to each name.
func byName(history []porcupine.Operation) [][]porcupine.Operation {
	var parts [][]porcupine.Operation
	index := map[string]int{}
	for _, op := range history {
		var name string
		switch in := op.Input.(type) {
		case leaseOp:
			name = in.name
		case registerOp:
			name = in.name
		}
		i, ok := index[name]
		if !ok {
			i = len(parts)
			index[name] = i
			parts = append(parts, nil)
		}
		parts[i] = append(parts[i], op)
	}
	return parts
}

// bounded returns ops, and says of each lease that ended at some time what is certain:
// it did so before an exclusive one with a larger token was acquired. That changes
// nothing about which histories are legal, but porcupine has fewer orders to try.
func bounded(ops []porcupine.Operation) []porcupine.Operation {
	ops = slices.Clone(ops)
	for i := range ops {
		end := ops[i].Input.(leaseOp)
		if end.op != "end" {
			continue
		}
		for _, other := range ops {
			if in := other.Input.(leaseOp); in.op == "acquire" && !in.shared && in.name == end.name && in.token > end.token {
				ops[i].Return = min(ops[i].Return, max(other.Return, ops[i].Call))
			}
		}
	}
	return ops
}

// registerOp is a write with a token, or a read.
type registerOp struct {
	name  string
	write bool
	token uint64
	value string
}

// registerSaid is what came of it. A write is accepted, refused because of token,
// or nobody knows. A read returns the value and the token of the fence.
type registerSaid struct {
	outcome string
	token   uint64
	value   string
}

type registerState struct {
	token uint64
	value string
}

// registerModel is a register whose writes carry tokens: one that is smaller than
// one that was accepted before is refused, and a read returns what was accepted
// last.
var registerModel = porcupine.Model{
	Init:      func() any { return registerState{} },
	Partition: byName,
	Step: func(state, in, out any) (bool, any) {
		r, op, said := state.(registerState), in.(registerOp), out.(registerSaid)
		if !op.write {
			return r == registerState{said.token, said.value}, r
		}
		next := r
		if op.token >= r.token {
			next = registerState{op.token, op.value}
		}
		switch said.outcome {
		case writeAccepted:
			return op.token >= r.token, next
		case writeRefused:
			return op.token < r.token && said.token == r.token, r
		default:
			return true, next
		}
	},
	DescribeOperation: func(in, out any) string {
		op, said := in.(registerOp), out.(registerSaid)
		if !op.write {
			return fmt.Sprintf("read: %s under %d", said.value, said.token)
		}
		return fmt.Sprintf("write %s under %d: %s", op.value, op.token, said.outcome)
	},
}

const (
	writeAccepted = "accepted"
	writeRefused  = "refused"
	writeUnknown  = "unknown"
)

// requireLegal fails the test if there is no order in which model allows ops. It
// leaves a picture then.
func requireLegal(t *testing.T, what string, model porcupine.Model, ops []porcupine.Operation) {
	t.Helper()
	began := time.Now()
	result := porcupine.CheckOperationsTimeout(model, ops, time.Minute)
	t.Logf("%s: %d operations, %s after %v", what, len(ops), result, time.Since(began).Round(time.Millisecond))
	if result == porcupine.Ok {
		return
	}
	_, info := porcupine.CheckOperationsVerbose(model, ops, 10*time.Second)
	file := filepath.Join(os.TempDir(), fmt.Sprintf("herdless-%s-%d.html", what, os.Getpid()))
	err := porcupine.VisualizePath(model, info, file)
	t.Errorf("%s: of %d operations porcupine says %s; see %s (%v)", what, len(ops), result, file, err)
}

// clientEnv makes the test binary another process that uses the locks; its value
// is what serve needs.
const clientEnv = "HERDLESS_LOCK_CLIENT"

func init() {
	if args := strings.Fields(os.Getenv(clientEnv)); len(args) > 0 {
		if err := serve(os.Stdin, os.Stdout, args[0], args[1], args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// remoteCommand is what a process is told, and remoteAnswer what it says.
type remoteCommand struct {
	ID     int
	Op     string
	Name   string        // of the lock, or of the register that it guards
	Kind   string        // of the lease
	Within time.Duration // for how long it is waited for, at most
	Lease  int           // the ID under which it was acquired
	Token  uint64
	Value  string
}

type remoteAnswer struct {
	ID    int
	OK    bool
	Lost  bool
	Token uint64
	Value string
	Err   string
}

const (
	processTTL = 300 * time.Millisecond
	// processDrift is how early a process gives a lease up, as a part of its TTL.
	// It is so much because the timer that does it may be late on a busy machine:
	// by no more than hiccup, or the process would not answer in time either.
	processDrift = 0.3
	hiccup       = 25 * time.Millisecond
)

// giving is a Store that may give leases of short TTLs, too: for no longer than that.
// Places are kept for so long only, then.
type giving struct{ *redislock.Store }

func (giving) give(req lock.Request) lock.Request {
	if req.Place > 0 && !req.Shared {
		req.Give, req.Place = true, min(req.Place, req.TTL)
	}
	return req
}

func (g giving) TryAcquire(ctx context.Context, req lock.Request) (lock.Grant, error) {
	return g.Store.TryAcquire(ctx, g.give(req))
}

func (g giving) Extend(ctx context.Context, req lock.Request) (bool, error) {
	return g.Store.Extend(ctx, g.give(req))
}

func (g giving) Release(ctx context.Context, req lock.Request) (bool, error) {
	return g.Store.Release(ctx, g.give(req))
}

func (g giving) Relay(ctx context.Context, from, to lock.Request) (bool, lock.Grant, error) {
	return g.Store.Relay(ctx, g.give(from), g.give(to))
}

// serve does what it is told until its input ends, several commands at a time.
// Locks and registers have prefixes of their own.
func serve(in io.Reader, out io.Writer, addr, locks, registers string) error {
	redis.SetLogger(silentLogger{})
	rdb := redis.NewClient(&redis.Options{Addr: addr})
	// A write that is sent again because its answer was lost could come before and
	// after another's. Here it is sent once, and its outcome may be unknown.
	once := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, ContextTimeoutEnabled: true})
	locker, err := lock.New(giving{redislock.New(rdb, &redislock.Options{Prefix: locks})}, &lock.Options{DriftFactor: processDrift})
	if err != nil {
		return err
	}
	lockers := map[string]*lock.Locker{
		"exclusive": locker, "fair exclusive": locker.Fair(),
		"shared": locker.Shared(), "fair shared": locker.Fair().Shared(),
		"permit": locker.Semaphore(permitLimit), "fair permit": locker.Fair().Semaphore(permitLimit),
	}
	var mu sync.Mutex
	held := map[int]*lock.Lease{}
	say := json.NewEncoder(out)
	do := func(c remoteCommand) {
		a := remoteAnswer{ID: c.ID}
		mu.Lock()
		lease := held[c.Lease]
		mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), processTTL)
		defer cancel()
		var err error
		switch c.Op {
		case "acquire":
			ctx, cancel := context.WithTimeout(context.Background(), c.Within)
			defer cancel()
			if lease, err = lockers[c.Kind].Acquire(ctx, c.Name, processTTL); err == nil {
				a.Token = lease.Token()
			}
		case "alive":
			err = lease.Context().Err()
		case "release":
			err = lease.Release(ctx)
			a.Lost = errors.Is(err, lock.ErrLost)
		case "write":
			err = redislock.FencedSet(ctx, once, registers+c.Name, c.Value, c.Token, 0)
			if stale := (*fence.StaleError)(nil); errors.As(err, &stale) {
				a.Lost, a.Token = true, stale.Largest
			}
		case "write unguarded":
			err = once.HSet(ctx, registers+c.Name+unguarded, "fence", c.Token, "value", c.Value).Err()
		}
		if a.OK = err == nil; err != nil {
			a.Err = err.Error()
		}
		mu.Lock()
		defer mu.Unlock()
		if c.Op == "acquire" && err == nil {
			held[c.ID] = lease
		}
		_ = say.Encode(a) // if it fails nobody is there any more
	}
	commands := json.NewDecoder(in)
	for {
		var c remoteCommand
		if err := commands.Decode(&c); err != nil {
			return nil //nolint:nilerr // the test is over
		}
		go do(c)
	}
}

type silentLogger struct{}

func (silentLogger) Printf(context.Context, string, ...any) {}

const permitLimit = 3

// unguarded is what the name of a register ends with that looks at no token.
const unguarded = " unguarded"

// remote is another process. It reaches Redis through a proxy of its own.
type remote struct {
	cmd  *exec.Cmd
	gone chan struct{} // closed when it has ended

	mu      sync.Mutex
	to      *json.Encoder
	last    int
	waiting map[int]chan remoteAnswer
}

func startRemote(t *testing.T, args string) (*remote, error) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), clientEnv+"="+args)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &remote{cmd: cmd, gone: make(chan struct{}), to: json.NewEncoder(in), waiting: map[int]chan remoteAnswer{}}
	go func() {
		defer close(p.gone)
		answers := json.NewDecoder(out)
		for {
			var a remoteAnswer
			if err := answers.Decode(&a); err != nil {
				break
			}
			p.mu.Lock()
			p.waiting[a.ID] <- a
			delete(p.waiting, a.ID)
			p.mu.Unlock()
		}
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = in.Close()
		p.kill()
	})
	return p, nil
}

// kill is SIGKILL.
func (p *remote) kill() {
	_ = p.cmd.Process.Kill()
	<-p.gone
}

// pause stops the process for d, between any two of its instructions. It does
// nothing if somebody has killed it meanwhile.
func (p *remote) pause(d time.Duration) {
	_ = p.cmd.Process.Signal(syscall.SIGSTOP)
	time.Sleep(d)
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
}

// ask tells the process to do something. It returns false if it ended meanwhile:
// then it may or may not have done that.
func (p *remote) ask(c remoteCommand) (remoteAnswer, bool) {
	said := make(chan remoteAnswer, 1)
	p.mu.Lock()
	p.last++
	c.ID = p.last
	p.waiting[c.ID] = said
	err := p.to.Encode(c)
	p.mu.Unlock()
	if err == nil {
		select {
		case a := <-said:
			return a, true
		case <-p.gone:
		}
	}
	select {
	case a := <-said: // its last words
		return a, true
	default:
		return remoteAnswer{}, false
	}
}

// historyHost is where a process runs, and another one after that was killed.
type historyHost struct {
	t       *testing.T
	proxy   *redistest.Proxy
	args    string
	mu      sync.Mutex
	current *remote
}

func startHistoryHost(t *testing.T, server *redistest.Server, locks, registers string) *historyHost {
	h := &historyHost{t: t, proxy: redistest.NewProxy(t, server.Addr())}
	h.args = fmt.Sprintf("%s %s %s", h.proxy.Addr(), locks, registers)
	var err error
	h.current, err = startRemote(t, h.args)
	require.NoError(t, err)
	return h
}

func (h *historyHost) process() *remote {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.current
}

// kill ends p with all that it holds, and starts another in its place.
func (h *historyHost) kill(p *remote) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.current != p {
		return // somebody else has
	}
	p.kill()
	next, err := startRemote(h.t, h.args)
	if assert.NoError(h.t, err) {
		h.current = next
	}
}
