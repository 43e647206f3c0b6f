package redislock_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// lockNames are several because one lock alone would give short histories: a
// process that is killed or paused as it waits holds up those behind it for two
// seconds.
var lockNames = []string{"a", "b", "c"}

// Locks, and for each a register that its tokens guard, used by several processes
// that are killed, paused, cut off and slow.
func TestALockIsLinearizable(t *testing.T) {
	soakHistory(t, func(t *testing.T) {
		r := startHistory(t, false)
		r.use(5*time.Second, []*tally{&r.killed, &r.paused, &r.cutOff, &r.late}, func(c *historyClient) {
			c.write(pick(lockNames...), pick("exclusive", "fair exclusive"))
		})
		requireLegal(t, "locks", leaseModel, bounded(r.leases.ops))
		requireDistinctTokens(t, r.leases.ops)
		requireLegal(t, "registers", registerModel, r.registers.ops)
	})
}

// Permits, and a read/write lock, and exclusive leases among them.
func TestSharedLeasesAreLinearizable(t *testing.T) {
	soakHistory(t, func(t *testing.T) {
		r := startHistory(t, false)
		r.use(5*time.Second, []*tally{&r.killed, &r.paused, &r.cutOff}, func(c *historyClient) {
			switch kind := pick("permit", "permit", "fair permit", "shared", "shared", "fair shared", "exclusive", "fair exclusive"); kind {
			case "permit", "fair permit":
				c.share("a", kind, leaseOp{shared: true, limit: permitLimit})
			case "shared", "fair shared":
				c.share("b", kind, leaseOp{shared: true})
			default:
				c.share(pick(lockNames...), kind, leaseOp{})
			}
		})
		requireLegal(t, "shared leases", leaseModel, bounded(r.leases.ops))
		requireDistinctTokens(t, r.leases.ops)
	})
}

// The same run with locks that do not work, since each process has its own: the
// checks above must see it. What is guarded by tokens is safe even then.
func TestLocksThatDoNotWorkAreNotLinearizable(t *testing.T) {
	r := startHistory(t, true)
	r.use(time.Second, []*tally{&r.late}, func(c *historyClient) { c.write(pick(lockNames...), pick("exclusive", "fair exclusive")) })
	assert.Equal(t, porcupine.Illegal, porcupine.CheckOperationsTimeout(leaseModel, bounded(r.leases.ops), time.Minute), "two hold the same lock at a time")
	requireLegal(t, "registers", registerModel, r.registers.ops)
	assert.Equal(t, porcupine.Illegal, porcupine.CheckOperationsTimeout(registerModel, r.unguarded.ops, time.Minute), "registers that look at no token")
}

// requireDistinctTokens fails the test if two leases of a name had the same token.
func requireDistinctTokens(t *testing.T, ops []porcupine.Operation) {
	t.Helper()
	seen := map[leaseOp]bool{}
	for _, op := range ops {
		in := op.Input.(leaseOp)
		if in.op != "acquire" {
			continue
		}
		lease := leaseOp{name: in.name, token: in.token}
		assert.False(t, seen[lease], "token %d of %q was given out twice", in.token, in.name)
		seen[lease] = true
	}
}

// soakHistory runs test once, or with HERDLESS_SOAK again and again for a minute, or
// for as long as that says: "10m".
func soakHistory(t *testing.T, test func(t *testing.T)) {
	soak := os.Getenv("HERDLESS_SOAK")
	if soak == "" {
		test(t)
		return
	}
	lasts, err := time.ParseDuration(soak)
	if err != nil {
		lasts = time.Minute
	}
	for began := time.Now(); time.Since(began) < lasts && !t.Failed(); {
		t.Run("soak", test)
	}
}

