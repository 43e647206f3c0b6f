package deadline_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/internal/deadline"
	"github.com/stretchr/testify/assert"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	errBudget = fmt.Errorf("too slow: %w", context.DeadlineExceeded)
	errParent = errors.New("the parent has ended")
)

type key struct{ n int }

// Whatever happens, it looks like a context of the standard library at every moment, and so
// do contexts that are made of it.
func TestItBehavesLikeTheStandardLibrarys(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		synctest.Test(t, func(t *testing.T) {
			parent, endParent := context.WithCancelCause(context.WithValue(context.Background(), key{}, "v"))
			defer endParent(nil)
			if rapid.Bool().Draw(r, "the parent has a deadline") {
				var cancel context.CancelFunc
				parent, cancel = context.WithTimeout(parent, time.Duration(rapid.IntRange(-1, 3).Draw(r, "parent"))*time.Second+250*time.Millisecond)
				defer cancel()
			}
			if rapid.Bool().Draw(r, "the parent ends first") {
				endParent(errParent)
			}
			limit := time.Duration(rapid.IntRange(-1, 3).Draw(r, "limit")) * time.Second
			cause := rapid.SampledFrom([]error{errBudget, nil}).Draw(r, "cause")
			theirs, cancel := context.WithTimeoutCause(parent, limit, cause)
			defer cancel()
			ours, cancelOurs := deadline.After(parent, limit, cause)
			defer cancelOurs()
			same := func() {
				assert.Equal(t, theirs.Err(), ours.Err())
				assert.Equal(t, context.Cause(theirs), context.Cause(ours))
				until, ok := theirs.Deadline()
				got, gotOK := ours.Deadline()
				assert.True(t, until.Equal(got) && ok == gotOK)
				assert.Equal(t, "v", ours.Value(key{}))
				assert.Nil(t, ours.Value(key{1}))
			}
			same()
			r.Repeat(map[string]func(*rapid.T){
				"": func(*rapid.T) { same() },
				"time passes": func(*rapid.T) {
					time.Sleep(500 * time.Millisecond)
					synctest.Wait()
				},
				"the parent ends": func(*rapid.T) { endParent(errParent) },
				"Cancel": func(*rapid.T) {
					cancel()
					cancelOurs()
				},
				"Done": func(*rapid.T) {
					assert.Equal(t, isOver(theirs), isOver(ours))
					assert.Equal(t, ours.Done(), ours.Done())
				},
				"children": func(*rapid.T) {
					one, cancelOne := context.WithCancel(context.WithValue(theirs, key{2}, 2))
					other, cancelOther := context.WithCancel(context.WithValue(ours, key{2}, 2))
					time.Sleep(100 * time.Millisecond)
					synctest.Wait()
					assert.Equal(t, isOver(one), isOver(other))
					assert.Equal(t, one.Err(), other.Err())
					assert.Equal(t, context.Cause(one), context.Cause(other))
					cancelOne()
					cancelOther()
					assert.NoError(t, context.WithoutCancel(ours).Err())
				},
			})
		})
	})
}

func isOver(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return true
	default:
		return false
	}
}

// Of all that come at once the first decides, for everybody.
func TestTheFirstEndIsTheOnlyOne(t *testing.T) {
	for i := range 2000 {
		parent, endParent := context.WithCancelCause(context.Background())
		defer endParent(nil)
		c, cancel := deadline.After(parent, time.Duration(i)*time.Microsecond/10, errBudget)
		var wg sync.WaitGroup
		seen := make([]error, 8)
		for g := range seen {
			wg.Go(func() {
				switch g {
				case 0, 1:
					cancel()
				case 2:
					endParent(errParent)
				case 3:
					<-c.Done()
				case 4:
					_ = fmt.Sprint(c)
				}
				for seen[g] == nil {
					seen[g] = c.Err()
				}
				assert.True(t, isOver(c))
			})
		}
		wg.Wait()
		for _, err := range seen {
			assert.Equal(t, c.Err(), err)
		}
		wants := map[error][]error{context.Canceled: {context.Canceled, errParent}, context.DeadlineExceeded: {errBudget}}
		assert.Contains(t, wants[c.Err()], context.Cause(c))
	}
}

// Its end comes by itself to those who wait for Done.
func TestDoneComesInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		c, cancel := deadline.After(t.Context(), time.Second, errBudget)
		defer cancel()
		<-c.Done()
		assert.Equal(t, time.Second, time.Since(began))
		assert.Equal(t, errBudget, context.Cause(c))
	})
}

// It is over when its time has come, also if the timer of the standard library is late: who
// waits with another one, see Apart, asks for the reason then.
func TestItsEndIsNotLate(t *testing.T) {
	for range 200 {
		ctx, cancel := deadline.After(t.Context(), 100*time.Microsecond, errBudget)
		ctx.Done()
		until, _ := ctx.Deadline()
		for time.Now().Before(until) {
		}
		assert.Equal(t, context.DeadlineExceeded, ctx.Err())
		assert.Equal(t, errBudget, context.Cause(ctx))
		cancel()
	}
}

func TestApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		in := func(ctx context.Context, d time.Duration) context.Context {
			ctx, cancel := deadline.After(ctx, d, nil)
			t.Cleanup(cancel)
			return ctx
		}
		outer, done := in(t.Context(), 2*time.Second), in(t.Context(), time.Second)
		inner, late := in(outer, time.Second), in(outer, time.Hour)
		done.Done()
		for _, test := range []struct {
			name  string
			ctx   context.Context
			after time.Duration
			rest  context.Context
		}{
			{"another context", t.Context(), 0, t.Context()},
			{"one", outer, 2 * time.Second, t.Context()},
			{"one in another", inner, time.Second, t.Context()},
			{"one that the other ends", late, 2 * time.Second, t.Context()},
			{"one that has a Done", done, 0, done},
		} {
			until, rest := deadline.Apart(test.ctx)
			assert.True(t, test.rest == rest, test.name)
			if test.after == 0 {
				assert.Zero(t, until, test.name)
			} else {
				assert.Equal(t, now.Add(test.after), until, test.name)
			}
		}
	})
}

func TestAStepThatEndsInTimeCostsOneAllocation(t *testing.T) {
	parent, cancel := context.WithCancel(t.Context())
	defer cancel()
	assert.EqualValues(t, 1, testing.AllocsPerRun(100, func() {
		ctx, cancel := deadline.After(parent, time.Minute, errBudget)
		defer cancel()
		use(ctx)
	}))
}

//go:noinline
func use(ctx context.Context) {
	_, _ = ctx.Deadline()
	_ = ctx.Err()
	_, _ = deadline.Apart(ctx)
}
