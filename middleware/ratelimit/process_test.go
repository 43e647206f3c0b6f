package ratelimit_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/middleware/ratelimit"
	"github.com/herdless/herdless/middleware/ratelimit/redislimit"
)

// In a process with this variable the test binary is one of the servers that share
// limits. It reads jobs from its standard input and ends with it.
const childVariable = "HERDLESS_RATELIMIT_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		if err := beChild(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(redistest.Run(m))
}

// job is what a child is told to do.
type job struct {
	// Sentinels and Cluster say what Addrs are; neither, one server.
	Addrs     []string
	Sentinels string
	Cluster   bool
	Prefix    string

	// Skew is how wrong the child's clock is.
	Skew time.Duration
	// Key is asked for by Goroutines, each Requests times.
	Key                  string
	Goroutines, Requests int

	// Hold has goroutines take permits of Key until the child is killed. They tell so
	// in Redis under Name.
	Hold int
	Name string
}

func (j job) client() redis.UniversalClient {
	switch {
	case j.Sentinels != "":
		return redis.NewFailoverClient(&redis.FailoverOptions{MasterName: j.Sentinels, SentinelAddrs: j.Addrs, ContextTimeoutEnabled: true})
	case j.Cluster:
		return redis.NewClusterClient(&redis.ClusterOptions{Addrs: j.Addrs, ContextTimeoutEnabled: true})
	default:
		return redis.NewClient(&redis.Options{Addr: j.Addrs[0], ContextTimeoutEnabled: true})
	}
}

func beChild(in io.Reader, out io.Writer) error {
	var rdb redis.UniversalClient
	jobs := json.NewDecoder(in)
	for {
		var j job
		if err := jobs.Decode(&j); errors.Is(err, io.EOF) { // the parent has ended
			return nil
		} else if err != nil {
			return err
		}
		if rdb == nil {
			rdb = j.client()
		}
		if j.Hold > 0 {
			return j.hold(rdb, out)
		}
		admitted, err := j.run(rdb)
		if err != nil {
			return err
		}
		fmt.Fprintln(out, admitted)
	}
}