// historyRun is what the clients have in common.
type historyRun struct {
	t      *testing.T
	server *redistest.Server
	rdb    *redis.Client // of the test itself, which nothing breaks
	prefix string
	hosts  []*historyHost
	broken bool          // the locks do not work
	faults chan string   // what happens to the next holder
	over   chan struct{} // closed when nobody uses the locks any more

	leases, registers history
	unguarded         history // of registers that look at no token

	acquired, released, lost, refusals, unfollowed, late, unanswered tally
	killed, paused, cutOff, cuts, hangs                              tally
}

// tally is a figure of a run.
type tally struct{ atomic.Int64 }

func (n *tally) up() { n.Add(1) }

func (n *tally) String() string { return fmt.Sprint(n.Load()) }

func startHistory(t *testing.T, broken bool) *historyRun {
	server, began := redistest.NewStandalone(t), time.Now()
	r := &historyRun{
		t: t, server: server, rdb: server.Client(t), prefix: redistest.Prefix(t), broken: broken,
		faults: make(chan string), over: make(chan struct{}),
		leases: history{began: began}, registers: history{began: began}, unguarded: history{began: began},
	}
	for i := range 3 {
		locks := r.prefix
		if broken {
			locks = fmt.Sprint(i, r.prefix)
		}
		r.hosts = append(r.hosts, startHistoryHost(t, server, locks, r.prefix))
	}
	return r
}

// use lets the clients do something again and again, while things break, for at
// least as long as lasts and until all of wanted has happened. It sees that the
// locks are usable after that.
func (r *historyRun) use(lasts time.Duration, wanted []*tally, do func(c *historyClient)) {
	lacking := func() bool { return slices.ContainsFunc(wanted, func(n *tally) bool { return n.Load() == 0 }) }
	for _, h := range r.hosts {
		_, ok := h.process().ask(remoteCommand{}) // it is there
		require.True(r.t, ok)
	}
	began := time.Now()
	var clients, others sync.WaitGroup
	for i := range 3 * len(r.hosts) {
		clients.Go(func() {
			for n := 0; time.Since(began) < lasts || lacking() && time.Since(began) < 10*lasts; n++ {
				host := r.hosts[i%len(r.hosts)]
				do(&historyClient{historyRun: r, id: i, n: n, host: host, process: host.process()})
			}
		})
	}
	others.Go(func() { r.read(3 * len(r.hosts)) })
	if !r.broken {
		others.Go(r.breakHolders)
	}
	go func() {
		clients.Wait()
		close(r.over)
	}()
	r.breakConnections()
	others.Wait()
	for _, h := range r.hosts {
		for _, name := range lockNames {
			a, ok := h.process().ask(remoteCommand{Op: "acquire", Name: name, Kind: "exclusive", Within: 10 * time.Second})
			require.True(r.t, ok)
			require.True(r.t, a.OK, "lock %q is not usable after all that: %s", name, a.Err)
			_, _ = h.process().ask(remoteCommand{Op: "release", Lease: a.ID})
		}
	}
	r.t.Logf("%v leases: %v released, %v lost, %v not followed to their end; %v times none", &r.acquired, &r.released, &r.lost, &r.unfollowed, &r.refusals)
	r.t.Logf("%v late writes refused, %v writes not answered", &r.late, &r.unanswered)
	r.t.Logf("%v holders killed, %v paused, %v cut off; connections cut %v times, server hung %v times", &r.killed, &r.paused, &r.cutOff, &r.cuts, &r.hangs)
	assert.False(r.t, lacking(), "something has not happened: the run shows little")
}

// wait returns false as soon as nobody uses the locks any more.
func (r *historyRun) wait(d time.Duration) bool {
	select {
	case <-r.over:
		return false
	case <-time.After(d):
		return true
	}
}

// breakHolders has something happen to a holder now and then.
func (r *historyRun) breakHolders() {
	for i := 0; r.wait(2*processTTL + rand.N(processTTL)); i++ {
		select {
		case <-r.over:
		case r.faults <- []string{"pause", "cut off", "kill"}[i%3]:
		}
	}
}

