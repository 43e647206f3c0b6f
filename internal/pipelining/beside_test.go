package pipelining_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/internal/pipelining"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
)

// Where a crowd waits the next batch goes beside the first one, and not after some time
// only; a few wait for it.
func TestACrowdGoesBesideTheBatchUnderWay(t *testing.T) {
	for _, test := range []struct{ callers, pipelines int }{
		{4, 4},       // each by itself
		{4 + 16, 5},  // and one batch, in which or for which the others wait
		{4 + 100, 8}, // and as many batches as may be under way
	} {
		synctest.Test(t, func(t *testing.T) {
			rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", ContextTimeoutEnabled: true}) // nothing is sent
			defer rdb.Close()
			var pipelines atomic.Int64
			letGo := make(chan struct{})
			rdb.AddHook(&hook{f: func(func() error) error {
				pipelines.Add(1)
				<-letGo
				return nil
			}})
			c := pipelining.New(rdb, false)
			began := time.Now()
			var wg sync.WaitGroup
			for range test.callers {
				wg.Go(func() {
					assert.NoError(t, c.Process(t.Context(), redis.NewDurationCmd(t.Context(), time.Millisecond, "pttl", "k")))
				})
				synctest.Wait()
			}
			assert.Zero(t, time.Since(began), "the clock of this test stands still while anybody can go on")
			assert.EqualValues(t, test.pipelines, pipelines.Load(), "for %d callers", test.callers)
			close(letGo)
			wg.Wait()
		})
	}
}

// After a crowd nobody goes alone for a while: two callers need one pipeline, for which the
// second waits.
func TestNobodyGoesAloneAfterACrowd(t *testing.T) {
	for _, test := range []struct {
		callers   int
		later     time.Duration
		pipelines int
	}{
		{15, 0, 2},
		{16, 0, 1},
		{16, 20 * time.Millisecond, 1},
		{16, 21 * time.Millisecond, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", ContextTimeoutEnabled: true}) // nothing is sent
			defer rdb.Close()
			var pipelines atomic.Int64
			letGo := make(chan struct{})
			rdb.AddHook(&hook{f: func(func() error) error {
				pipelines.Add(1)
				<-letGo
				return nil
			}})
			c := pipelining.New(rdb, false)
			var wg sync.WaitGroup
			call := func(callers int) {
				for range callers {
					wg.Go(func() {
						assert.NoError(t, c.Process(t.Context(), redis.NewDurationCmd(t.Context(), time.Millisecond, "pttl", "k")))
					})
					synctest.Wait()
				}
			}
			call(test.callers)
			close(letGo)
			wg.Wait()
			time.Sleep(test.later)
			pipelines.Store(0)
			letGo = make(chan struct{})
			call(2)
			assert.EqualValues(t, test.pipelines, pipelines.Load(), "%v after %d callers", test.later, test.callers)
			close(letGo)
			wg.Wait()
		})
	}
}
