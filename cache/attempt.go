package cache

import (
	"context"
	"errors"
	"time"
)

// attempt is the outcome of one try at the lease. Either ran is true and
// result and err are the caller's answer, or err says what is wrong with the
// store or the locker, or another process has the lease for heldFor.
type attempt struct {
	ran     bool
	result  Result
	err     error
	heldFor time.Duration
}

// attempt tries once to take the lease of the flight's key and to compute under
// it.
func (e *Engine) attempt(ctx context.Context, f *flight, load Load) attempt {
	if e.locker == nil {
		a := e.fill(ctx, f, e.token(), func() {}, load)
		if !a.ran && a.err == nil {
			a.err = errors.New("cache: another process fills the key, and without a locker there is no telling until when")
		}
		return a
	}
	token, release, err := e.lease(ctx, f.key)
	var held interface{ RetryAfter() time.Duration }
	switch {
	case errors.As(err, &held):
		return attempt{heldFor: max(leaseMargin, held.RetryAfter())}
	case err != nil:
		return attempt{err: e.trouble(context.WithoutCancel(ctx), "lease", f.key, err)}
	}
	// Deferred: also if load panics.
	defer release()
	return e.fill(ctx, f, token, release, load)
}

// lease takes the lease of key. The caller must release it; only the first call
// of release counts.
//
// The Locker keeps a lease for as long as the function that it is given runs.
// Here that function only waits, in a goroutine of its own, because what is
// computed belongs into the goroutine of the caller, and because the lease may
// have to end before that does.
func (e *Engine) lease(ctx context.Context, key string) (token uint64, release func(), err error) {
	// The lease must outlive this caller's request, whose end is no reason to
	// give up what others wait for. Only taking it is bounded.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	overdue := time.AfterFunc(e.storeTimeout, func() { cancel(context.DeadlineExceeded) })
	granted := make(chan uint64, 1)
	over := make(chan struct{})
	refused := make(chan error, 1)
	go func() {
		defer cancel(nil)
		defer overdue.Stop()
		err := e.locker.TryDo(ctx, e.store.LeaseName(key), e.leaseTTL, func(_ context.Context, token uint64) error {
			overdue.Stop()
			granted <- token
			<-over
			return nil
		})
		if err == nil {
			err = errors.New("the locker returned without an error and without calling the function")
		}
		refused <- err // of no consequence once granted: the store decides what counts
	}()
	select {
	case token := <-granted:
		released := false
		return token, func() {
			if !released {
				released = true
				close(over)
			}
		}, nil
	case err := <-refused:
		return 0, nil, err
	}
}

// fill announces a fill under token, computes and stores.
func (e *Engine) fill(ctx context.Context, f *flight, token uint64, release func(), load Load) (a attempt) {
	asOf := e.asked.Load()
	b, err := e.begin(ctx, f.key, token)
	switch {
	case err != nil:
		return attempt{err: err}
	case b.Outcome == Filled:
		e.flights.end(f, finding{entry: b.Entry, asOf: asOf})
		return attempt{ran: true, result: Result{Entry: b.Entry, Source: Waited}}
	case b.Outcome == Overtaken:
		return attempt{heldFor: overtakenPause}
	}
	l := &Loading{kept: true, settle: func(entry Entry) {
		last := e.asked.Load()
		stored, err := e.finish(ctx, f.key, token, entry)
		if stored || err != nil {
			// No purge came between Begin and Fill, or the store that it
			// would have had to reach is away.
			asOf = last
		}
		a.result.Stored = stored
		e.flights.end(f, finding{entry: entry, asOf: asOf})
		release()
	}}
	// Deferred, with the outcome of a failure until there is a better one, so
	// that nobody waits for a load that has panicked.
	outcome := Entry{Kind: Uncacheable, TTL: failureTTL}
	defer func() { l.Settle(outcome) }()
	a.ran, a.result.Source = true, Loaded
	a.result.Entry, a.err = load(context.WithoutCancel(ctx), l)
	if a.err == nil {
		outcome = a.result.Entry
	}
	return a
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
