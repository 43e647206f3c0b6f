package lock_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/lock"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// recorder keeps events in order.
type recorder struct {
	mu     sync.Mutex
	events []lock.Event
}

func (r *recorder) observe(ctx context.Context, e lock.Event) {
	if ctx.Err() != nil {
		panic("the context of an event does not end")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// take returns what was observed since the last time.
func (r *recorder) take() []lock.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := r.events
	r.events = nil
	return events
}

func TestWhatIsObserved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		store := &faulty{Store: lock.NewMemoryStore()}
		locker, err := lock.New(store, &lock.Options{Observe: r.observe})
		require.NoError(t, err)

		first, err := locker.Acquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		assert.Equal(t, []lock.Event{{Kind: lock.Acquired, Name: "n", Token: first.Token()}}, r.take())

		_, err = locker.TryAcquire(t.Context(), "n", time.Minute)
		require.Error(t, err)
		assert.Empty(t, r.take(), "who does not wait has not waited")

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = locker.Acquire(ctx, "n", time.Minute)
		assert.Equal(t, []lock.Event{{Kind: lock.Waited, Name: "n", Took: time.Second, Err: err}}, r.take())
		_, err = locker.Fair().Acquire(ctx, "n", time.Minute)
		require.Error(t, err)
		r.take()

		// Handed on within the process, and through the store.
		for _, l := range []*lock.Locker{locker, locker.Fair()} {
			second := make(chan *lock.Lease)
			go func() {
				lease, err := l.Acquire(t.Context(), "n", time.Minute)
				assert.NoError(t, err)
				second <- lease
			}()
			time.Sleep(5 * time.Millisecond)
			held := time.Since(time.UnixMicro(int64(first.Token())))
			require.NoError(t, first.Release(t.Context()))
			next := <-second
			assert.ElementsMatch(t, []lock.Event{
				{Kind: lock.Released, Name: "n", Token: first.Token(), Took: held},
				{Kind: lock.Waited, Name: "n", Took: 5 * time.Millisecond},
				{Kind: lock.Acquired, Name: "n", Token: next.Token(), Took: 5 * time.Millisecond},
			}, r.take())
			first = next
			time.Sleep(30 * time.Millisecond)
			require.NoError(t, first.Release(t.Context()))
			first, err = locker.Acquire(t.Context(), "n", time.Minute)
			require.NoError(t, err)
			r.take()
		}

		store.change(func(s *steps) {
			s.extend = func(ctx context.Context, req lock.Request) (bool, error) {
				time.Sleep(time.Second)
				return store.Store.Extend(ctx, req)
			}
		})
		time.Sleep(22 * time.Second)
		assert.Equal(t, []lock.Event{{Kind: lock.Renewed, Name: "n", Token: first.Token(), Took: time.Second}}, r.take())
		store.change(func(s *steps) {
			s.extend = func(context.Context, lock.Request) (bool, error) { return false, errDown }
		})
		<-first.Context().Done()
		synctest.Wait()
		events := r.take()
		require.Greater(t, len(events), 2)
		for _, e := range events[:len(events)-1] {
			assert.Equal(t, lock.Event{Kind: lock.Renewed, Name: "n", Token: first.Token(), Err: errDown}, e)
		}
		end := events[len(events)-1]
		assert.Equal(t, lock.Lost, end.Kind)
		assert.Greater(t, end.Took, time.Minute)

		err = first.Release(t.Context())
		require.ErrorIs(t, err, lock.ErrLost)
		events = r.take()
		require.Len(t, events, 1)
		assert.Equal(t, lock.Released, events[0].Kind)
		assert.Equal(t, err, events[0].Err)
	})
}

// A release that fails is no error of Do's, but somebody should know.
func TestAReleaseThatFailsIsObserved(t *testing.T) {
	eachDo(t, func(t *testing.T, store *faulty, _ *lock.Locker, _ doer) {
		var r recorder
		locker, err := lock.New(store, &lock.Options{Observe: r.observe})
		require.NoError(t, err)
		store.release = func(context.Context, lock.Request) (bool, error) { return false, errDown }
		require.NoError(t, locker.Do(t.Context(), "n", time.Minute, func(context.Context, uint64) error { return nil }))
		events := r.take()
		require.Len(t, events, 2)
		assert.Equal(t, lock.Released, events[1].Kind)
		assert.ErrorIs(t, events[1].Err, errDown)
		time.Sleep(time.Minute) // until it is not tried in the background any more
	})
}

// Nobody pays for a hook that is not there.
func TestNoObserverCostsNothing(t *testing.T) {
	allocations := func(observe func(context.Context, lock.Event)) float64 {
		locker, err := lock.New(lock.NewMemoryStore(), &lock.Options{Observe: observe})
		require.NoError(t, err)
		ctx := t.Context()
		return testing.AllocsPerRun(1000, func() {
			lease, err := locker.Acquire(ctx, "n", time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			if err := lease.Release(ctx); err != nil {
				t.Fatal(err)
			}
		})
	}
	with, without := allocations(func(context.Context, lock.Event) {}), allocations(nil)
	// A hook is given a context for each of the two events.
	assert.GreaterOrEqual(t, with-without, 2.0, "with a hook %v allocations, without %v", with, without)
	assert.Zero(t, lock.AllocationsOfAnEvent(nil))
}

// A hook may use the locker and the lease: nothing is locked while it runs.
func TestAnObserverMayUseTheLocker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var locker *lock.Locker
		var lease *lock.Lease
		var seen sync.Map
		store := &faulty{Store: lock.NewMemoryStore()}
		locker, err := lock.New(store, &lock.Options{Observe: func(ctx context.Context, e lock.Event) {
			seen.Store(e.Kind, true)
			if e.Kind == lock.Lost {
				assert.ErrorIs(t, lease.Release(ctx), lock.ErrLost)
			}
			_, err := locker.TryAcquire(ctx, "n", time.Second)
			if e.Kind != lock.Released && e.Kind != lock.Lost {
				assert.ErrorIs(t, err, lock.ErrNotAcquired)
			}
		}})
		require.NoError(t, err)
		lease, err = locker.Acquire(t.Context(), "n", time.Second)
		require.NoError(t, err)
		time.Sleep(time.Second)
		store.change(func(s *steps) {
			s.extend = func(context.Context, lock.Request) (bool, error) { return false, errDown }
		})
		<-lease.Context().Done()
		synctest.Wait()
		for _, kind := range []lock.EventKind{lock.Acquired, lock.Renewed, lock.Lost, lock.Released} {
			_, ok := seen.Load(kind)
			assert.True(t, ok, kind)
		}
	})
}