// breakConnections breaks those of all.
func (r *historyRun) breakConnections() {
	proxy := r.hosts[0].proxy
	for i := 0; r.wait(rand.N(processTTL)); i++ {
		proxy.SetLatency(0)
		proxy = r.hosts[rand.N(len(r.hosts))].proxy
		switch i % 4 {
		case 0, 2:
			proxy.Cut()
			r.cuts.up()
		case 1:
			proxy.SetLatency(rand.N(processTTL / 10))
		case 3:
			r.server.Stop(r.t)
			time.Sleep(rand.N(processTTL / 3))
			r.server.Continue(r.t)
			r.hangs.up()
		}
	}
	proxy.SetLatency(0)
}

// read reads the registers all the time.
func (r *historyRun) read(id int) {
	read := func(h *history, name, key string) {
		call := h.now()
		value, token, err := redislock.FencedGet(r.t.Context(), r.rdb, key)
		if err != nil && !errors.Is(err, redis.Nil) {
			r.t.Error(err)
			return
		}
		h.add(id, registerOp{name: name}, call, registerSaid{token: token, value: value}, h.now())
	}
	for r.wait(rand.N(5 * time.Millisecond)) {
		name := pick(lockNames...)
		read(&r.registers, name, r.prefix+name)
		if r.broken {
			read(&r.unguarded, name, r.prefix+name+unguarded)
		}
	}
}

func pick(from ...string) string { return from[rand.N(len(from))] }

// historyClient uses a lock once.
type historyClient struct {
	*historyRun
	id, n   int
	host    *historyHost
	process *remote
}

// holding is a lease that a client has.
type holding struct {
	op    leaseOp
	lease int // the ID of the command that acquired it

	mu    sync.Mutex
	known int64 // when it was last certain that it is held
	stop  chan struct{}
	done  chan struct{}
}

// acquire returns nil if there was no lease to be had.
func (c *historyClient) acquire(name, kind string, op leaseOp) *holding {
	within := []time.Duration{processTTL / 20, processTTL, 3 * processTTL}[rand.N(3)]
	op.op, op.name = "acquire", name
	call := c.leases.now()
	a, ok := c.process.ask(remoteCommand{Op: op.op, Name: name, Kind: kind, Within: within})
	back := c.leases.now()
	if !ok || !a.OK {
		c.refusals.up()
		time.Sleep(rand.N(5 * time.Millisecond))
		return nil
	}
	c.acquired.up()
	op.token = a.Token
	c.leases.add(c.id, op, call, nil, back)
	h := &holding{op: op, lease: a.ID, known: call, stop: make(chan struct{}), done: make(chan struct{})}
	go c.follow(h, back)
	return h
}

