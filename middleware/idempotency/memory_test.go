package idempotency_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/middleware/idempotency"
	"github.com/herdless/herdless/middleware/idempotency/idempotencytest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMemoryStore(t *testing.T) {
	idempotencytest.Run(t, func(*testing.T) idempotency.Store { return idempotency.NewMemoryStore() })
}

// fill has so many requests with a response of 1 MiB until the store is full.
func fill(t *testing.T, m *idempotency.MemoryStore, name string) int {
	for n := range 100 {
		if runLong(t, m, name+string(rune('a'+n)), time.Minute) != nil {
			return n
		}
	}
	t.Fatal("it is never full")
	return 0
}

func runLong(t *testing.T, m *idempotency.MemoryStore, key string, ttl time.Duration) error {
	if _, err := m.Begin(t.Context(), key, idempotency.Begin{Owner: key, Lease: time.Second, TTL: ttl}); err != nil {
		return err
	}
	_, err := m.Finish(t.Context(), key, key, make([]byte, 1<<20), ttl)
	return err
}

func TestMemoryStoreIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := idempotency.NewMemoryStore()
		assert.InDelta(t, 64, fill(t, m, ""), 1)
		time.Sleep(time.Minute)
		assert.NoError(t, runLong(t, m, "new", time.Minute), "what has expired must make room")
	})
}

// A key that is used again after its time counts once, whether or not the old one has been
// swept away by then.
func TestMemoryStoreCountsAKeyOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := idempotency.NewMemoryStore()
		for range 50 {
			for i, key := range []string{"e", "d", "c", "b", "a"} { // those that end last come first
				require.NoError(t, runLong(t, m, key, time.Minute-time.Duration(i)*time.Second))
			}
			time.Sleep(time.Minute)
		}
		assert.InDelta(t, 64, fill(t, m, "new"), 1)
	})
}
