package deadline_test

import (
	"context"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/internal/deadline"
	"github.com/stretchr/testify/assert"
)

func TestALoneContextEndsAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var alarms deadline.Alarms
		for range 3 { // the alarm of one that ended in time is used again
			ctx, cancel := deadline.After(t.Context(), time.Second, errBudget)
			began := time.Now()
			l, call := alarms.Lone(ctx)
			until, ok := l.Deadline()
			assert.Equal(t, began.Add(time.Second), until)
			assert.True(t, ok)
			assert.False(t, isOver(l))
			assert.NoError(t, l.Err())
			<-l.Done()
			assert.Equal(t, time.Second, time.Since(began))
			assert.Equal(t, context.DeadlineExceeded, l.Err())
			assert.Equal(t, errBudget, context.Cause(l))
			call.End()
			cancel()

			ctx, cancel = deadline.After(t.Context(), time.Second, errBudget)
			l, call = alarms.Lone(ctx)
			assert.False(t, isOver(l))
			call.End()
			cancel()
		}
	})
}

// Whoever has kept the context sees it ended after the call, and so do contexts that were
// made of it.
func TestALoneContextEndsWithItsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var alarms deadline.Alarms
		for _, early := range []bool{false, true} {
			ctx, cancel := deadline.After(context.WithValue(t.Context(), key{}, "v"), time.Second, errBudget)
			l, call := alarms.Lone(ctx)
			assert.Equal(t, "v", l.Value(key{}))
			var child context.Context
			if early {
				var cancelChild context.CancelFunc
				child, cancelChild = context.WithCancel(l)
				defer cancelChild()
			}
			call.End()
			call.End() // twice does no harm
			synctest.Wait()
			assert.True(t, isOver(l))
			assert.Equal(t, context.Canceled, l.Err())
			assert.NoError(t, ctx.Err(), "there may be another call")
			if early {
				assert.True(t, isOver(child))
				assert.Equal(t, context.Canceled, child.Err())
			}
			cancel()
			assert.Equal(t, context.Canceled, l.Err())
			time.Sleep(2 * time.Second) // there is no alarm left that would ring
		}
	})
}

func TestALoneContextTellsThatItsParentHasEnded(t *testing.T) {
	parent, endParent := context.WithCancelCause(t.Context())
	ctx, cancel := deadline.After(parent, time.Minute, nil)
	defer cancel()
	var alarms deadline.Alarms
	l, call := alarms.Lone(ctx)
	defer call.End()
	assert.False(t, isOver(l))
	endParent(errParent)
	assert.Equal(t, context.Canceled, l.Err())
	assert.Equal(t, errParent, context.Cause(l))
	assert.True(t, isOver(l), "to those who ask anew")
}

// Each call of a step has a context of its own.
func TestLoneContextsOfSeveralCalls(t *testing.T) {
	ctx, cancel := deadline.After(t.Context(), time.Minute, nil)
	defer cancel()
	var alarms deadline.Alarms
	first, call := alarms.Lone(ctx)
	call.End()
	second, call := alarms.Lone(ctx)
	assert.NoError(t, second.Err())
	assert.False(t, isOver(second))
	assert.True(t, isOver(first))
	call.End()
	assert.True(t, isOver(second))
}

func TestWhatIsNotMadeLone(t *testing.T) {
	full, cancelFull := deadline.After(t.Context(), time.Minute, nil)
	defer cancelFull()
	full.Done()
	parent, cancelParent := context.WithTimeout(t.Context(), time.Second)
	defer cancelParent()
	later, cancelLater := deadline.After(parent, time.Minute, nil)
	defer cancelLater()
	var alarms deadline.Alarms
	for name, ctx := range map[string]context.Context{"another context": t.Context(), "one that has a Done": full, "one that its parent ends": later} {
		l, call := alarms.Lone(ctx)
		assert.True(t, l == ctx, name)
		call.End()
	}
}

// An alarm that is used again never rings for the one before.
func TestAlarmsRingForTheirOwn(t *testing.T) {
	var alarms deadline.Alarms
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 2000 {
				limit := time.Duration(rand.IntN(200)) * time.Microsecond
				if rand.IntN(2) == 0 {
					limit = time.Minute
				}
				ctx, cancel := deadline.After(context.Background(), limit, nil)
				l, call := alarms.Lone(ctx)
				wait, stop := context.WithTimeout(context.Background(), time.Duration(rand.IntN(200))*time.Microsecond)
				select {
				case <-l.Done():
					until, _ := l.Deadline()
					assert.False(t, time.Now().Before(until))
					assert.Equal(t, context.DeadlineExceeded, l.Err())
				case <-wait.Done():
				}
				stop()
				call.End()
				cancel()
			}
		})
	}
	wg.Wait()
}

func TestALoneContextCostsOneAllocation(t *testing.T) {
	parent, cancel := context.WithCancel(t.Context())
	defer cancel()
	var alarms deadline.Alarms
	least := math.Inf(1)
	for range 100 { // the race detector has pools forget some of what they have
		least = min(least, testing.AllocsPerRun(2, func() {
			ctx, cancel := deadline.After(parent, time.Minute, errBudget)
			defer cancel()
			l, call := alarms.Lone(ctx)
			defer call.End()
			l.Done()
			l.Done()
		}))
	}
	assert.EqualValues(t, 1+1, least) // and one for the deadline
}