// follow asks the process all the time whether it still counts on the lease. A
// process that was paused between two looks, by the test or because the machine is
// busy, is promised nothing; only what it counted on before is held against the
// lock.
func (c *historyClient) follow(h *holding, last int64) {
	defer close(h.done)
	for {
		call := c.leases.now()
		a, ok := c.process.ask(remoteCommand{Op: "alive", Lease: h.lease})
		if !ok || !a.OK {
			return
		}
		if back := c.leases.now(); call-last > int64(hiccup) || back-call > int64(hiccup) {
			c.unfollowed.up()
			return
		}
		h.mu.Lock()
		h.known = call
		h.mu.Unlock()
		last = call
		select {
		case <-h.stop:
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// release releases the lease. If it was lost, or nobody knows whether it was
// released, it may have ended at any time since it was last certain to be held.
func (c *historyClient) release(h *holding) {
	call := c.leases.now()
	a, ok := c.process.ask(remoteCommand{Op: "release", Lease: h.lease})
	back := c.leases.now()
	close(h.stop)
	<-h.done
	op := h.op
	if ok && a.OK {
		c.released.up()
		op.op = "release"
		c.leases.add(c.id, op, call, nil, back)
		return
	}
	c.lost.up()
	op.op = "end"
	c.leases.add(c.id, op, min(h.known, call), nil, neverEnds)
}

// misfortune is what happens to some holders. It returns false if that was the end.
func (c *historyClient) misfortune(h *holding) bool {
	var fault string
	select {
	case fault = <-c.faults:
	default:
		return true
	}
	switch fault {
	case "pause":
		c.process.pause(2 * processTTL)
		c.paused.up()
	case "cut off":
		c.host.proxy.Blackhole(true)
		began := time.Now()
		if !h.op.shared {
			c.set(h) // comes when the network pleases
		}
		time.Sleep(time.Until(began.Add(2 * processTTL)))
		c.host.proxy.Blackhole(false)
		c.cutOff.up()
	case "kill":
		c.host.kill(c.process)
		c.killed.up()
		c.release(h) // it cannot
		return false
	}
	return true
}

// write writes to a register under a lease, also if that is lost meanwhile.
func (c *historyClient) write(name, kind string) {
	h := c.acquire(name, kind, leaseOp{})
	if h == nil {
		return
	}
	for range 1 + rand.N(3) {
		c.set(h)
		time.Sleep(rand.N(3 * time.Millisecond))
	}
	if c.misfortune(h) {
		c.set(h)
		c.release(h)
	}
}

// set writes to the register of a lock, with the token of a lease.
func (c *historyClient) set(h *holding) {
	set := func(to *history, op string) {
		c.n += 1_000_000 // no value comes twice
		in := registerOp{name: h.op.name, write: true, token: h.op.token, value: fmt.Sprint(c.id, ".", c.n)}
		call := to.now()
		a, ok := c.process.ask(remoteCommand{Op: op, Name: in.name, Token: in.token, Value: in.value})
		back := to.now()
		switch {
		case ok && a.OK:
			to.add(c.id, in, call, registerSaid{outcome: writeAccepted}, back)
		case ok && a.Lost:
			c.late.up()
			to.add(c.id, in, call, registerSaid{outcome: writeRefused, token: a.Token}, back)
		default:
			c.unanswered.up()
			to.add(c.id, in, call, registerSaid{outcome: writeUnknown}, neverEnds)
		}
	}
	set(&c.registers, "write")
	if c.broken {
		set(&c.unguarded, "write unguarded")
	}
}

// share holds a lease for a while.
func (c *historyClient) share(name, kind string, op leaseOp) {
	h := c.acquire(name, kind, op)
	if h == nil {
		return
	}
	time.Sleep(rand.N(10 * time.Millisecond))
	if c.misfortune(h) {
		time.Sleep(rand.N(5 * time.Millisecond))
		c.release(h)
	}
}

// What the models allow, and what not.
func TestTheModelsOfHistories(t *testing.T) {
	type ops = []porcupine.Operation
	lease := func(op string, token uint64, call, end int64) porcupine.Operation {
		return porcupine.Operation{Input: leaseOp{op: op, token: token}, Call: call, Return: end}
	}
	share := func(op string, token uint64, call, end int64) porcupine.Operation {
		return porcupine.Operation{Input: leaseOp{op: op, token: token, shared: true, limit: 3}, Call: call, Return: end}
	}
	set := func(token uint64, value string, call int64, outcome string, because uint64, end int64) porcupine.Operation {
		return porcupine.Operation{
			Input: registerOp{write: true, token: token, value: value}, Call: call,
			Output: registerSaid{outcome: outcome, token: because}, Return: end,
		}
	}
	get := func(token uint64, value string, call, end int64) porcupine.Operation {
		return porcupine.Operation{Input: registerOp{}, Call: call, Output: registerSaid{token: token, value: value}, Return: end}
	}
	tests := []struct {
		name  string
		model porcupine.Model
		ops   ops
		want  porcupine.CheckResult
	}{
		{"one after the other", leaseModel, ops{
			lease("acquire", 1, 0, 10), lease("release", 1, 20, 30), lease("acquire", 2, 40, 50), lease("release", 2, 60, 70),
		}, porcupine.Ok},
		{"the second waits for the first", leaseModel, ops{
			lease("acquire", 1, 0, 10), lease("release", 1, 20, 30), lease("acquire", 2, 5, 25), lease("release", 2, 60, 70),
		}, porcupine.Ok},
		{"two hold it at a time", leaseModel, ops{
			lease("acquire", 1, 0, 10), lease("acquire", 2, 15, 18), lease("release", 1, 20, 30), lease("release", 2, 60, 70),
		}, porcupine.Illegal},
		{"a second one while the first counts on it, who never releases", leaseModel, ops{
			lease("acquire", 1, 0, 10), lease("acquire", 2, 15, 18), lease("end", 1, 20, neverEnds), lease("release", 2, 60, 70),
		}, porcupine.Illegal},
		{"a second one after the first may have lost it", leaseModel, ops{
			lease("acquire", 1, 0, 10), lease("acquire", 2, 25, 28), lease("end", 1, 20, neverEnds), lease("release", 2, 60, 70),
		}, porcupine.Ok},
		{"a release of what somebody else has taken says that all is well", leaseModel, ops{
			lease("acquire", 1, 0, 10), lease("end", 1, 20, neverEnds), lease("acquire", 2, 25, 28), lease("release", 1, 40, 50),
		}, porcupine.Illegal},
		{"a token goes back", leaseModel, ops{
			lease("acquire", 2, 0, 10), lease("release", 2, 20, 30), lease("acquire", 1, 40, 50),
		}, porcupine.Illegal},
		{"a token comes twice", leaseModel, ops{
			lease("acquire", 1, 0, 10), lease("release", 1, 20, 30), lease("acquire", 1, 40, 50),
		}, porcupine.Illegal},
		{"three permits", leaseModel, ops{
			share("acquire", 1, 0, 10), share("acquire", 2, 0, 10), share("acquire", 3, 0, 10), share("release", 2, 20, 30), share("acquire", 4, 20, 30),
		}, porcupine.Ok},
		{"four permits of three", leaseModel, ops{
			share("acquire", 1, 0, 10), share("acquire", 2, 0, 10), share("acquire", 3, 0, 10), share("acquire", 4, 11, 15), share("end", 1, 16, neverEnds),
		}, porcupine.Illegal},
		{"a fourth permit after one may have ended", leaseModel, ops{
			share("acquire", 1, 0, 10), share("acquire", 2, 0, 10), share("acquire", 3, 0, 10), share("acquire", 4, 11, 15), share("end", 1, 12, neverEnds),
		}, porcupine.Ok},
		{"the same permit twice", leaseModel, ops{
			share("acquire", 1, 0, 10), share("acquire", 1, 20, 30),
		}, porcupine.Illegal},
		{"an exclusive lease while a permit is held", leaseModel, ops{
			share("acquire", 1, 0, 10), lease("acquire", 2, 20, 30), share("release", 1, 40, 50),
		}, porcupine.Illegal},
		{"a permit while an exclusive lease is held", leaseModel, ops{
			lease("acquire", 1, 0, 10), share("acquire", 2, 20, 30), lease("release", 1, 40, 50),
		}, porcupine.Illegal},
		{"a permit with a token from before an exclusive lease", leaseModel, ops{
			lease("acquire", 2, 0, 10), lease("release", 2, 20, 30), share("acquire", 1, 40, 50),
		}, porcupine.Illegal},

		{"a late write is refused", registerModel, ops{
			set(1, "x", 0, writeAccepted, 0, 10), set(2, "y", 20, writeAccepted, 0, 30), set(1, "late", 40, writeRefused, 2, 50), get(2, "y", 60, 70),
		}, porcupine.Ok},
		{"a late write is accepted", registerModel, ops{
			set(2, "y", 0, writeAccepted, 0, 10), set(1, "late", 20, writeAccepted, 0, 30),
		}, porcupine.Illegal},
		{"a write is refused that is not late", registerModel, ops{
			set(1, "x", 0, writeAccepted, 0, 10), set(2, "y", 20, writeRefused, 1, 30),
		}, porcupine.Illegal},
		{"a write is refused because of a token that came later", registerModel, ops{
			set(2, "x", 0, writeAccepted, 0, 10), set(1, "late", 20, writeRefused, 3, 30), set(3, "y", 40, writeAccepted, 0, 50),
		}, porcupine.Illegal},
		{"a read returns what was there before", registerModel, ops{
			set(1, "x", 0, writeAccepted, 0, 10), set(2, "y", 20, writeAccepted, 0, 30), get(1, "x", 40, 50),
		}, porcupine.Illegal},
		{"a read returns what was refused", registerModel, ops{
			set(2, "y", 0, writeAccepted, 0, 10), set(1, "late", 20, writeRefused, 2, 30), get(1, "late", 40, 50),
		}, porcupine.Illegal},
		{"a write of unknown outcome comes later", registerModel, ops{
			set(1, "x", 0, writeUnknown, 0, neverEnds), set(1, "y", 20, writeAccepted, 0, 30), get(1, "y", 40, 50), get(1, "x", 60, 70),
		}, porcupine.Ok},
		{"a write of unknown outcome never comes", registerModel, ops{
			set(1, "x", 0, writeUnknown, 0, neverEnds), set(1, "y", 20, writeAccepted, 0, 30), get(1, "y", 40, 50),
		}, porcupine.Ok},
		{"a write of unknown outcome comes twice", registerModel, ops{
			set(1, "x", 0, writeUnknown, 0, neverEnds), set(1, "y", 20, writeAccepted, 0, 30), get(1, "x", 40, 50), get(1, "y", 60, 70), get(1, "x", 80, 90),
		}, porcupine.Illegal},
		{"a late write of unknown outcome comes after all", registerModel, ops{
			set(1, "late", 0, writeUnknown, 0, neverEnds), set(2, "y", 20, writeAccepted, 0, 30), get(2, "y", 40, 50), get(1, "late", 60, 70),
		}, porcupine.Illegal},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, porcupine.CheckOperationsTimeout(tt.model, tt.ops, time.Minute))
			if _, is := tt.ops[0].Input.(leaseOp); is {
				assert.Equal(t, tt.want, porcupine.CheckOperationsTimeout(tt.model, bounded(tt.ops), time.Minute), "as it is made easier")
			}
		})
	}
}

