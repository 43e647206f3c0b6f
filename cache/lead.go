package cache

import (
	"context"
	"errors"
	"time"
)

// lead gets the entry on behalf of all callers of this process that ask for the
// key now: from the store, by computing it, or by waiting for another process
// that does. It ends the flight whatever happens, load's panic included.
func (e *Engine) lead(ctx context.Context, key string, f *flight, load Load, patience <-chan time.Time) (Result, error) {
	defer e.flights.end(key, f)
	share := func(entry Entry, hit bool) {
		f.entry, f.hit, f.shared = entry, hit, entry.TTL > 0
	}
	entry, ok, storeErr := e.Get(ctx, key)
	switch {
	case ctx.Err() != nil:
		return Result{}, ended(ctx)
	case ok:
		share(entry, true)
		return Result{Entry: entry, Source: Hit}, nil
	case storeErr != nil && !errors.Is(storeErr, context.DeadlineExceeded):
		result, err := loadAlone(ctx, load)
		if err == nil {
			share(result.Entry, false)
		}
		return result, err
	}
	// A read that took too long may mean that the store is only busy, and it
	// is busy when a herd comes. Then whoever gets the lease still computes
	// alone.
	result, trusted, err := e.compute(ctx, key, load, patience)
	if err == nil && trusted {
		share(result.Entry, false)
	}
	return result, err
}

// compute takes the lease and loads, or waits for whoever has the lease. The
// result is trusted unless somebody purged the key, or overtook this caller,
// while it was computed: then it is this caller's only, and those who wait start
// over. Without a store that can tell, it is trusted.
func (e *Engine) compute(ctx context.Context, key string, load Load, patience <-chan time.Time) (result Result, trusted bool, err error) {
	// changed is nil for the first attempt: most often nobody else computes
	// the key, and a watch would be for nothing.
	var changed <-chan struct{}
	for {
		a := e.attempt(ctx, key, load)
		switch {
		case a.ran:
			return a.result, !a.refused, a.err
		case a.err != nil:
			result, err = loadAlone(ctx, load)
			return result, true, err
		case changed == nil:
			c, stop, err := e.watch(ctx, key)
			if err == nil {
				defer stop()
				// Whoever computes may have filled, or given up, before the
				// watch stood. So look, and try, once more before waiting.
				changed = c
				break
			}
			// Somebody holds the lease, so the store is not away: wait for a
			// while without a push.
			a.heldFor = min(a.heldFor, unwatchedPause)
			fallthrough
		default:
			leaseEnds := time.NewTimer(a.heldFor + leaseMargin)
			select {
			case <-changed:
			case <-leaseEnds.C:
			case <-patience:
				leaseEnds.Stop()
				result, err = loadAlone(ctx, load)
				return result, false, err
			case <-ctx.Done():
				leaseEnds.Stop()
				return Result{}, false, ended(ctx)
			}
			leaseEnds.Stop()
		}
		entry, ok, err := e.Get(ctx, key)
		switch {
		case ctx.Err() != nil:
			return Result{}, false, ended(ctx)
		case err != nil && !errors.Is(err, context.DeadlineExceeded):
			result, err = loadAlone(ctx, load)
			return result, true, err
		case ok:
			return Result{Entry: entry, Source: Waited}, true, nil
		}
	}
}

// attempt is the outcome of one try at the lease. Either ran is true and
// result and err are the caller's answer, or err says what is wrong with the
// store or the locker, or another process has the lease for heldFor.
type attempt struct {
	ran     bool
	result  Result
	refused bool // the store did not take the result, which it should have
	err     error
	heldFor time.Duration
}

// unwatchedPause is how long to wait, at most, before asking again where no push
// can be had.
const unwatchedPause = 250 * time.Millisecond

// overtakenPause is how long to wait, at most, for a fill that was begun by
// somebody whose lease is not to be seen.
const overtakenPause = 50 * time.Millisecond

// attempt tries once to take the lease of key and to compute under it.
func (e *Engine) attempt(ctx context.Context, key string, load Load) (a attempt) {
	if e.locker == nil {
		e.fill(ctx, key, e.tokens.Add(1), load, &a)
		return a
	}
	// The lease must outlive this caller's request, whose end is no reason to
	// give up what others wait for. Only taking it is bounded.
	leaseCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	overdue := time.AfterFunc(e.storeTimeout, func() { cancel(context.DeadlineExceeded) })
	defer overdue.Stop()

	began := false
	err := e.locker.TryDo(leaseCtx, e.store.LeaseName(key), e.leaseTTL, func(_ context.Context, token uint64) error {
		began = true
		overdue.Stop()
		e.fill(ctx, key, token, load, &a)
		return a.err
	})
	if began {
		// What TryDo says about the lease by now is of no consequence: the
		// store has decided whether the fill counted.
		return a
	}
	var held interface{ RetryAfter() time.Duration }
	switch {
	case errors.As(err, &held):
		return attempt{heldFor: held.RetryAfter()}
	case err == nil:
		err = errors.New("the locker returned without an error and without calling the function")
	}
	return attempt{err: e.trouble(leaseCtx, "lease", key, err)}
}

// fill announces a fill under token, computes and stores. It leaves the outcome
// in a, also the part that is known when load panics.
func (e *Engine) fill(ctx context.Context, key string, token uint64, load Load, a *attempt) {
	b, err := e.begin(ctx, key, token)
	switch {
	case err != nil:
		a.err = err
		return
	case b.Outcome == Filled:
		a.ran, a.result = true, Result{Entry: b.Entry, Source: Waited}
		return
	case b.Outcome == Overtaken:
		a.heldFor = overtakenPause
		return
	}
	// Deferred, with the outcome of a failure until there is a better one, so
	// that nobody waits for a load that has panicked.
	outcome := Entry{Kind: Uncacheable, TTL: failureTTL}
	defer func() {
		stored, err := e.finish(ctx, key, token, outcome)
		a.result.Stored, a.refused = stored, err == nil && !stored && outcome.TTL > 0
	}()
	a.ran, a.result.Source = true, Loaded
	a.result.Entry, a.err = load(context.WithoutCancel(ctx))
	if a.err == nil {
		outcome = a.result.Entry
	}
}

func (e *Engine) begin(ctx context.Context, key string, token uint64) (Beginning, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.storeTimeout)
	defer cancel()
	b, err := e.store.Begin(ctx, key, token, fillTTL)
	if err != nil {
		return Beginning{}, e.trouble(ctx, "begin", key, err)
	}
	return b, nil
}

func (e *Engine) finish(ctx context.Context, key string, token uint64, entry Entry) (stored bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.storeTimeout)
	defer cancel()
	stored, err = e.store.Fill(ctx, key, token, entry)
	if err != nil {
		return false, e.trouble(ctx, "fill", key, err)
	}
	return stored, nil
}

func (e *Engine) watch(ctx context.Context, key string) (<-chan struct{}, func(), error) {
	ctx, cancel := context.WithTimeout(ctx, e.storeTimeout)
	defer cancel()
	changed, stop, err := e.store.Watch(ctx, key)
	if err != nil {
		return nil, nil, e.trouble(ctx, "watch", key, err)
	}
	return changed, stop, nil
}
