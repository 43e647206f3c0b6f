package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/herdless/herdless/internal/deadline"
	"github.com/sony/gobreaker/v2"
)

const (
	// failuresToOpen is how many steps must fail one after the other before
	// the circuit breaker opens.
	failuresToOpen = 3
	// openFor is how long it stays open before it lets somebody try. A store
	// that is away is asked, and dialled, about once a second.
	openFor = 950 * time.Millisecond
	// tryFor is how long a request waits for the trial. What answers later is
	// there for those that come then.
	tryFor = 50 * time.Millisecond
)

// guarded is a Store each step of which ends after a while, because the context
// of a request has no deadline of its own, and which is left alone while it
// fails.
type guarded struct {
	store   Store
	timeout time.Duration
	breaker *gobreaker.CircuitBreaker[struct{}]
	closed  atomic.Bool // the breaker, which need not be asked then, by all at a time
	failed  func(ctx context.Context, err error)
	logger  *slog.Logger
}

func guard(store Store, timeout time.Duration, logger *slog.Logger, failed func(ctx context.Context, err error)) *guarded {
	g := &guarded{store: store, timeout: timeout, logger: logger, failed: failed}
	g.closed.Store(true)
	g.breaker = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Timeout:     openFor,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= failuresToOpen },
		// A store that refuses a step is there for the next one.
		IsSuccessful: func(err error) bool { return err == nil || errors.Is(err, ErrRefused) },
		// A client that went away says nothing about the store.
		IsExcluded:    func(err error) bool { return errors.Is(err, errLeft) },
		OnStateChange: func(_ string, _, to gobreaker.State) { g.closed.Store(to == gobreaker.StateClosed) },
	})
	return g
}

var (
	// errBudget is the cause of the end of a budget. Any other end is the caller's.
	errBudget = fmt.Errorf("the store has not answered within StoreTimeout: %w", context.DeadlineExceeded)
	// errLeft marks an error of a step whose caller went away.
	errLeft = errors.New("the request has ended")
	errOpen = errors.New("it has failed lately, and is not asked for up to a second")
)

// open reports whether the store is left alone at present.
func (g *guarded) open() bool {
	return !g.closed.Load() && g.breaker.State() == gobreaker.StateOpen
}

// try asks the store, when it is time for that, whether the session called id is
// alive, and waits a little for the answer. So no request waits for a store that
// hangs, nor tries a change on it.
func (g *guarded) try(ctx context.Context, id string) {
	if g.closed.Load() || g.breaker.State() != gobreaker.StateHalfOpen {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.contained(ctx, func() {
			// Of several that try at once the breaker admits one.
			_, _ = g.breaker.Execute(func() (struct{}, error) {
				ctx, cancel := deadline.After(context.WithoutCancel(ctx), g.timeout, errBudget)
				defer cancel()
				_, err := g.store.Alive(ctx, []string{id})
				if err != nil {
					g.failed(ctx, err)
				}
				return struct{}{}, err
			})
		})
	}()
	wait := time.NewTimer(tryFor)
	defer wait.Stop()
	select {
	case <-done:
	case <-wait.C:
	}
}

// contained runs f in a goroutine of our own, where a panic of the store or of
// Options.Observe would end the process. In that of a request net/http contains it.
func (g *guarded) contained(ctx context.Context, f func()) {
	defer func() {
		if p := recover(); p != nil {
			g.logger.LogAttrs(ctx, slog.LevelError, "session: a panic beside the requests",
				slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
		}
	}()
	f()
}

// step does one thing in the store, with the session called id, or with those of
// the owner called so.
func step[T any](ctx context.Context, g *guarded, id string, do func(ctx context.Context) (T, error)) (T, error) {
	g.try(ctx, id)
	var result T
	_, err := g.breaker.Execute(func() (struct{}, error) {
		began := time.Now()
		ctx, cancel := deadline.At(ctx, began.Add(g.timeout), errBudget)
		defer cancel()
		var err error
		result, err = do(ctx)
		// A caller that went away says nothing about the store, unless that
		// has kept it waiting for long.
		if err != nil && ctx.Err() != nil && !errors.Is(context.Cause(ctx), errBudget) && time.Since(began) <= g.timeout/2 {
			err = fmt.Errorf("%w: %w", errLeft, err)
		}
		return struct{}{}, err
	})
	switch {
	case err == nil:
		return result, nil
	case errors.Is(err, gobreaker.ErrOpenState), errors.Is(err, gobreaker.ErrTooManyRequests):
		err = errOpen
	case !errors.Is(err, errLeft):
		g.failed(ctx, err)
	}
	var zero T
	return zero, fmt.Errorf("%w: %w", ErrUnavailable, err)
}

func (g *guarded) Load(ctx context.Context, id string, digest Digest) (Record, error) {
	return step(ctx, g, id, func(ctx context.Context) (Record, error) { return g.store.Load(ctx, id, digest) })
}

func (g *guarded) LoadAll(ctx context.Context, id string, digest Digest, again bool) (Record, error) {
	return step(ctx, g, id, func(ctx context.Context) (Record, error) { return g.store.LoadAll(ctx, id, digest, again) })
}

func (g *guarded) Commit(ctx context.Context, delta Delta) (Result, error) {
	return step(ctx, g, delta.ID, func(ctx context.Context) (Result, error) { return g.store.Commit(ctx, delta) })
}

func (g *guarded) Take(ctx context.Context, id string, digest Digest, taker string, hold time.Duration) (Record, error) {
	return step(ctx, g, id, func(ctx context.Context) (Record, error) { return g.store.Take(ctx, id, digest, taker, hold) })
}

func (g *guarded) Delete(ctx context.Context, id string) (bool, error) {
	return step(ctx, g, id, func(ctx context.Context) (bool, error) { return g.store.Delete(ctx, id) })
}

func (g *guarded) List(ctx context.Context, owner string) ([]Listed, error) {
	return step(ctx, g, owner, func(ctx context.Context) ([]Listed, error) { return g.store.List(ctx, owner) })
}

func (g *guarded) Revoke(ctx context.Context, owner string, which Selection) (ids []string, ok bool, err error) {
	type result struct {
		ids []string
		ok  bool
	}
	r, err := step(ctx, g, owner, func(ctx context.Context) (r result, err error) {
		r.ids, r.ok, err = g.store.Revoke(ctx, owner, which)
		return r, err
	})
	return r.ids, r.ok, err
}

func (g *guarded) Alive(ctx context.Context, ids []string) ([]bool, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	return step(ctx, g, ids[0], func(ctx context.Context) ([]bool, error) { return g.store.Alive(ctx, ids) })
}
