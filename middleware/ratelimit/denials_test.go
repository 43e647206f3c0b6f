package ratelimit_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/middleware/ratelimit"
)

// slowStore takes its time for the requests of one key.
type slowStore struct {
	*ratelimit.MemoryStore
	key  string
	time time.Duration
}

func (s slowStore) Take(ctx context.Context, req ratelimit.Request) (ratelimit.Decision, error) {
	if req.Checks[0].Key == s.key {
		time.Sleep(s.time)
	}
	return s.MemoryStore.Take(ctx, req)
}

// A key was denied long ago, and now many of its requests come at once. One asks and the others
// wait for it; that the process forgets the old denial meanwhile, because other keys are denied,
// must not let them wait in vain and then pass uncounted.
func TestADenialIsForgottenWhileOthersWaitForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := ratelimit.New(slowStore{ratelimit.NewMemoryStore(), "a", 20 * time.Millisecond},
			ratelimit.PerMinute(1), ratelimit.Everybody, nil)
		require.NoError(t, err)
		for _, want := range []bool{true, false} {
			r, err := l.Allow(t.Context(), "a")
			require.NoError(t, err)
			require.Equal(t, want, r.Allowed)
		}
		time.Sleep(time.Hour)

		admitted := make(chan bool, 5)
		for range cap(admitted) {
			go func() {
				r, err := l.Allow(t.Context(), "a")
				assert.NoError(t, err)
				admitted <- r.Allowed
			}()
		}
		synctest.Wait() // one asks, the others wait
		for i := range 1000 {
			for range 2 {
				_, err := l.Allow(t.Context(), fmt.Sprint("other ", i))
				require.NoError(t, err)
			}
		}
		n := 0
		for range cap(admitted) {
			if <-admitted {
				n++
			}
		}
		assert.Equal(t, 1, n)
		assert.Zero(t, l.Stats().FailedOpen)
	})
}
