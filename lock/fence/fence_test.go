package fence_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/herdless/herdless/lock/fence"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestGuard(t *testing.T) {
	tests := []struct {
		name   string
		tokens []uint64
		passed []uint64
	}{
		{"growing", []uint64{1, 2, 3}, []uint64{1, 2, 3}},
		{"one holder writes many times", []uint64{5, 5, 5}, []uint64{5, 5, 5}},
		{"late", []uint64{33, 34, 33, 34, 35, 1}, []uint64{33, 34, 34, 35}},
		{"any uint64", []uint64{1<<53 + 1, 1 << 53, 1 << 63, math.MaxUint64, math.MaxUint64 - 1}, []uint64{1<<53 + 1, 1 << 63, math.MaxUint64}},
		{"zero is no token", []uint64{0, 1, 0}, []uint64{1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var g fence.Guard
			var passed []uint64
			for _, token := range tt.tokens {
				called := false
				err := g.Do(token, func() error {
					called = true
					passed = append(passed, token)
					return nil
				})
				switch {
				case token == 0:
					require.ErrorIs(t, err, fence.ErrMissing)
				case called:
					require.NoError(t, err)
				default:
					require.ErrorIs(t, err, fence.ErrStale)
					stale := new(fence.StaleError)
					require.ErrorAs(t, err, &stale)
					assert.Equal(t, fence.StaleError{Token: token, Largest: passed[len(passed)-1]}, *stale)
					assert.ErrorContains(t, err, fmt.Sprint(token))
				}
			}
			assert.Equal(t, tt.passed, passed)
		})
	}
}

func TestAWriteThatFailsHasRaisedTheFence(t *testing.T) {
	var g fence.Guard
	broken := errors.New("half of it is written")
	require.Equal(t, broken, g.Do(34, func() error { return broken }))
	require.ErrorIs(t, g.Do(33, func() error { return nil }), fence.ErrStale)
	require.Panics(t, func() { _ = g.Do(35, func() error { panic("worse") }) })
	require.ErrorIs(t, g.Do(34, func() error { return nil }), fence.ErrStale)
	require.NoError(t, g.Do(35, func() error { return nil }), "the guard is free again")
}

// A write that was let in keeps later ones waiting until it is done: with the
// comparison alone under the mutex, the slow one would come last.
func TestASlowWriteIsNotOvertaken(t *testing.T) {
	var g fence.Guard
	var value string
	inside, goOn := make(chan struct{}), make(chan struct{})
	first, second := make(chan error, 1), make(chan error, 1)
	go func() {
		first <- g.Do(33, func() error {
			close(inside)
			<-goOn
			value = "first"
			return nil
		})
	}()
	<-inside
	go func() { second <- g.Do(34, func() error { value = "second"; return nil }) }()
	select {
	case err := <-second:
		t.Errorf("it wrote while another write was under way: %v", err)
		second <- err
	case <-time.After(50 * time.Millisecond): // as a Guard that is right always does
	}
	close(goOn)
	require.NoError(t, <-first)
	require.NoError(t, <-second)
	assert.Equal(t, "second", value)
}

func TestManyWriters(t *testing.T) {
	var g fence.Guard
	var last, most uint64 // guarded by the guard alone: the race detector looks on
	var wg sync.WaitGroup
	for range 100 {
		token := 1 + rand.Uint64N(1000)
		most = max(most, token)
		wg.Go(func() {
			err := g.Do(token, func() error {
				assert.GreaterOrEqual(t, token, last)
				last = token
				return nil
			})
			if err != nil {
				assert.ErrorIs(t, err, fence.ErrStale)
			}
		})
	}
	wg.Wait()
	assert.Equal(t, most, last, "the largest token is never refused")
}
