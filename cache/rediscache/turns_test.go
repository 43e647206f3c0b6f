package rediscache_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/cache/rediscache"
	"github.com/stretchr/testify/assert"
)

// As long as turns end, no more are taken than there may be at a time.
func TestTurnsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := rediscache.NewTurns()
		const each = rediscache.Patience / 2
		var now, most atomic.Int64
		began := time.Now()
		for range 5 * turns.Most() {
			go func() {
				end := turns.Take(t.Context())
				defer end()
				most.Store(max(most.Load(), now.Add(1)))
				time.Sleep(each)
				now.Add(-1)
			}()
			synctest.Wait()
		}
		time.Sleep(5 * each)
		synctest.Wait()
		assert.Zero(t, now.Load())
		assert.EqualValues(t, turns.Most(), most.Load())
		assert.Equal(t, 5*each, time.Since(began))
	})
}

// Nobody waits long for those who hang, nor beyond his context.
func TestNobodyWaitsForTurnsThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := rediscache.NewTurns()
		ends := make([]func(), turns.Most())
		for i := range ends {
			ends[i] = turns.Take(t.Context())
		}
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), rediscache.Patience/4)
		defer cancel()
		turns.Take(ctx)()
		assert.Equal(t, rediscache.Patience/4, time.Since(began))

		began = time.Now()
		turns.Take(t.Context())() // which is none of those that are counted
		assert.Equal(t, rediscache.Patience, time.Since(began))

		ends[0]()
		began = time.Now()
		ends[0] = turns.Take(t.Context())
		assert.Zero(t, time.Since(began))

		time.AfterFunc(rediscache.Patience/2, ends[1]) // one does not hang
		ends[1] = turns.Take(t.Context())
		assert.Equal(t, rediscache.Patience/2, time.Since(began))
		for _, end := range ends {
			end()
		}
	})
}