// What no test saw when it was broken on purpose, beside the histories above.

// A lease, or the right to ask for one, that is handed to somebody who gives up at
// this moment must go on to the next, and not be lost.
func TestATurnThatComesAsItsWaiterGivesUp(t *testing.T) {
	locker, err := lock.New(lock.NewMemoryStore(), nil)
	require.NoError(t, err)
	for range 5000 {
		holder, err := locker.Acquire(within(t), "n", time.Minute)
		require.NoError(t, err, "somebody has taken the lease along")
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if lease, err := locker.Acquire(ctx, "n", time.Minute); err == nil {
				assert.NoError(t, lease.Release(t.Context()))
			}
		})
		time.Sleep(rand.N(50 * time.Microsecond)) // it stands in line, mostly
		wg.Go(cancel)
		assert.NoError(t, holder.Release(t.Context()))
		wg.Wait()
	}
}

func TestALineIsServedInItsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		locker, err := lock.New(lock.NewMemoryStore(), nil)
		require.NoError(t, err)
		holder, err := locker.Acquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		var order []int // guarded by the lease
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				assert.NoError(t, locker.Do(t.Context(), "n", time.Minute, func(context.Context, uint64) error {
					order = append(order, i)
					time.Sleep(time.Duration(i) * time.Millisecond) // it is handed on to some of them
					return nil
				}))
			})
			synctest.Wait()
		}
		require.NoError(t, holder.Release(t.Context()))
		wg.Wait()
		assert.Len(t, order, 20)
		assert.IsIncreasing(t, order)
	})
}