// run returns how many requests were admitted.
func (j job) run(rdb redis.UniversalClient) (int64, error) {
	l, err := ratelimit.NewPolicies(redislimit.New(rdb, &redislimit.Options{Prefix: j.Prefix}), []ratelimit.Policy{
		{Name: "api", Limits: []ratelimit.Limit{ratelimit.PerHour(100)}, Key: ratelimit.Everybody},
	}, &ratelimit.Options{Timeout: 20 * time.Second})
	if err != nil {
		return 0, err
	}
	ratelimit.Skew(l, j.Skew)
	var admitted atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for range j.Goroutines {
		wg.Go(func() {
			for range j.Requests {
				result, err := l.Allow(context.Background(), j.Key)
				if err != nil {
					failed.Store(&err)
				} else if result.Allowed {
					admitted.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return admitted.Load(), nil
}

// referee counts in Redis who holds a permit: KEYS[1] is the set of holders, KEYS[2]
// the most there have been, KEYS[3] how often, and KEYS[4] the set of processes that
// were killed: what they have sent before may come late.
var referee = redis.NewScript(`
if redis.call('SISMEMBER', KEYS[4], ARGV[2]) == 1 then return 0 end
redis.call('SADD', KEYS[1], ARGV[1])
local n = redis.call('SCARD', KEYS[1])
if n > tonumber(redis.call('GET', KEYS[2]) or 0) then redis.call('SET', KEYS[2], n) end
return redis.call('INCR', KEYS[3])`)

func (j job) refereeKeys() []string {
	return []string{j.Prefix + "{referee}holders", j.Prefix + "{referee}most", j.Prefix + "{referee}times", j.Prefix + "{referee}dead"}
}

const heldPermits = 10

// hold takes permits and releases them, for ever.
func (j job) hold(rdb redis.UniversalClient, out io.Writer) error {
	c, err := ratelimit.NewConcurrency(redislimit.New(rdb, &redislimit.Options{Prefix: j.Prefix}), "exports", heldPermits, ratelimit.Everybody,
		&ratelimit.ConcurrencyOptions{Lease: 2 * time.Second, FailClosed: true, Timeout: time.Second, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	keys := j.refereeKeys()
	fmt.Fprintln(out, "ready")
	var wg sync.WaitGroup
	for i := range j.Hold {
		wg.Go(func() {
			name := fmt.Sprint(j.Name, "/", i)
			for {
				p, err := c.Acquire(context.Background(), j.Key)
				if err != nil {
					time.Sleep(rand.N(5 * time.Millisecond))
					continue
				}
				// Who has lost his permit holds none.
				if err := referee.Run(p.Context(), rdb, keys, name, j.Name).Err(); err == nil {
					// Now and then for longer than a lease.
					held := time.NewTimer(rand.N(30*time.Millisecond) + time.Duration(rand.IntN(40)/39)*3*time.Second)
					select {
					case <-held.C:
					case <-p.Context().Done():
						held.Stop()
					}
				}
				if err := rdb.SRem(context.Background(), keys[0], name).Err(); err != nil {
					fmt.Fprintln(os.Stderr, err)
				}
				p.Release(context.Background())
			}
		})
	}
	wg.Wait()
	return nil
}

// child is a server in a process of its own.
type child struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
}

func startChild(t *testing.T) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0]) //nolint:gosec // this very binary, which ends with its standard input
	cmd.Env = append(os.Environ(), childVariable+"=yes")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	c := &child{cmd, stdin, bufio.NewReader(stdout)}
	t.Cleanup(func() { c.kill() })
	return c
}

func (c *child) kill() {
	_ = c.cmd.Process.Kill() // fails only when it has ended
	c.stdin.Close()
	_ = c.cmd.Wait()
}

func (c *child) send(t *testing.T, j job) {
	t.Helper()
	require.NoError(t, json.NewEncoder(c.stdin).Encode(j))
}

func (c *child) receive(t *testing.T) string {
	t.Helper()
	line, err := c.out.ReadString('\n')
	require.NoError(t, err, "the process has ended")
	return line[:len(line)-1]
}

// Limit 100, three processes, each with 50 goroutines that make 10 requests: exactly
// 100 are admitted, in each of 20 runs, with clocks that are up to a minute apart.
func TestThreeProcessesAdmitExactlyTheLimit(t *testing.T) {
	sentinels, cluster := redistest.SharedSentinels(t), redistest.SharedCluster(t)
	for name, where := range map[string]job{
		"standalone": {Addrs: []string{redistest.Standalone(t).Addr()}},
		"sentinel":   {Addrs: sentinels.Addrs(), Sentinels: sentinels.MasterName()},
		"cluster":    {Addrs: cluster.Addrs(), Cluster: true},
	} {
		t.Run(name, func(t *testing.T) {
			where.Prefix, where.Goroutines, where.Requests = redistest.Prefix(t), 50, 10
			children := []*child{startChild(t), startChild(t), startChild(t)}
			for run := range 20 {
				for i, c := range children {
					j := where
					j.Key = fmt.Sprint("run ", run)
					if run >= 10 {
						j.Skew = time.Duration(i-1) * 30 * time.Second
					}
					c.send(t, j)
				}
				sum := 0
				for _, c := range children {
					sum += atoi(t, c.receive(t))
				}
				assert.Equal(t, 100, sum, "run %d", run)
			}
		})
	}
}

// A semaphore of 10 whose holders are killed: never 11 hold a permit, and what the dead
// held is used again.
func TestASemaphoreWhoseHoldersAreKilled(t *testing.T) {
	rounds := 4
	if os.Getenv("HERDLESS_SOAK") != "" {
		rounds = 200
	}
	server := redistest.Standalone(t)
	rdb := server.Client(t)
	where := job{Addrs: []string{server.Addr()}, Prefix: redistest.Prefix(t), Key: "k", Hold: 6}
	keys := where.refereeKeys()
	ids := 0
	start := func() (*child, string) {
		ids++
		j := where
		j.Name = fmt.Sprint("process ", ids)
		c := startChild(t)
		c.send(t, j)
		require.Equal(t, "ready", c.receive(t))
		return c, j.Name
	}
	times := func() int {
		n, err := rdb.Get(t.Context(), keys[2]).Int()
		require.True(t, err == nil || errors.Is(err, redis.Nil))
		return n
	}
	progress := func(why string) {
		before := times()
		require.Eventually(t, func() bool { return times() > before+50 }, 30*time.Second, 10*time.Millisecond, why)
	}
	type running struct {
		*child
		name string
	}
	var children []running
	for range 3 {
		c, name := start()
		children = append(children, running{c, name})
	}
	for range rounds {
		progress("permits are used")
		dies := children[0]
		children = children[1:]
		dies.kill()
		// The dead hold nothing any more, from now on at the latest. Their permits are
		// free two seconds after they were extended last.
		require.NoError(t, rdb.SAdd(t.Context(), keys[3], dies.name).Err())
		for i := range where.Hold {
			require.NoError(t, rdb.SRem(t.Context(), keys[0], fmt.Sprint(dies.name, "/", i)).Err())
		}
		c, name := start()
		children = append(children, running{c, name})
	}
	progress("what the dead held is used again")
	most, err := rdb.Get(t.Context(), keys[1]).Int()
	require.NoError(t, err)
	t.Logf("%d processes of %d holders, %d of them killed, took %d permits; up to %d at a time", ids, where.Hold, rounds, times(), most)
	holders, err := rdb.SMembers(t.Context(), keys[0]).Result()
	require.NoError(t, err)
	assert.Equal(t, heldPermits, most, "now hold one: %v", holders)
}

// Take-at-most gets what is due, and no fraction of it is lost.
func TestAtMostLosesNothing(t *testing.T) {
	length := 2 * time.Second
	if os.Getenv("HERDLESS_SOAK") != "" {
		length = time.Minute
	}
	for name, store := range map[string]ratelimit.Store{
		"memory": ratelimit.NewMemoryStore(),
		"redis":  redislimit.New(redistest.Standalone(t).Client(t), &redislimit.Options{Prefix: redistest.Prefix(t)}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// The burst takes a minute to come back, so that none is lost if this machine is held up.
			const burst = 777 * 60
			limit := ratelimit.Limit{Rate: 777, Period: time.Second, Burst: burst}
			l := newPolicy(t, store, ratelimit.Policy{Limits: []ratelimit.Limit{limit}}, &ratelimit.Options{Timeout: 10 * time.Second})
			sentFirst := time.Now()
			result, err := l.AtMost(t.Context(), burst, "a")
			require.NoError(t, err)
			require.Equal(t, burst, result.Taken)
			begin := time.Now() // the key is spent since a moment ago
			var taken atomic.Int64
			var last time.Time
			var mu sync.Mutex
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					for time.Since(begin) < length {
						sent := time.Now()
						result, err := l.AtMost(t.Context(), burst, "a")
						assert.NoError(t, err)
						taken.Add(int64(result.Taken))
						mu.Lock()
						if sent.After(last) {
							last = sent
						}
						mu.Unlock()
						time.Sleep(time.Millisecond)
					}
				})
			}
			wg.Wait()
			due := 777 * last.Sub(begin).Seconds()
			most := 777*time.Since(sentFirst).Seconds() + 1
			t.Logf("took %d of %.1f that were due: %.3f %%; target: 99 %%", taken.Load(), due, 100*float64(taken.Load())/due)
			assert.GreaterOrEqual(t, float64(taken.Load()), 0.99*due)
			assert.LessOrEqual(t, float64(taken.Load()), most)
		})
	}
}

