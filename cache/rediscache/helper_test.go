package rediscache_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/herdless/herdless/adapters/redisconn"
	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/rediscache"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// processVar makes the test binary another process that caches for a test; its
// value is a Setup.
const processVar = "HERDLESS_CACHE_PROCESS"

func TestMain(m *testing.M) {
	if setup := os.Getenv(processVar); setup != "" {
		if err := serveProcess(setup); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// Most of these tests wait more than they compute.
	if err := flag.Set("test.parallel", strconv.Itoa(max(3, runtime.GOMAXPROCS(0)))); err != nil {
		panic(err)
	}
	os.Exit(redistest.Run(m))
}

// process is another process with an Engine of its own. It does what the test
// orders, by net/rpc on its standard input and output, and ends with its input.
//
// All processes are on one machine, so the times that they tell are of the same
// clock.
type process struct {
	*rpc.Client
	cmd *exec.Cmd
}

// startProcess starts a process, which ends with the test.
func startProcess(t *testing.T, s Setup) process {
	t.Helper()
	setup, err := json.Marshal(s)
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), processVar+"="+string(setup))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := process{rpc.NewClient(pipes{out, in}), cmd}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = p.Close()
	})
	return p
}

// startProcesses starts three processes, and lets them load and wait once, so that
// connections, scripts and feeds are there.
func startProcesses(t *testing.T, s Setup) []process {
	t.Helper()
	source(s.Source).set(t, "warm", "warm")
	var ps []process
	for range 3 {
		ps = append(ps, startProcess(t, s))
	}
	var calls []<-chan *rpc.Call
	for _, p := range ps {
		calls = append(calls, p.getSoon(GetOrder{Key: "warm", Load: LoadOrder{Takes: 200 * time.Millisecond}}))
	}
	for _, soon := range calls {
		answer[[]Answer](t, soon)
	}
	return ps
}

// signal returns when it was sent, or rather just before.
func (p process) signal(t *testing.T, s syscall.Signal) time.Time {
	t.Helper()
	now := time.Now()
	require.NoError(t, p.cmd.Process.Signal(s))
	return now
}

// call has the process do something, and waits for the answer.
func call[A any](t *testing.T, p process, method string, order any) A {
	t.Helper()
	return answer[A](t, callSoon[A](p, method, order))
}

func callSoon[A any](p process, method string, order any) <-chan *rpc.Call {
	return p.Go("Process."+method, order, new(A), make(chan *rpc.Call, 1)).Done
}

// answer waits for the answer to callSoon.
func answer[A any](t *testing.T, soon <-chan *rpc.Call) A {
	t.Helper()
	select {
	case c := <-soon:
		require.NoError(t, c.Error)
		return *c.Reply.(*A)
	case <-time.After(3 * patience):
		require.FailNow(t, "no answer of a process")
		panic("not reached")
	}
}

func (p process) get(t *testing.T, o GetOrder) []Answer {
	t.Helper()
	return call[[]Answer](t, p, "Get", o)
}

func (p process) getSoon(o GetOrder) <-chan *rpc.Call { return callSoon[[]Answer](p, "Get", o) }

// write returns when it was done.
func (p process) write(t *testing.T, o WriteOrder) time.Time {
	t.Helper()
	return call[time.Time](t, p, "Write", o)
}

func (p process) stats(t *testing.T) cache.Stats {
	t.Helper()
	return call[cache.Stats](t, p, "Stats", struct{}{})
}

// stop ends Read and Hammer.
func (p process) stop(t *testing.T) {
	t.Helper()
	call[struct{}](t, p, "Stop", struct{}{})
}

// pipes is the two directions as one stream. Closing it closes both.
type pipes struct {
	io.ReadCloser
	w io.WriteCloser
}

func (p pipes) Write(data []byte) (int, error) { return p.w.Write(data) }
func (p pipes) Close() error                   { return errors.Join(p.w.Close(), p.ReadCloser.Close()) }

// Setup is what a node of the cluster is made of.
type Setup struct {
	URL, Prefix  string        // of Redis
	Source       string        // see source
	TTL          time.Duration // of values. Zero: a minute
	StoreTimeout time.Duration // of the Engine
	LeaseTTL     time.Duration // of the Engine
	TierBytes    int64         // of the Store
}

// node is a server of the cluster.
type node struct {
	prefix string
	rdb    redis.UniversalClient
	store  *rediscache.Store
	engine *cache.Engine
	values *cache.Namespace[string]
	source source
	loads  atomic.Int64
}

// reload is how often redisconn's clients ask a Cluster who its masters are.
const reload = time.Second