// There are only so many tokens to hand a lease on with. Where the server's clock was
// set back, it does not part them from those of the next lease.
func TestTokensGrowHoweverOftenALeaseIsHandedOn(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	prefix := redistest.Prefix(t)
	ahead := time.Now().Add(time.Hour).UnixMicro()
	setToken(t, rdb, prefix+"{n}", ahead)
	lockers := []*lock.Locker{lockerOn(t, rdb, prefix), lockerOn(t, rdb, prefix)}
	ctx, last := within(t), uint64(ahead) // guarded by the lease
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 500 {
				assert.NoError(t, lockers[i%2].Do(ctx, "n", time.Minute, func(_ context.Context, token uint64) error {
					assert.Greater(t, token, last)
					last = token
					return nil
				}))
			}
		})
	}
	wg.Wait()
}

// A lease is over at its deadline even if the timer that ends it is late, because
// there is no processor to run it: the holder must not be told that all is well.
func TestALeaseWhoseTimerIsLate(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const ttl = 100 * time.Millisecond // some of which a busy machine may take for itself
	worst := stalls(t)
	for range 10 {
		t.Run("released after its end", func(t *testing.T) {
			store := &lateStore{Store: lock.NewMemoryStore()}
			locker, err := lock.New(store, nil)
			require.NoError(t, err)
			lease, err := locker.TryAcquire(t.Context(), "n", ttl)
			require.NoError(t, err)
			store.busy(reliable(ttl))
			require.ErrorIs(t, lease.Release(t.Context()), lock.ErrLost)
		})
		t.Run("renewed after its end", func(t *testing.T) {
			locker, err := lock.New(&lateStore{Store: lock.NewMemoryStore(), renews: true}, nil)
			require.NoError(t, err)
			lease, err := locker.TryAcquire(t.Context(), "n", ttl)
			require.NoError(t, err)
			for began := time.Now(); lease.Context().Err() == nil; {
				waited := time.Since(began)
				time.Sleep(time.Millisecond) // in which a stall before it is noticed
				require.Less(t, waited, slack+worst(), "the answer to a renewal that came too late has brought the lease back")
			}
			require.ErrorIs(t, context.Cause(lease.Context()), lock.ErrLost)
			require.ErrorIs(t, lease.Release(t.Context()), lock.ErrLost)
		})
	}
}

