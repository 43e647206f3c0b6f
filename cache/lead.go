package cache

import (
	"context"
	"errors"
	"time"
)

// lead gets the entry on behalf of all callers of this process that ask for the
// key now: from the store, by computing it, or by waiting for another process
// that does. It ends the flight whatever happens, load's panic included.
func (e *Engine) lead(ctx context.Context, f *flight, load Load, patience <-chan time.Time) (Result, error) {
	defer e.flights.end(f, finding{})
	asOf := e.asked.Load()
	entry, ok, err := e.Get(ctx, f.key)
	switch {
	case ctx.Err() != nil:
		return Result{}, ended(ctx)
	case ok:
		e.flights.end(f, finding{entry: entry, hit: true, asOf: asOf})
		return Result{Entry: entry, Source: Hit}, nil
	case isFault(err):
		return e.loadAlone(ctx, f, load)
	}
	// changed is nil for the first attempt: most often nobody else computes
	// the key, and a watch would be for nothing.
	var changed <-chan struct{}
	// Whoever has the lease may be about to release it, having just filled or
	// given up; nobody says so to those who watch the key. So the first wait,
	// and each after a wake-up that brought nothing, is a short one.
	for short := true; ; {
		a := e.attempt(ctx, f, load)
		switch {
		case a.ran:
			return a.result, a.err
		case a.err != nil:
			return e.loadAlone(ctx, f, load)
		}
		if changed == nil {
			c, stop, err := e.watch(ctx, f.key)
			if err == nil {
				defer stop()
				// Whoever computes may have filled, or given up, before the
				// watch stood. So look, and try, once more before waiting.
				changed, a.heldFor = c, 0
			}
		}
		switch {
		case changed == nil:
			a.heldFor = min(a.heldFor, unwatchedPause)
		case short:
			a.heldFor = min(a.heldFor, overtakenPause)
		}
		if a.heldFor > 0 {
			leaseEnds := time.NewTimer(a.heldFor + leaseMargin)
			select {
			case <-changed:
				short = true
			case <-leaseEnds.C:
				short = false
			case <-patience:
				leaseEnds.Stop()
				return e.loadAlone(ctx, nil, load)
			case <-ctx.Done():
				leaseEnds.Stop()
				return Result{}, ended(ctx)
			}
			leaseEnds.Stop()
		}
		asOf := e.asked.Load()
		entry, ok, err := e.Get(ctx, f.key)
		switch {
		case ctx.Err() != nil:
			return Result{}, ended(ctx)
		case isFault(err):
			return e.loadAlone(ctx, f, load)
		case ok:
			e.flights.end(f, finding{entry: entry, asOf: asOf})
			return Result{Entry: entry, Source: Waited}, nil
		}
	}
}

const (
	// unwatchedPause is how long to wait, at most, before asking again where
	// no push can be had.
	unwatchedPause = 250 * time.Millisecond

	// overtakenPause is how long to wait, at most, for somebody who has begun
	// a fill under a lease that is not to be seen, or is about to release it.
	overtakenPause = 50 * time.Millisecond
)

// isFault reports an error of the store that is more than being late. A store
// that is late may only be busy, and it is busy when a herd comes: then whoever
// gets the lease is still to compute alone.
func isFault(err error) bool { return err != nil && !errors.Is(err, context.DeadlineExceeded) }

// loadAlone computes without the store, and shares the outcome with those who
// wait for the flight, if it is not nil.
func (e *Engine) loadAlone(ctx context.Context, f *flight, load Load) (Result, error) {
	share := func(entry Entry) {
		if f != nil {
			// The store that a purge would have to reach is away.
			e.flights.end(f, finding{entry: entry, asOf: e.asked.Load()})
		}
	}
	l := &Loading{settle: share}
	entry, err := load(context.WithoutCancel(ctx), l)
	if err == nil {
		l.Settle(entry)
	}
	return Result{Entry: entry, Source: Loaded}, err
}
