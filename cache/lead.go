package cache

import (
	"context"
	"errors"
	"time"

	"github.com/herdless/herdless/internal/deadline"
)

// lead gets the entry on behalf of all callers of this process that ask for the
// key now: from the store, by computing it, or by waiting for another process
// that does. It ends the flight whatever happens, load's panic included.
func (e *Engine) lead(ctx context.Context, f *flight, j *job, w *wait) (Result, error) {
	defer e.flights.end(f, finding{})
	if j.alone {
		return e.loadAlone(ctx, f, j)
	}
	l := &f.leader
	l.e, l.f, l.j, l.deadline = e, f, j, w.now().Add(e.storeTimeout)
	defer l.stopWatching()
	result, ok, err := l.look(ctx)
	switch {
	case ok:
		return result, nil
	case ctx.Err() != nil:
		return Result{}, ended(ctx)
	case err == nil && !j.background:
		e.happened(ctx, Event{Kind: Missed, Key: j.key})
	}
	if failure := l.failedLately(); failure != nil {
		e.flights.end(f, finding{err: failure})
		return Result{}, failure
	}
	if err != nil {
		return e.loadAlone(ctx, f, j)
	}
	// Whoever has the lease may be about to release it, having just filled or
	// given up; nobody says so to those who watch the key. So the first wait,
	// and each after a wake-up that brought nothing, is a short one.
	for short := true; ; {
		a := e.attempt(ctx, l)
		switch {
		case a.ran:
			return a.result, a.err
		case a.err != nil:
			return e.loadAlone(ctx, f, j)
		case l.usable:
			e.flights.end(f, finding{entry: *l.stale, hit: true, asOf: e.upTo(l.foundAt)})
			return Result{Entry: *l.stale, Source: Hit}, nil
		case (j.noWait || j.background) && short:
			// But for a release that is on its way.
			short = false
			time.Sleep(leaseMargin)
			continue
		case j.background, j.noWait:
			return Result{}, ErrHeld
		}
		j.begunToWait()
		if l.watch(ctx) {
			// Whoever computes may have filled, or given up, before the
			// watch stood. So look, and try, once more before waiting.
			a.heldFor = 0
		}
		switch {
		case l.changed == nil:
			a.heldFor = min(a.heldFor, unwatchedPause)
		case short:
			a.heldFor = min(a.heldFor, overtakenPause)
		}
		if a.heldFor > 0 {
			leaseEnds := time.NewTimer(a.heldFor + leaseMargin)
			select {
			case <-l.changed:
				short = true
			case <-leaseEnds.C:
				short = false
			case <-w.over():
				leaseEnds.Stop()
				// Those who have come meanwhile have patience left, and what is waited for
				// may come before this load has ended.
				e.flights.end(f, finding{})
				return e.loadAlone(ctx, nil, j)
			case <-ctx.Done():
				leaseEnds.Stop()
				return Result{}, ended(ctx)
			}
			leaseEnds.Stop()
		}
		l.deadline = time.Now().Add(e.storeTimeout)
		result, ok, err := l.look(ctx)
		switch {
		case ok:
			return result, nil
		case ctx.Err() != nil:
			return Result{}, ended(ctx)
		case err != nil:
			return e.loadAlone(ctx, f, j)
		case l.othersFailed:
			e.failures.set(j.key, ErrLoadFailed, j.backoff)
			e.flights.end(f, finding{err: ErrLoadFailed})
			return Result{}, ErrLoadFailed
		}
	}
}

// ErrLoadFailed is the error of callers that have waited for what another process
// loads, if that has failed; what the failure was is known there.
var ErrLoadFailed = errors.New("cache: the load that was waited for has failed in another process")

const (
	// unwatchedPause is how long to wait, at most, before asking again where
	// no push can be had.
	unwatchedPause = 250 * time.Millisecond

	// overtakenPause is how long to wait, at most, for somebody who has begun
	// a fill under a lease that is not to be seen, or is about to release it.
	overtakenPause = 50 * time.Millisecond
)

// leader is what the leader of a flight knows.
type leader struct {
	e *Engine
	f *flight
	j *job
	// deadline bounds what is done in the store before computing or waiting.
	deadline time.Time
	// seen is the version of the entry that was found last and did not do.
	seen uint64
	// found: there is a value, if only a stale one, which no marker must replace.
	found bool
	// stale is that value, if it is better than nothing, or nil. usable: it will do, if
	// another one computes.
	stale   *Entry
	foundAt instant
	usable  bool
	// looked: the leader has looked before. othersFailed: since then somebody
	// else's load has failed.
	looked, othersFailed bool
	memo                 Memo // of what it finds first
	// damaged: it has told of damage.
	damaged bool
	// changed is nil while nobody watches: most often nobody else computes the
	// key, and a watch would be for nothing.
	changed <-chan struct{}
	stop    func()
}

// asks returns the context of a step, whose deadline is l's. A leader in a goroutine of
// its own holds nobody up: it asks to the end of the budget although its callers have
// gone, or a store that hangs would never be noticed where callers are in a hurry.
func (l *leader) asks(ctx context.Context) context.Context {
	if l.j.detached {
		return context.WithoutCancel(ctx)
	}
	return ctx
}

