package idempotency_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/middleware/idempotency"
)

// chaotic is a Store to which the connection is as bad as can be: steps and their answers
// come late, and some not at all.
type chaotic struct {
	idempotency.Store
	mu     sync.Mutex
	random *rand.Rand
	stored *atomic.Bool // a response is in the Store
}

func (c *chaotic) intN(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.random.IntN(n)
}

func (c *chaotic) dawdle() {
	if c.intN(3) > 0 {
		time.Sleep(time.Duration(c.intN(400)) * time.Millisecond)
	}
}

func through[T any](ctx context.Context, c *chaotic, step func(context.Context) (T, error)) (none T, _ error) {
	c.dawdle()
	switch c.intN(8) {
	case 0:
		return none, fails(ctx)
	case 1:
		return none, hangs(ctx)
	case 2:
		_, _ = step(context.WithoutCancel(ctx))
		return none, fails(ctx)
	}
	value, err := step(context.WithoutCancel(ctx)) // what is on its way arrives
	c.dawdle()
	return value, err
}

func (c *chaotic) Begin(ctx context.Context, key string, b idempotency.Begin) (idempotency.State, error) {
	return through(ctx, c, func(ctx context.Context) (idempotency.State, error) { return c.Store.Begin(ctx, key, b) })
}

func (c *chaotic) Extend(ctx context.Context, key, owner string, lease time.Duration) (bool, error) {
	return through(ctx, c, func(ctx context.Context) (bool, error) { return c.Store.Extend(ctx, key, owner, lease) })
}

func (c *chaotic) Finish(ctx context.Context, key, owner string, response []byte, ttl time.Duration) (bool, error) {
	return through(ctx, c, func(ctx context.Context) (bool, error) {
		stored, err := c.Store.Finish(ctx, key, owner, response, ttl)
		if stored {
			c.stored.Store(true)
		}
		return stored, err
	})
}

func (c *chaotic) Abandon(ctx context.Context, key, owner string) error {
	_, err := through(ctx, c, func(ctx context.Context) (struct{}, error) { return struct{}{}, c.Store.Abandon(ctx, key, owner) })
	return err
}

// TestAtMostOneRuns: whatever is late or lost on the way to the store, no two handlers run
// that have not been told to stop, and none once a response is stored.
func TestAtMostOneRuns(t *testing.T) {
	o := idempotency.Options{Lease: time.Second, Timeout: 500 * time.Millisecond, Wait: 10 * time.Second}
	for seed := range uint64(2000) {
		synctest.Test(t, func(t *testing.T) {
			store := idempotency.NewMemoryStore()
			var stored atomic.Bool
			var running atomic.Int64
			var requests sync.WaitGroup
			for n := range uint64(4) {
				c := &chaotic{Store: store, random: rand.New(rand.NewPCG(seed, n)), stored: &stored}
				send := server(t, c, o, func(w http.ResponseWriter, r *http.Request) {
					if stored.Load() {
						t.Errorf("seed %d: it runs, and there is a response", seed)
					}
					if running.Add(1) > 1 {
						t.Errorf("seed %d: two run", seed)
					}
					select {
					case <-r.Context().Done():
					case <-time.After(time.Duration(c.intN(3000)) * time.Millisecond):
					}
					running.Add(-1)
					if c.intN(4) == 0 {
						w.WriteHeader(http.StatusInternalServerError)
						return
					}
					fmt.Fprint(w, "done")
				})
				for range 3 {
					requests.Go(func() {
						time.Sleep(time.Duration(c.intN(2000)) * time.Millisecond)
						send()
					})
				}
			}
			requests.Wait()
			time.Sleep(time.Minute) // for what hangs
		})
		if t.Failed() {
			return
		}
	}
}