// Whatever a denied client sends costs each server at most one command of Redis each
// time that it could pass.
func TestADeniedKeyCostsNoCommands(t *testing.T) {
	server := redistest.NewStandalone(t)
	limit := ratelimit.PerMinute(150) // a unit every 400 ms
	var limiters []*ratelimit.Limiter
	for range 2 {
		limiters = append(limiters, newPolicy(t, redislimit.New(server.Client(t), nil), ratelimit.Policy{Limits: []ratelimit.Limit{limit}}, &ratelimit.Options{
			Timeout: 10 * time.Second,
		}))
	}
	begin := time.Now() // before it is spent
	_, err := limiters[0].AllowN(t.Context(), 150, "a")
	require.NoError(t, err)
	var requests, admitted, roomy atomic.Int64
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			for time.Since(begin) < 2*time.Second {
				result, err := limiters[i%2].Allow(t.Context(), "a")
				assert.NoError(t, err)
				requests.Add(1)
				if result.Allowed {
					admitted.Add(1)
					if result.Limits[0].RetryAfter == 0 {
						roomy.Add(1)
					}
				}
			}
		})
	}
	wg.Wait()
	intervals := int(time.Since(begin)/(400*time.Millisecond)) + 1
	asked := limiters[0].Stats().Asked + limiters[1].Stats().Asked
	t.Logf("%d requests (%.0f a second) of a spent key in %d retry intervals: %d admitted, %d of them with room for more, %d commands of 2 servers",
		requests.Load(), float64(requests.Load())/time.Since(begin).Seconds(), intervals, admitted.Load(), roomy.Load(), asked)
	// Before, the first server asks once, and the second, that knows nothing, ten times at
	// once. So does one that hears that there is room for more, because this machine was held
	// up for two intervals.
	assert.LessOrEqual(t, int(asked), 2*intervals+1+10+10*int(roomy.Load()))
	assert.LessOrEqual(t, int(admitted.Load()), intervals)
	assert.Positive(t, admitted.Load())
}
