package cache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/herdless/herdless/internal/deadline"
	"github.com/sony/gobreaker/v2"
)

const (
	// failuresToOpen is how many steps must fail one after the other before
	// the circuit breaker opens.
	failuresToOpen = 3
	// openFor is how long it stays open before it lets somebody try.
	openFor = time.Second
)

// errOpen says that the store was not asked, because it has failed lately.
var errOpen = errors.New("cache: the circuit breaker is open: the store has failed lately")

func (e *Engine) newBreaker() *gobreaker.CircuitBreaker[struct{}] {
	return gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Timeout:     openFor,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= failuresToOpen },
		// A caller that went away says nothing about the store.
		IsExcluded: func(err error) bool { return errors.Is(err, errGone) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			if from == gobreaker.StateClosed || to == gobreaker.StateClosed {
				open := to != gobreaker.StateClosed
				e.counters.open.Store(open)
				// Not here, where the breaker is locked: who is told may ask it.
				go func() {
					e.logger.Warn("cache: the circuit breaker of the store has changed", "open", open)
					e.happened(context.Background(), Event{Kind: BreakerChanged, Open: open})
				}()
			}
		},
	})
}

// errBudget is the cause of the end of a budget. Any other end is the caller's.
var errBudget = fmt.Errorf("cache: the store has not answered within StoreTimeout: %w", context.DeadlineExceeded)

// errGone marks an error of a step whose caller went away.
var errGone = errors.New("the caller went away")

// step does one thing in the store or with the locker, unless the circuit breaker
// is open, and logs what goes wrong. The key itself, which may hold what belongs
// into no log, is named by its lease.
func (e *Engine) step(ctx context.Context, doing, key string, do func() error) error {
	left := false
	_, err := e.breaker.Execute(func() (struct{}, error) {
		waits := ctx.Err() == nil
		err := do()
		if err != nil && ctx.Err() != nil && !errors.Is(context.Cause(ctx), errBudget) {
			left = waits
			err = fmt.Errorf("%w: %w", errGone, err)
		}
		return struct{}{}, err
	})
	if left { // now: a breaker that is half open lets one in at a time
		e.askInstead(ctx, key)
	}
	switch {
	case err == nil || errors.Is(err, errGone):
		return err
	case errors.Is(err, gobreaker.ErrOpenState), errors.Is(err, gobreaker.ErrTooManyRequests):
		return errOpen
	}
	e.warn(ctx, doing, key, err)
	e.happened(ctx, Event{Kind: StoreFailed, Key: key, Err: err})
	return err
}

// askInstead reads key for a caller that went away before the store had answered,
// within the budget that the caller did not wait for. Where all callers are in a
// hurry a store that hangs would never be blamed otherwise; and if it were blamed for
// their leaving, one that is only slower than they want would be.
//
// As many as make the circuit breaker open are asked at a time.
func (e *Engine) askInstead(ctx context.Context, key string) {
	if e.asking.Add(1) > failuresToOpen {
		e.asking.Add(-1)
		return
	}
	go func() {
		defer e.asking.Add(-1)
		ctx, cancel := deadline.After(context.WithoutCancel(ctx), e.storeTimeout, errBudget)
		defer cancel()
		_ = e.step(ctx, "read", key, func() error { // the step has told who has to know
			_, _, err := e.store.Get(ctx, key)
			return err
		})
	}()
}

// warnEvery is how often a failing store is logged at most.
const warnEvery = time.Second

// warn logs a failure, unless one was logged a moment ago: a store that reads but
// does not write, being full, fails with every load and never opens the breaker.
func (e *Engine) warn(ctx context.Context, doing, key string, err error) {
	last, now := e.warned.Load(), time.Now()
	if last != nil && now.Sub(*last) < warnEvery || !e.warned.CompareAndSwap(last, &now) {
		return
	}
	e.logger.WarnContext(ctx, "cache: the store fails, computing without it", "step", doing, "lease", e.store.LeaseName(key), "error", err)
}