// leaseTTL and backoff are the defaults of package cache.
const leaseTTL, backoff = 500 * time.Millisecond, 500 * time.Millisecond

func newNode(s Setup) (*node, error) {
	rdb, err := redisconn.Open(s.URL)
	if err != nil {
		return nil, err
	}
	locker, err := lock.New(redislock.New(rdb, &redislock.Options{Prefix: s.Prefix + "lock:"}), nil)
	if err != nil {
		return nil, err
	}
	store := rediscache.New(rdb, &rediscache.Options{Prefix: s.Prefix, TierBytes: s.TierBytes})
	engine, err := cache.New(store, &cache.Options{
		Locker: locker, StoreTimeout: s.StoreTimeout, LeaseTTL: s.LeaseTTL, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	values, err := cache.For[string](engine, "values", cache.Policy{TTL: cmp.Or(s.TTL, time.Minute)})
	return &node{prefix: s.Prefix, rdb: rdb, store: store, engine: engine, values: values, source: source(s.Source)}, err
}

// startNode returns a node in the test's own process.
func startNode(t *testing.T, s Setup) *node {
	t.Helper()
	n, err := newNode(s)
	require.NoError(t, err)
	t.Cleanup(func() { _ = n.rdb.Close() })
	return n
}

// entryOf returns the key in Redis of a value, and leaseOf that of its lease.
func (n *node) entryOf(key string) string {
	return n.prefix + "{" + strings.TrimPrefix(n.store.LeaseName("values:"+key), n.prefix) + "}"
}

func (n *node) leaseOf(key string) string {
	return n.prefix + "lock:{" + n.store.LeaseName("values:"+key) + "}"
}

// source is the truth that is cached, and the record of its loads: a directory,
// which outlives a process that is killed, and needs no Redis.
type source string

func newSource(t *testing.T) source { return source(t.TempDir()) }

func (s source) set(t *testing.T, key, value string) {
	t.Helper()
	require.NoError(t, s.write(key, value))
}

// write replaces a value at once: nobody reads half of it.
func (s source) write(key, value string) error {
	file, err := os.CreateTemp(string(s), "new")
	if err != nil {
		return err
	}
	_, err = file.WriteString(value)
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), filepath.Join(string(s), "value "+key))
}

func (s source) read(key string) (string, error) {
	b, err := os.ReadFile(filepath.Join(string(s), "value "+key))
	return string(b), err
}

// note appends to the record of a key's loads.
func (s source) note(key, id, what string, at time.Time) {
	file, err := os.OpenFile(filepath.Join(string(s), "loads "+key), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer file.Close()
	fmt.Fprintln(file, os.Getpid(), id, what, at.UnixNano())
}

// load is a load in the record.
type load struct {
	pid          int
	began, ended time.Time // ended is zero: not yet, or never
}

// loads returns those of key, in the order in which they began.
func (s source) loads(t *testing.T, key string) []*load {
	t.Helper()
	file, err := os.Open(filepath.Join(string(s), "loads "+key))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	require.NoError(t, err)
	defer file.Close()
	byID := make(map[string]*load)
	var list []*load
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var pid int
		var id, what string
		var at int64
		_, err := fmt.Sscan(lines.Text(), &pid, &id, &what, &at)
		require.NoError(t, err)
		id = fmt.Sprint(pid, id)
		if what == "began" {
			byID[id] = &load{pid: pid, began: time.Unix(0, at)}
			list = append(list, byID[id])
		} else {
			byID[id].ended = time.Unix(0, at)
		}
	}
	slices.SortFunc(list, func(a, b *load) int { return a.began.Compare(b.began) })
	return list
}

// count returns how often the keys have been loaded, by a process.
func (s source) count(t *testing.T, pid int, keys ...string) (n int) {
	t.Helper()
	for _, key := range keys {
		b, err := os.ReadFile(filepath.Join(string(s), "loads "+key))
		if !errors.Is(err, os.ErrNotExist) {
			require.NoError(t, err)
		}
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, strconv.Itoa(pid)+" ") && strings.Contains(line, " began ") {
				n++
			}
		}
	}
	return n
}

// begun waits until key has been loaded that often, or is about to be.
func (s source) begun(t *testing.T, key string, loads int) {
	t.Helper()
	eventually(t, patience, "a load has begun", func() bool { return len(s.loads(t, key)) >= loads })
}

// letGo ends the loads of key that are held.
func (s source) letGo(t *testing.T, key string) {
	t.Helper()
	s.set(t, key+" let go", "")
}