// lateStore renews no lease, or answers the first time when it is too late.
type lateStore struct {
	lock.Store
	renews   bool
	acquired time.Time
	once     sync.Once
}

func (s *lateStore) TryAcquire(ctx context.Context, req lock.Request) (lock.Grant, error) {
	grant, err := s.Store.TryAcquire(ctx, req)
	s.acquired = time.Now()
	return grant, err
}

func (s *lateStore) Extend(ctx context.Context, req lock.Request) (bool, error) {
	if !s.renews {
		return false, errors.New("the store is down")
	}
	ok, err := s.Store.Extend(ctx, req)
	s.once.Do(func() { s.busy(reliable(req.TTL)) })
	return ok, err
}

// busy lets nobody else run until d after the lease was acquired.
func (s *lateStore) busy(d time.Duration) {
	for time.Since(s.acquired) < d {
	}
}

// Whoever has given up is in nobody's way.
func TestWhoGivesUpHasNoPlace(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		prefix := redistest.Prefix(t)
		locker := lockerOn(t, rdb, prefix)
		holder, err := locker.TryAcquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		for _, waiter := range []*lock.Locker{locker, locker.Fair(), locker.Shared(), locker.Semaphore(2)} {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			_, err := waiter.Acquire(ctx, "n", time.Minute)
			cancel()
			require.ErrorIs(t, err, lock.ErrNotAcquired)
		}
		require.NoError(t, holder.Release(t.Context()))
		eventually := time.Now().Add(time.Second) // a place is kept for twice as long
		for {
			lease, err := locker.TryAcquire(t.Context(), "n", time.Minute)
			if err == nil {
				require.NoError(t, lease.Release(t.Context()))
				return
			}
			require.True(t, time.Now().Before(eventually), "%v", err)
			time.Sleep(time.Millisecond)
		}
	})
}
