package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/herdless/herdless/internal/deadline"
	"github.com/sony/gobreaker/v2"
)

const (
	// failuresToOpen is how many steps must fail one after the other before
	// the circuit breaker opens.
	failuresToOpen = 3
	// openFor is how long it stays open before the store is tried again. With
	// the try itself, a limit holds again well within a second of the return of
	// its store.
	openFor = 400 * time.Millisecond
)

var (
	// errBudget is the cause of the end of a budget. Any other end is the caller's.
	errBudget = fmt.Errorf("the store has not answered within Options.Timeout: %w", context.DeadlineExceeded)
	// errLeft marks an error of a step whose caller went away.
	errLeft = errors.New("the caller went away")
	errOpen = errors.New("it has failed lately, and is not asked for up to half a second")
)

// guard stands before a store: each step ends in time, and a store that fails is
// left alone.
type guard struct {
	timeout  time.Duration
	breaker  *gobreaker.CircuitBreaker[struct{}]
	counters *counters
	observe  func(ctx context.Context, e Event)
	gate     logGate
	panics   logGate
	trying   atomic.Bool
	telling  sync.Mutex  // held by who tells of the circuit breaker
	told     atomic.Bool // what was told of it last: whether it is open
}

// storeStep is something that the store is asked.
type storeStep = func(ctx context.Context) error

func newGuard(timeout time.Duration, logger *slog.Logger, c *counters, observe func(context.Context, Event)) *guard {
	g := &guard{timeout: timeout, counters: c, observe: observe, gate: logGate{logger: logger}, panics: logGate{logger: logger}}
	g.breaker = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Timeout:     openFor,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= failuresToOpen },
		// A store that complains about one key is there for the others.
		IsSuccessful: func(err error) bool { return err == nil || errors.Is(err, ErrForeign) },
		// A caller that went away says nothing about the store.
		IsExcluded: func(err error) bool { return errors.Is(err, errLeft) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			if from != gobreaker.StateClosed && to != gobreaker.StateClosed {
				return
			}
			// It is told of later, when the breaker is not locked: who is told may ask it.
			c.open.Store(to != gobreaker.StateClosed)
		},
	})
	return g
}

// do runs a step of the store within what is left of the budget, unless the circuit
// breaker is open. An error that matches errLeft is that of ctx. While it is open
// nobody waits: now and then the store is tried beside, with a step that changes
// nothing, which try returns.
func (g *guard) do(ctx context.Context, left time.Duration, step storeStep, try func() storeStep) error {
	if g.counters.open.Load() { // else it need not be asked, which all would do at a time
		switch g.breaker.State() {
		case gobreaker.StateHalfOpen:
			if g.trying.CompareAndSwap(false, true) {
				g.tryBeside(ctx, try())
			}
			return errOpen
		case gobreaker.StateOpen:
			return errOpen
		case gobreaker.StateClosed:
		}
	}
	if left <= 0 {
		return errBudget // spent with waiting: that says nothing about the store
	}
	return g.run(ctx, left, step)
}

func (g *guard) tryBeside(ctx context.Context, try storeStep) {
	go func() {
		defer g.trying.Store(false)
		_ = g.contained(ctx, func() error { // which has told who has to know
			return g.run(context.WithoutCancel(ctx), g.timeout, try)
		})
	}()
}

func (g *guard) run(ctx context.Context, left time.Duration, step storeStep) error {
	defer g.tell(ctx)
	_, err := g.breaker.Execute(func() (struct{}, error) {
		g.counters.asked.Add(1)
		budget, cancel := deadline.After(ctx, left, errBudget)
		defer cancel()
		err := step(budget)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			err = fmt.Errorf("%w: %w", errLeft, errors.Join(ctx.Err(), err))
		case budget.Err() != nil:
			err = fmt.Errorf("no answer within %v: %w", g.timeout, err)
		}
		return struct{}{}, err
	})
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return errOpen
	}
	if err != nil && !errors.Is(err, errLeft) {
		g.counters.storeErrors.Add(1)
		if g.observe != nil {
			g.observe(context.WithoutCancel(ctx), Event{Kind: StoreFailed, Err: err})
		}
	}
	return err
}

// contained runs f in a goroutine of our own, where a panic of the store or of Observe would
// end the process. In that of a request it is the server of HTTP that contains it.
func (g *guard) contained(ctx context.Context, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("ratelimit: panic: %v", p)
			g.panics.log(ctx, "ratelimit: a panic beside the requests", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	return f()
}

// tell tells of how the circuit breaker stands, if that is news: in order, although steps
// end at once in many goroutines. Who finds another one telling leaves it to that one, which
// looks again when it is through.
func (g *guard) tell(ctx context.Context) {
	for g.observe != nil && g.told.Load() != g.counters.open.Load() && g.telling.TryLock() {
		func() {
			defer g.telling.Unlock()
			if open := g.counters.open.Load(); g.told.Swap(open) != open {
				g.observe(context.WithoutCancel(ctx), Event{Kind: BreakerChanged, Open: open})
			}
		}()
	}
}
