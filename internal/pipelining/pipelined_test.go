package pipelining_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/pipelining"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// counter is a hook that counts what goes to servers, and how.
type counter struct {
	redis.Hook
	pipelines, commands atomic.Int64 // pipelines, also of one command, and the commands in them
	longest             atomic.Int64 // the most commands that one had
}

func (*counter) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *counter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.count(cmd)
		return next(ctx, cmd)
	}
}

func (c *counter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.count(cmds...)
		return next(ctx, cmds)
	}
}

func (c *counter) count(cmds ...redis.Cmder) {
	switch cmds[0].Name() {
	case "hello", "client", "cluster", "command":
		return
	}
	c.pipelines.Add(1)
	c.commands.Add(int64(len(cmds)))
	for most := c.longest.Load(); int64(len(cmds)) > most && !c.longest.CompareAndSwap(most, int64(len(cmds))); most = c.longest.Load() {
	}
}

func (c *counter) reset() {
	c.pipelines.Store(0)
	c.commands.Store(0)
	c.longest.Store(0)
}

// watch counts what a client sends to any of its servers.
func watch(rdb redis.UniversalClient) *counter {
	c := &counter{}
	if cluster, ok := rdb.(*redis.ClusterClient); ok {
		cluster.OnNewNode(func(node *redis.Client) { node.AddHook(c) })
	} else {
		rdb.AddHook(c)
	}
	return c
}

func inParallel(goroutines int, f func(g int)) {
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() { f(g) })
	}
	wg.Wait()
}

// Each gets the answers to its own commands, in their order, and its own errors.
func TestPipelinedGivesEachItsOwn(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		prefix, c := redistest.Prefix(t), pipelining.New(rdb, false)
		inParallel(64, func(g int) {
			key := fmt.Sprint(prefix, g)
			for i := range 30 {
				var set *redis.StatusCmd
				var get *redis.StringCmd
				var wrong *redis.IntCmd
				err := c.Pipelined(t.Context(), func(p redis.Pipeliner) error {
					set = p.Set(t.Context(), key, i, time.Minute)
					get = p.Get(t.Context(), key)
					if i%7 == 3 {
						wrong = p.LLen(t.Context(), key)
					}
					return nil
				})
				if !assert.NoError(t, set.Err()) {
					return
				}
				assert.Equal(t, fmt.Sprint(i), get.Val())
				if i%7 == 3 {
					assert.ErrorContains(t, wrong.Err(), "WRONGTYPE")
					assert.ErrorContains(t, err, "WRONGTYPE", "the first error of any")
				} else {
					assert.NoError(t, err, "what others do wrong is theirs")
				}
			}
		})
	})
}

// Many callers need few round trips, on a Cluster as well.
func TestPipelinedGoTogether(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		sent, prefix, c := watch(rdb), redistest.Prefix(t), pipelining.New(rdb, false)
		const goroutines, times = 200, 20
		work := func() {
			inParallel(goroutines, func(g int) {
				for range times {
					assert.NoError(t, c.Pipelined(t.Context(), func(p redis.Pipeliner) error {
						p.Set(t.Context(), fmt.Sprint(prefix, g), "", time.Minute)
						return nil
					}))
				}
			})
		}
		work()
		sent.reset()
		work()
		assert.EqualValues(t, goroutines*times, sent.commands.Load())
		assert.Less(t, int(sent.pipelines.Load()), goroutines*times/3)
	})
}

// What is big goes by itself: what waited in the same pipeline would wait for its
// bytes.
func TestWhatIsBigGoesByItself(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		sent, prefix, c := watch(rdb), redistest.Prefix(t), pipelining.New(rdb, false)
		big := strings.Repeat("x", 100<<10)
		set := func(g int) {
			assert.NoError(t, c.Pipelined(t.Context(), func(p redis.Pipeliner) error {
				p.Set(t.Context(), fmt.Sprint(prefix, g), big, time.Minute)
				return nil
			}))
		}
		get := func(g int) {
			assert.NoError(t, c.Pipelined(t.Context(), func(p redis.Pipeliner) error {
				p.Get(t.Context(), fmt.Sprint(prefix, g))
				return nil
			}))
		}
		inParallel(32, set)
		assert.EqualValues(t, 1, sent.longest.Load())
		for range 20 { // so that it is known, of each master
			inParallel(32, get)
		}
		sent.reset()
		inParallel(32, get)
		assert.EqualValues(t, 1, sent.longest.Load())
	})
}