// look asks the store, and reports whether the flight has ended with what it has.
func (l *leader) look(ctx context.Context) (Result, bool, error) {
	l.foundAt = l.e.instant()
	asOf := l.foundAt.asked
	budget, cancel := deadline.At(l.asks(ctx), l.deadline, errBudget)
	defer cancel()
	entry, ok, err := l.e.read(budget, l.j.key)
	if entry.Damaged {
		l.foundDamage(ctx)
	}
	if err != nil || !ok {
		l.looked = true
		return Result{}, false, err
	}
	source := Hit
	if l.looked {
		source = Waited
	}
	if entry.Memo == nil {
		entry.Memo = &l.memo // all callers share what one has decoded
		if l.looked {
			entry.Memo = new(Memo) // that is of what was found before
		}
	}
	done := l.take(ctx, entry, finding{entry: entry, hit: !l.looked, asOf: asOf})
	l.looked = true
	return Result{Entry: entry, Source: source}, done, nil
}

// foundDamage tells of what was found, once, however often the leader looks.
func (l *leader) foundDamage(ctx context.Context) {
	if !l.damaged {
		l.damaged = true
		l.e.happened(ctx, Event{Kind: DamageFound, Key: l.j.key})
	}
}

// take judges an entry and ends the flight with it if it will do.
func (l *leader) take(ctx context.Context, entry Entry, found finding) bool {
	l.found = entry.Kind == Value
	l.stale, l.usable = nil, false
	switch v := l.j.verdict(entry); v {
	case Use:
	case UseAndRefresh, FallBack:
		if v == UseAndRefresh && !l.j.inline {
			l.e.refresh(ctx, l.j, entry)
			break
		}
		kept := entry
		l.seen, l.stale, l.usable = entry.Version, &kept, v == UseAndRefresh
		if l.j.detached || l.usable {
			l.e.flights.fallBack(l.f, &kept, l.foundAt.changes)
		}
		return false
	case Reject:
		if l.j.unreadable != nil && l.j.unreadable(entry) {
			l.foundDamage(ctx)
		}
		// A marker that was not there before is by the one who was waited for.
		l.othersFailed = l.othersFailed || l.looked && entry.Kind == Uncacheable && entry.TTL > 0 && entry.Version != l.seen
		l.seen = entry.Version
		return false
	}
	l.e.flights.end(l.f, found)
	return true
}

// failedLately returns the error of a load that failed a moment ago, whose
// repetition would only keep the source busy, or nil.
func (l *leader) failedLately() error {
	if !l.j.detached {
		return nil
	}
	return l.e.failures.get(l.j.key)
}

// watch begins to watch the key, and reports whether it has not before.
func (l *leader) watch(ctx context.Context) bool {
	if l.changed != nil {
		return false
	}
	budget, cancel := deadline.At(l.asks(ctx), l.deadline, errBudget)
	defer cancel()
	err := l.e.step(budget, "watch", l.j.key, func() (err error) {
		l.changed, l.stop, err = l.e.store.Watch(budget, l.j.key)
		return err
	})
	if err != nil {
		l.changed, l.stop = nil, nil
		return false
	}
	return true
}

func (l *leader) stopWatching() {
	if l.stop != nil {
		l.stop()
	}
}

// loadAlone computes without the store, and shares the outcome with those who
// wait for the flight, if it is not nil.
func (e *Engine) loadAlone(ctx context.Context, f *flight, j *job) (Result, error) {
	began := e.instant()
	share := func(found finding) {
		if f != nil {
			found.asOf = e.upTo(began)
			e.flights.end(f, found)
		}
	}
	if f != nil {
		e.flights.nowLoads(f)
	}
	l := &Loading{
		settle: func(entry Entry) bool { share(finding{entry: entry, loaded: j.detached}); return false },
		share: func(entry Entry) {
			e.share(f, entry, func() bool { return e.changes.Load() == began.changes })
		},
	}
	entry, err := e.load(ctx, j, l)
	switch {
	case err == nil:
		l.Settle(entry)
	case j.detached:
		share(finding{err: err})
	}
	return Result{Entry: entry, Source: Loaded}, err
}

// share shares an entry with those who wait for f, if it is not nil, as long as it
// stands.
func (e *Engine) share(f *flight, entry Entry, stands func() bool) {
	if f != nil {
		e.flights.share(f, entry, stands)
	}
}

// load runs the load of j. Of a detached job the context is its own; of any other
// one it is a caller's, whose end is no reason to give up what others wait for.
func (e *Engine) load(ctx context.Context, j *job, l *Loading) (entry Entry, err error) {
	if !j.detached {
		ctx = context.WithoutCancel(ctx)
	}
	began := time.Now()
	ended := false
	defer func() {
		if !ended { // it panics
			err = errPanicked
		}
		e.happened(ctx, Event{Kind: LoadEnded, Key: j.key, Took: time.Since(began), Err: err})
	}()
	entry, err = j.compute(ctx, l)
	ended = true
	entry.Cost = time.Since(began)
	switch {
	case !j.detached:
	case err == nil:
		e.failures.forget(j.key)
	case isFailure(ctx, err):
		e.failures.set(j.key, err, j.backoff)
	}
	return entry, err
}

var errPanicked = errors.New("cache: the load panicked")

// isFailure reports an error of a load that another load soon would most likely
// meet again: not that nobody waits any more.
func isFailure(ctx context.Context, err error) bool {
	return err != nil && ctx.Err() == nil && !errors.Is(err, errDirect)
}
