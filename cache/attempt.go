package cache

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/herdless/herdless/internal/deadline"
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
// it. What has begun goes on if the caller goes away: others may be waiting.
func (e *Engine) attempt(ctx context.Context, l *leader) attempt {
	budget, cancel := deadline.At(context.WithoutCancel(ctx), l.deadline, errBudget)
	defer cancel()
	if e.locker == nil {
		a := e.fill(ctx, budget, l, e.token(), func() {})
		if !a.ran && a.err == nil {
			a.err = errors.New("cache: another process fills the key, and without a locker there is no telling until when")
		}
		return a
	}
	var (
		token   uint64
		release func()
		held    interface{ RetryAfter() time.Duration }
	)
	err := e.step(budget, "lease", l.j.key, func() (err error) {
		token, release, err = e.lease(budget, l.j.key)
		if errors.As(err, &held) {
			return nil
		}
		return err
	})
	switch {
	case held != nil:
		return attempt{heldFor: max(leaseMargin, held.RetryAfter())}
	case err != nil:
		return attempt{err: err}
	}
	// Deferred: also if load panics.
	defer release()
	return e.fill(ctx, budget, l, token, release)
}

// lease takes the lease of key. The caller must release it; only the first call
// of release counts. budget bounds the taking only.
//
// A Locker that is not back when the budget ends is left to itself.
//
// The Locker keeps a lease for as long as the function that it is given runs.
// Here that function only waits, in a goroutine of its own, because what is
// computed belongs into the goroutine of the caller, and because the lease may
// have to end before that does.
func (e *Engine) lease(budget context.Context, key string) (token uint64, release func(), err error) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(budget))
	overdue := context.AfterFunc(budget, func() { cancel(context.Cause(budget)) })
	granted := make(chan uint64, 1)
	over := make(chan struct{})
	refused := make(chan error, 1)
	go func() {
		defer cancel(nil)
		defer overdue()
		err := e.locker.TryDo(ctx, e.store.LeaseName(key), e.leaseTTL, func(_ context.Context, token uint64) error {
			overdue()
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
	case <-budget.Done():
		// A locker that hears of no cancellation, such as one that waits for a Redis that
		// hangs, goes on for as long as it takes. What it has then nobody wants.
		close(over)
		return 0, nil, context.Cause(budget)
	}
}

// fill announces a fill under token, computes and stores.
func (e *Engine) fill(ctx, budget context.Context, l *leader, token uint64, release func()) (a attempt) {
	began := e.instant()
	asOf := began.asked
	var b Beginning
	err := e.step(budget, "begin", l.j.key, func() (err error) {
		b, err = e.store.Begin(budget, l.j.key, Filling{Token: token, Seen: l.seen, TTL: fillTTL})
		return err
	})
	switch {
	case err != nil:
		return attempt{err: err}
	case b.Outcome == Overtaken:
		return attempt{heldFor: overtakenPause}
	case b.Outcome == Filled:
		l.foundAt = began
		if l.take(ctx, b.Entry, finding{entry: b.Entry, asOf: asOf}) {
			return attempt{ran: true, result: Result{Entry: b.Entry, Source: Waited}}
		}
		return attempt{heldFor: leaseMargin} // look again
	}
	failure := finding{}
	loading := &Loading{kept: true}
	if l.stale != nil {
		loading.stale = sync.OnceValue(func() Entry { return l.stillStale(ctx) })
	}
	loading.share = func(entry Entry) {
		e.share(l.f, entry, func() bool {
			if e.listener == nil {
				return e.changes.Load() == began.changes
			}
			return e.listener.Stands(l.j.key, b.Ticket, entry.Tags)
		})
	}
	loading.add = func(ctx context.Context, key string, entry Entry, seen uint64) error {
		return e.add(ctx, key, Filling{Token: token, Seen: seen, TTL: fillTTL}, b.Ticket.Epoch, entry)
	}
	loading.settle = func(entry Entry) bool {
		last := e.asked.Load()
		stored, err := e.finish(ctx, l.j, b.Ticket, entry)
		switch {
		case stored: // no purge came between Begin and Fill
			asOf = last
		case err != nil: // there is no telling
			asOf = e.upTo(began)
		}
		a.result.Stored = stored
		if failure.err == nil {
			e.flights.end(l.f, finding{entry: entry, asOf: asOf, loaded: l.j.detached})
		} else {
			failure.asOf = asOf
			e.flights.end(l.f, failure)
		}
		release()
		return stored
	}
	// Deferred, with the outcome of a failure until there is a better one, so
	// that nobody waits for a load that has panicked.
	outcome := Entry{Kind: Uncacheable, TTL: failureTTL}
	if l.j.background && l.found {
		outcome.TTL = 0 // what there is may still do
	}
	defer func() { loading.Settle(outcome) }()
	a.ran, a.result.Source = true, Loaded
	e.flights.nowLoads(l.f)
	a.result.Entry, a.err = e.load(ctx, l.j, loading)
	switch {
	case a.err == nil:
		outcome = a.result.Entry
	case l.j.detached:
		failure.err = a.err
		outcome.TTL = l.j.backoff
		if l.found || !isFailure(ctx, a.err) {
			outcome.TTL = 0 // no marker
		}
	}
	return a
}

// stillStale returns the stale entry as the store has it now, or none if it has none
// any more, or does not say:
//
//	A finds the stale entry
//	                          somebody purges it
//	A begins to fill; its load fails, and answers with the stale entry instead, for
//	a second, to whoever asks
//
// It has a budget of its own: a load may ask late.
func (l *leader) stillStale(ctx context.Context) Entry {
	budget, cancel := deadline.After(context.WithoutCancel(ctx), l.e.storeTimeout, errBudget)
	defer cancel()
	entry, ok, err := l.e.read(budget, l.j.key)
	switch {
	case err != nil || !ok:
		return Entry{}
	case entry.Memo != nil:
	case entry.Version == l.stale.Version:
		entry.Memo = l.stale.Memo
	default:
		entry.Memo = new(Memo)
	}
	if v := l.j.verdict(entry); v != FallBack && v != UseAndRefresh {
		return Entry{}
	}
	return entry
}

// perMiB is added to the budget of storing for each MiB of data.
const perMiB = 20 * time.Millisecond

// finish stores the outcome of a load.
func (e *Engine) finish(ctx context.Context, j *job, t Ticket, entry Entry) (stored bool, err error) {
	if j.slots != nil {
		j.slots <- struct{}{}
		defer func() { <-j.slots }()
	}
	budget := e.storeTimeout + time.Duration(len(entry.Data)>>20)*perMiB
	ctx, cancel := deadline.After(context.WithoutCancel(ctx), budget, errBudget)
	defer cancel()
	err = e.step(ctx, "fill", j.key, func() (err error) {
		stored, err = e.store.Fill(ctx, j.key, t, entry)
		return err
	})
	if err == nil && !stored && entry.TTL > 0 {
		e.happened(ctx, Event{Kind: FillRefused, Key: j.key})
	}
	return stored, err
}
