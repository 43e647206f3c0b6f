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

// stuck is a client, in a bubble of synctest, whose pipelines do not come back before it is
// said. Nothing is sent.
type stuck struct {
	client    *pipelining.Client
	pipelines atomic.Int64 // under way
	letGo     chan struct{}
	callers   sync.WaitGroup
}

func newStuck(t *testing.T) *stuck {
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", ContextTimeoutEnabled: true})
	t.Cleanup(func() { rdb.Close() })
	s := &stuck{letGo: make(chan struct{})}
	rdb.AddHook(&hook{f: func(func() error) error {
		s.pipelines.Add(1)
		<-s.letGo
		return nil
	}})
	s.client = pipelining.New(rdb, false)
	return s
}

// call has so many callers come, one after the other.
func (s *stuck) call(t *testing.T, callers int) {
	for range callers {
		s.callers.Go(func() {
			assert.NoError(t, s.client.Process(t.Context(), redis.NewDurationCmd(t.Context(), time.Millisecond, "pttl", "k")))
		})
		synctest.Wait()
	}
}

// finish lets all pipelines come back.
func (s *stuck) finish() {
	close(s.letGo)
	s.callers.Wait()
	s.pipelines.Store(0)
	s.letGo = make(chan struct{})
}

// Where a crowd waits the next batch goes beside the first one, and not after some time
// only; a few wait for it.
func TestACrowdGoesBesideTheBatchUnderWay(t *testing.T) {
	for _, test := range []struct{ callers, pipelines int }{
		{4, 4},       // each by itself
		{4 + 16, 5},  // and one batch, in which or for which the others wait
		{4 + 100, 8}, // and as many batches as may be under way
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newStuck(t)
			began := time.Now()
			s.call(t, test.callers)
			assert.Zero(t, time.Since(began), "the clock of this test stands still while anybody can go on")
			assert.EqualValues(t, test.pipelines, s.pipelines.Load(), "for %d callers", test.callers)
			s.finish()
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
			s := newStuck(t)
			s.call(t, test.callers)
			s.finish()
			time.Sleep(test.later) // of the bubble's clock
			s.call(t, 2)
			assert.EqualValues(t, test.pipelines, s.pipelines.Load(), "%v after %d callers", test.later, test.callers)
			s.finish()
		})
	}
}
