package cache_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCallersOfOneProcessShareItsReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowStore{Store: newMemoryStore(t), delay: time.Millisecond}
		e := newEngines(t, 1, store, cache.Options{})[0]
		for _, want := range []cache.Source{cache.Waited, cache.Hit} { // cold, then warm
			store.reads.Store(0)
			var others atomic.Int32
			var wg sync.WaitGroup
			for range 500 {
				wg.Go(func() {
					res, err := e.Do(t.Context(), "key", func(context.Context, *cache.Loading) (cache.Entry, error) { return value("data", time.Minute), nil })
					assert.NoError(t, err)
					if res.Source != want {
						others.Add(1)
					}
				})
			}
			wg.Wait()
			assert.LessOrEqual(t, others.Load(), int32(1))
			assert.LessOrEqual(t, store.reads.Load(), int32(2))
		}
	})
}

// Those who have waited share what one of them decodes.
func TestThoseWhoWaitShareAMemo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngines(t, 1, newMemoryStore(t), cache.Options{})[0]
		memos := make(chan *cache.Memo, 10)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				res, err := e.Do(t.Context(), "key", func(context.Context, *cache.Loading) (cache.Entry, error) {
					time.Sleep(time.Second)
					return value("data", time.Minute), nil
				})
				assert.NoError(t, err)
				if res.Source == cache.Waited {
					memos <- res.Entry.Memo
				}
			})
		}
		wg.Wait()
		close(memos)
		require.Len(t, memos, 9)
		shared := <-memos
		require.NotNil(t, shared)
		for m := range memos {
			assert.Same(t, shared, m)
		}
	})
}