// held waits until the loads of key are let go.
func (s source) held(ctx context.Context, key string) error {
	for {
		if _, err := s.read(key + " let go"); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// LoadOrder is how a process loads: it reads the source, and then takes its time, or
// goes on until source.letGo.
type LoadOrder struct {
	Takes         time.Duration
	Held          bool
	Tag           string // known only in the end
	Fails, Panics bool
}

var errSource = errors.New("the source fails")

func (n *node) loader(o LoadOrder) cache.Loader[string] {
	return func(ctx context.Context, key string) (string, error) {
		id := strconv.FormatInt(n.loads.Add(1), 10)
		n.source.note(key, id, "began", time.Now())
		defer func() { n.source.note(key, id, "ended", time.Now()) }()
		value, err := n.source.read(key)
		if err != nil {
			return "", err
		}
		select {
		case <-time.After(o.Takes):
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
		if o.Held {
			if err := n.source.held(ctx, key); err != nil {
				return "", err
			}
		}
		switch {
		case o.Panics:
			panic("the source panics")
		case o.Fails:
			return "", errSource
		case o.Tag != "":
			cache.AddTags(ctx, o.Tag)
		}
		return value, nil
	}
}

// serveProcess is the main function of a process.
func serveProcess(setup string) error {
	var s Setup
	if err := json.Unmarshal([]byte(setup), &s); err != nil {
		return err
	}
	redis.SetLogger(silence{}) // or each test of a failing Redis would fill a page
	n, err := newNode(s)
	if err != nil {
		return err
	}
	server := rpc.NewServer()
	if err := server.RegisterName("Process", &service{node: n}); err != nil {
		return err
	}
	server.ServeConn(pipes{untilTheEnd{os.Stdin}, os.Stdout})
	return nil
}

type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

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
	node    *node
	stopped atomic.Bool
}

// GetOrder has callers ask for a value at the same time, one if it does not say
// how many.
type GetOrder struct {
	Key     string
	Callers int
	Load    LoadOrder
}

// Answer is what a caller got.
type Answer struct {
	Value, Err string
	At         time.Time
}

// Get carries a GetOrder out.
func (s *service) Get(o GetOrder, answers *[]Answer) error {
	*answers = make([]Answer, max(1, o.Callers))
	var wg sync.WaitGroup
	for i := range *answers {
		wg.Go(func() {
			value, err := s.node.values.Get(context.Background(), o.Key, s.node.loader(o.Load))
			(*answers)[i] = Answer{Value: value, Err: text(err), At: time.Now()}
		})
	}
	wg.Wait()
	return nil
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// WriteOrder changes a value in the source and then in the cache.
type WriteOrder struct {
	Key, Value string
	How        string // Put, Delete or PurgeTags
	Tag        string
}

// Write carries a WriteOrder out, and answers when that was done.
func (s *service) Write(o WriteOrder, done *time.Time) error {
	ctx, n := context.Background(), s.node
	if o.How == "Put" {
		err := n.values.Put(ctx, o.Key, o.Value, func(ctx context.Context, key, value string) error {
			cache.AddTags(ctx, o.Tag)
			return n.source.write(key, value)
		})
		*done = time.Now()
		return err
	}
	if err := n.source.write(o.Key, o.Value); err != nil {
		return err
	}
	var err error
	if o.How == "Delete" {
		err = n.values.Delete(ctx, o.Key)
	} else {
		err = n.engine.PurgeTags(ctx, o.Tag)
	}
	*done = time.Now()
	return err
}

// Stats answers what the Engine has counted.
func (s *service) Stats(_ struct{}, stats *cache.Stats) error {
	*stats = s.node.engine.Stats()
	return nil
}

// Read reads a value, which is a number, all the time until Stop. It answers when
// it asked last for what it got each version of.
func (s *service) Read(o GetOrder, last *map[int]time.Time) error {
	*last = make(map[int]time.Time)
	for s.stopped.Store(false); !s.stopped.Load(); {
		asked := time.Now()
		value, err := s.node.values.Get(context.Background(), o.Key, s.node.loader(o.Load))
		if err != nil {
			return err
		}
		version, err := strconv.Atoi(value)
		if err != nil {
			return err
		}
		(*last)[version] = asked
		// Others need the processor, too.
		time.Sleep(20 * time.Microsecond)
	}
	return nil
}

// Stop ends Read and Hammer.
func (s *service) Stop(struct{}, *struct{}) error {
	s.stopped.Store(true)
	return nil
}

// HammerOrder has goroutines ask for values in turn. A value is the key, or it is
// wrong.
type HammerOrder struct {
	Keys       []string
	Goroutines int
	Pause      time.Duration
	Load       LoadOrder
}

// Hammered is what came of it.
type Hammered struct {
	Calls []Call
	Most  int // goroutines more than before
}

// Call is one call of Get.
type Call struct {
	Key, Err string
	Asked    time.Time
	Took     time.Duration
}

// Hammer carries a HammerOrder out until Stop.
func (s *service) Hammer(o HammerOrder, h *Hammered) error {
	s.stopped.Store(false)
	before := runtime.NumGoroutine()
	calls := make([][]Call, o.Goroutines)
	var wg sync.WaitGroup
	for g := range calls {
		wg.Go(func() {
			for i := g; !s.stopped.Load(); i++ {
				c := Call{Key: o.Keys[i%len(o.Keys)], Asked: time.Now()}
				value, err := s.node.values.Get(context.Background(), c.Key, s.node.loader(o.Load))
				c.Took = time.Since(c.Asked)
				if c.Err = text(err); err == nil && value != c.Key {
					c.Err = "wrong: " + value
				}
				calls[g] = append(calls[g], c)
				time.Sleep(o.Pause)
			}
		})
	}
	for !s.stopped.Load() {
		h.Most = max(h.Most, runtime.NumGoroutine()-before)
		time.Sleep(10 * time.Millisecond)
	}
	wg.Wait()
	h.Calls = slices.Concat(calls...)
	return nil
}

// monitor counts the commands that clients send to the server from now on, by
// their names. What scripts do is not counted. The function that it returns ends
// that.
func monitor(t *testing.T, server *redistest.Server) (stop func() map[string]int) {
	t.Helper()
	rdb := server.Client(t)
	require.NoError(t, rdb.Ping(t.Context()).Err()) // connects before
	conn, err := net.Dial("tcp", server.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(6*patience)))
	_, err = conn.Write([]byte("MONITOR\r\n"))
	require.NoError(t, err)
	lines := bufio.NewReader(conn)
	_, err = lines.ReadString('\n') // OK
	require.NoError(t, err)
	counted := make(chan map[string]int, 1)
	const end = "the end of monitor"
	go func() {
		counts := make(map[string]int)
		for {
			line, err := lines.ReadString('\n')
			if err != nil || strings.Contains(line, end) {
				counted <- counts
				return
			}
			if who, what, _ := strings.Cut(line, "] "); !strings.HasSuffix(who, " lua") {
				name, _, _ := strings.Cut(strings.TrimPrefix(what, `"`), `"`)
				counts[strings.ToLower(name)]++
			}
		}
	}()
	return func() map[string]int {
		require.NoError(t, rdb.Echo(t.Context(), end).Err())
		return <-counted
	}
}

// patience is what even a busy machine should not need, slack what it may add to
// a deadline. bound is the default of Options.Staleness.
const (
	patience = 10 * time.Second
	slack    = 500 * time.Millisecond
	bound    = time.Second
)

// eventually polls until ok, and fails the test if that takes too long.
func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for began := time.Now(); !ok(); time.Sleep(time.Millisecond) {
		if time.Since(began) > limit {
			require.FailNow(t, "not within "+limit.String()+": "+what)
		}
	}
}

// measurement is what an attempt of tries has missed.
type measurement struct{ missed []string }

// within notes that got must not be more than limit.
func (m *measurement) within(limit, got time.Duration, what string) {
	m.check(got <= limit, "%s: %v, limit %v", what, got, limit)
}

// check notes that ok must hold.
func (m *measurement) check(ok bool, format string, args ...any) {
	if !ok {
		m.missed = append(m.missed, fmt.Sprintf(format, args...))
	}
}

// tries measures what a machine that others keep busy can spoil: times, and
// counts that depend on them. It fails the test if each of three attempts misses
// something. What must hold on any machine is asserted in the attempt itself.
func tries(t *testing.T, attempt func(m *measurement)) {
	t.Helper()
	for i := range 3 {
		var m measurement
		attempt(&m)
		if len(m.missed) == 0 {
			return
		}
		t.Logf("attempt %d: %s", i+1, strings.Join(m.missed, "; "))
	}
	assert.Fail(t, "no attempt was within the limits")
}

// figures are durations to be told of.
type figures []time.Duration

func (f figures) String() string {
	return fmt.Sprintf("p50 %v, p99 %v, max %v", f.percentile(50), f.percentile(99), f.percentile(100))
}

func (f figures) percentile(p int) time.Duration {
	if len(f) == 0 {
		return 0
	}
	slices.Sort(f)
	return f[min(len(f)*p/100, len(f)-1)].Round(10 * time.Microsecond)
}
