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

func TestMemoryStoreIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := idempotency.NewMemoryStore()
		run := func(key string) error {
			b := idempotency.Begin{Owner: key, Lease: time.Second, TTL: time.Minute}
			if _, err := m.Begin(t.Context(), key, b); err != nil {
				return err
			}
			_, err := m.Finish(t.Context(), key, key, make([]byte, 1<<20), time.Minute)
			return err
		}
		full := 0
		for run(string(rune('a'+full))) == nil {
			full++
			require.Less(t, full, 100)
		}
		assert.InDelta(t, 64, full, 1)
		time.Sleep(time.Minute)
		assert.NoError(t, run("new"), "what has expired must make room")
	})
}