// NoPipelining.
func TestNothingGoesTogetherIfItIsNotToDo(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	sent, key, c := watch(rdb), redistest.Prefix(t), pipelining.New(rdb, true)
	inParallel(100, func(int) {
		assert.NoError(t, c.Pipelined(t.Context(), func(p redis.Pipeliner) error {
			p.Set(t.Context(), key, "", time.Minute)
			return nil
		}))
	})
	assert.EqualValues(t, 1, sent.longest.Load())
	assert.EqualValues(t, 100, sent.pipelines.Load())
}

// While Redis hangs nobody waits beyond its deadline, whether the client looks at
// deadlines or not, and whoever comes later is served.
func TestPipelinedObeysDeadlines(t *testing.T) {
	for _, obeys := range []bool{true, false} {
		for _, alone := range []bool{true, false} {
			t.Run(fmt.Sprintf("ContextTimeoutEnabled=%v, alone=%v", obeys, alone), func(t *testing.T) {
				server := redistest.NewStandalone(t)
				rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: obeys, ReadTimeout: 2 * time.Second, MaxRetries: -1})
				defer rdb.Close()
				c := pipelining.New(rdb, alone)
				get := func(limit time.Duration) error {
					ctx, cancel := context.WithTimeout(t.Context(), limit)
					defer cancel()
					var ttl *redis.DurationCmd
					err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
						ttl = p.PTTL(ctx, "k")
						return nil
					})
					if !pipelining.Left(err) {
						_ = ttl.Err() // it is this goroutine's again
					}
					return err
				}
				require.NoError(t, get(30*time.Second))
				server.Stop(t)
				began := time.Now()
				inParallel(50, func(g int) {
					limit := 100 * time.Millisecond
					if g%2 == 0 { // those who have longer do not hold up the others
						limit = 400 * time.Millisecond
					}
					began := time.Now()
					assert.ErrorIs(t, get(limit), context.DeadlineExceeded)
					assert.Less(t, time.Since(began), limit+slack)
				})
				assert.Less(t, time.Since(began), 400*time.Millisecond+slack)
				server.Continue(t)
				inParallel(50, func(int) { assert.NoError(t, get(30*time.Second)) })
			})
		}
	}
}

// A master that hangs holds up nobody who has to do with another one.
func TestAMasterThatHangsHoldsUpItsOwnOnly(t *testing.T) {
	cluster := redistest.NewCluster(t)
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs(), ContextTimeoutEnabled: true})
	defer rdb.Close()
	c, masters := pipelining.New(rdb, false), cluster.Masters(t)
	keys := make([]string, len(masters)) // one of each
	for i := 0; len(keys[0]) == 0 || len(keys[1]) == 0 || len(keys[2]) == 0; i++ {
		key := fmt.Sprint("k", i)
		for m, master := range masters {
			if cluster.MasterOf(t, key) == master {
				keys[m] = key
			}
		}
	}
	set := func(key string, limit time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		return c.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.Set(ctx, key, "", time.Minute)
			return nil
		})
	}
	inParallel(60, func(g int) { assert.NoError(t, set(keys[g%3], 30*time.Second)) })
	masters[0].Stop(t)
	inParallel(60, func(g int) {
		if g%3 == 0 {
			assert.Error(t, set(keys[0], 700*time.Millisecond))
			return
		}
		began := time.Now()
		for range 20 {
			assert.NoError(t, set(keys[g%3], 30*time.Second))
		}
		assert.Less(t, time.Since(began), 500*time.Millisecond+slack)
	})
}
