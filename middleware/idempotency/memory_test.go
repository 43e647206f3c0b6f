package idempotency_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
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
		assert.InDelta(t, 56, fill(t, m, ""), 1)
		time.Sleep(time.Minute)
		assert.NoError(t, runLong(t, m, "new", time.Minute), "what has expired must make room")
	})
}

// Requests that were begun while there was room end when there is none. The bound holds all the
// same, and none runs again.
func TestMemoryStoreIsBoundedAlsoWhileManyRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const all = 60 // of more than a MiB each, as they are stored
		m := idempotency.NewMemoryStore()
		g, err := idempotency.New(m, caller, time.Hour, &idempotency.Options{Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		var runs atomic.Int64
		h := g.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			runs.Add(1)
			time.Sleep(time.Second)
			_, _ = w.Write(make([]byte, 1<<20))
		}))
		round := func() (full, known int) {
			codes := make(chan int, all)
			for i := range all {
				go func() {
					w := httptest.NewRecorder()
					h.ServeHTTP(w, request(strconv.Itoa(i), "5 €"))
					codes <- w.Code
				}()
			}
			for range all {
				switch <-codes {
				case http.StatusOK:
					full++
				case http.StatusConflict:
					known++
				}
			}
			return full, known
		}
		full, _ := round()
		assert.Equal(t, all, full, "they have run, and the clients had better know")
		assert.LessOrEqual(t, idempotency.Bytes(m), 64<<20)
		full, known := round()
		assert.Equal(t, all, full+known)
		assert.Positive(t, full)
		assert.Positive(t, known)
		assert.EqualValues(t, all, runs.Load())
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
		assert.InDelta(t, 56, fill(t, m, "new"), 1)
	})
}
