package lock

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/herdless/herdless/internal/nils"
)

const (
	// minTTL is the shortest TTL of a lease. Below it, what is taken off for
	// drift and a busy scheduler would leave nothing of the lease.
	minTTL = 10 * time.Millisecond
	// maxTTL is the longest. Instants and spans of stores are numbers that have an end.
	maxTTL = 100 * 365 * 24 * time.Hour
	// maxName is the longest name of a lease, in bytes.
	maxName = 512
	// defaultDrift is the part of a TTL by which the clocks of the store and
	// of this process may differ in speed. It is Redlock's.
	defaultDrift = 0.01
	// driftFloor covers the resolution of the store's clock, which is 1 ms in
	// Redis, as in Redlock.
	driftFloor = 2 * time.Millisecond
	// cleanUp bounds a release for which nobody waits, or for which nobody
	// should have to: past it the lease ends by itself.
	cleanUp = time.Second
	// maxAbandoned bounds the releases in the background: with the store hung
	// there would be one for every failed try. maxAbandoning of them are under
	// way at a time.
	maxAbandoned, maxAbandoning = 4096, 64
	// abandonFor is how long such a release is tried again while the store
	// fails.
	abandonFor = 10 * time.Second
)

// Options are the optional settings of a [Locker]. Nil and the zero value mean
// the defaults.
type Options struct {
	// DriftFactor is the part of every TTL that is not relied upon, because
	// the store's clock may be faster than this process's: a lease ends here
	// before it ends in the store. At least 0 and below 0.5; 0 means the
	// default of 0.01. Another 2 ms are always taken off.
	DriftFactor float64

	// Observe is told of every [Event], for logs and metrics. It is called from
	// the goroutine in which it happens, several at a time, and holds that up
	// until it returns. The context carries the values of the one that the lease
	// was asked for with, and does not end. It must not panic. Nil means nobody,
	// and costs nothing.
	Observe func(context.Context, Event)
}

// Locker gives out leases. It holds no lease itself and starts no goroutine of
// its own: it needs no closing. A Locker is safe for concurrent use.
//
// The leases of a Locker that [New] returns are exclusive. [Locker.Shared],
// [Locker.Semaphore] and [Locker.Fair] return Lockers of other kinds.
type Locker struct {
	store     Store
	relay     Relay // store, if it is one
	drift     float64
	observe   func(context.Context, Event)
	abandoned *abandoned
	lines     *lines
	owners    *owners

	shared bool
	limit  int // of shared leases; 0 for none
	fair   bool
}

// abandoned are the releases in the background.
type abandoned struct {
	count atomic.Int32
	slots chan struct{} // one value for each that asks the store
}

// New returns a Locker on store. All processes that are to exclude one another
// need a store on the same data.
func New(store Store, o *Options) (*Locker, error) {
	if o == nil {
		o = new(Options)
	}
	var errs []error
	if nils.Is(store) {
		errs = append(errs, errors.New("lock: New needs a store, such as lock.NewMemoryStore or redislock.New"))
	}
	if !(o.DriftFactor >= 0 && o.DriftFactor < 0.5) { // NaN as well
		errs = append(errs, fmt.Errorf("lock: Options.DriftFactor is %v, want 0 for the default or a value below 0.5", o.DriftFactor))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	l := &Locker{
		store:     store,
		drift:     o.DriftFactor,
		observe:   o.Observe,
		abandoned: &abandoned{slots: make(chan struct{}, maxAbandoning)},
		lines:     &lines{m: make(map[lineKey]*list.List)},
		owners:    newOwners(),
	}
	l.relay, _ = store.(Relay)
	if l.drift == 0 {
		l.drift = defaultDrift
	}
	return l, nil
}

// Shared returns a Locker whose leases exclude only those of l, and not one
// another: l and Shared together are a read/write lock, l for those who write and
// Shared for those who read. Whoever waits is served in the order of coming, so
// that readers who come all the time do not keep a writer out.
func (l *Locker) Shared() *Locker {
	s := *l
	s.shared, s.limit = true, 0
	return &s
}

// Semaphore returns a Locker of which n leases of a name can be held at a time.
// Each has its own TTL: the permit of a holder that died is free again when that
// is over. All who use a name must agree on n. An exclusive lease of the same
// name takes all permits at once. It panics if n is not positive.
//
// Tokens tell which permit was given out later. They do not fence: an earlier
// holder may be a rightful one.
func (l *Locker) Semaphore(n int) *Locker {
	if n < 1 {
		panic(fmt.Sprintf("lock: Semaphore(%d): at least one permit is needed", n))
	}
	s := *l
	s.shared, s.limit = true, n
	return &s
}

// Fair returns a Locker like l that serves all who wait, in all processes, in the
// order in which the store heard of them.
//
// All who use a name should: others hand a lease on past those who wait here.
//
// Without it, only processes are served in that order. Those who wait within one
// process hand a lease on among themselves for up to 25 ms, which costs the store
// nothing. That is faster where many wait, and less fair by those 25 ms.
//
// Either way, whoever waits and dies delays those behind by 2 s at most.
func (l *Locker) Fair() *Locker {
	f := *l
	f.fair = true
	return &f
}

// TryAcquire takes the lease called name if nobody holds it and nobody waits for
// it, and answers at once either way. name has 1 to 512 bytes, whatever they are;
// ttl is from 10 ms to 100 years. The lease is renewed until it is released, so ttl is not
// how long the work may take, but how long others wait after this process died.
//
// ctx bounds the call only. The lease's context carries ctx's values, but does
// not end with it.
//
// If somebody else holds the lease the error is a [*HeldError], which matches
// [ErrNotAcquired]. Every other error is a fault of the arguments, of ctx or of
// the store.
func (l *Locker) TryAcquire(ctx context.Context, name string, ttl time.Duration) (*Lease, error) {
	return l.tryAcquire(ctx, context.WithoutCancel(ctx), name, ttl)
}

// Acquire is like [Locker.TryAcquire], but waits while somebody else holds the
// lease until ctx ends. The error matches [ErrNotAcquired] and ctx's error then.
// A fault of the store ends the waiting too, with an error that says so.
//
// If ctx has no deadline and is cancelled while the store hangs, Acquire returns
// when the store's client gives up.
//
// A lease is not reentrant: whoever holds one and asks for another of the same name
// waits for itself, also for a shared one on top of an exclusive one or the other
// way round.
func (l *Locker) Acquire(ctx context.Context, name string, ttl time.Duration) (*Lease, error) {
	return l.acquire(ctx, context.WithoutCancel(ctx), name, ttl)
}

// Do acquires the lease like [Locker.Acquire], runs fn and releases the lease.
// It returns fn's error, unless the lease was not acquired. If it was lost while
// fn ran, the error matches [ErrLost] too. A panic in fn releases the lease and
// goes on.
//
// The context that fn gets ends when ctx ends, when the lease is lost, and when
// fn has returned. The lease is kept until fn has returned, also if ctx ends
// before that. token is the fencing token; see the package documentation.
//
// The release is given one second, or what is left of the lease if that is less.
// If it fails, that is no error of Do's, but [Options.Observe] is told; it is tried
// again in the background for 10 s, and after that the lease ends by itself.
func (l *Locker) Do(ctx context.Context, name string, ttl time.Duration, fn func(ctx context.Context, token uint64) error) error {
	if fn == nil {
		return errNoFunc
	}
	lease, err := l.acquire(ctx, ctx, name, ttl)
	if err != nil {
		return err
	}
	return lease.run(ctx, fn)
}

// TryDo is like [Locker.Do], but acquires the lease like [Locker.TryAcquire].
func (l *Locker) TryDo(ctx context.Context, name string, ttl time.Duration, fn func(ctx context.Context, token uint64) error) error {
	if fn == nil {
		return errNoFunc
	}
	lease, err := l.tryAcquire(ctx, ctx, name, ttl)
	if err != nil {
		return err
	}
	return lease.run(ctx, fn)
}

var errNoFunc = errors.New("lock: the function to run under the lease is nil")

func check(name string, ttl time.Duration) error {
	var errs []error
	switch {
	case name == "":
		errs = append(errs, errors.New("lock: the name is empty"))
	case len(name) > maxName:
		errs = append(errs, fmt.Errorf("lock: the name has %d bytes, at most %d are allowed: use a digest of it", len(name), maxName))
	}
	if ttl < minTTL {
		errs = append(errs, fmt.Errorf("lock: the TTL is %v, at least %v are needed", ttl, minTTL))
	}
	if ttl > maxTTL {
		errs = append(errs, fmt.Errorf("lock: the TTL is %v, 100 years are possible; it need not be as long as the work, as leases are renewed", ttl))
	}
	return errors.Join(errs...)
}

// ask is one call of a Locker's method that wants a lease.
type ask struct {
	parent context.Context // of the lease's
	req    Request
	began  time.Time // zero if nobody observes
	line   lineKey   // where it stands in line,
	inLine bool      // if it does
	placed bool      // it may have a place in the store's queue
	watch  *watch    // of its turn; nil until it stands
	next   *watch    // for the one who asks after it
	// refusal is what the store has answered already, or nil.
	refusal error
}

func (l *Locker) ask(parent context.Context, name string, ttl time.Duration) (ask, error) {
	if err := check(name, ttl); err != nil {
		return ask{}, err
	}
	a := ask{
		parent: parent,
		req:    Request{Name: name, Owner: l.owners.next(name), TTL: ttl, Shared: l.shared, Limit: l.limit, Fair: l.fair},
	}
	if l.observe != nil {
		a.began = time.Now()
	}
	return a, nil
}

func (l *Locker) tryAcquire(ctx, parent context.Context, name string, ttl time.Duration) (*Lease, error) {
	a, err := l.ask(parent, name, ttl)
	if err != nil {
		return nil, err
	}
	lease, err := l.try(ctx, &a)
	if err == nil {
		l.acquired(&a, lease)
	}
	return lease, err
}

// try asks the store once.
func (l *Locker) try(ctx context.Context, a *ask) (*Lease, error) {
	if err := ended(ctx); err != nil {
		return nil, fmt.Errorf("lock: acquire %.64q: %w", a.req.Name, err)
	}
	// The lease lasts from some instant between the request and its answer.
	// Only the earlier end of that span is safe to count from. time.Now is on
	// the monotonic clock, so setting the wall clock changes nothing.
	asked, ttl := time.Now(), a.req.TTL
	grant, err := l.store.TryAcquire(ctx, a.req)
	if l.expiring(grant) {
		grant, err = l.store.TryAcquire(ctx, a.req)
	}
	if grant.TTL > 0 {
		asked, ttl = grant.Since, grant.TTL
	}
	answered := time.Now()
	deadline := asked.Add(l.reliable(ttl))
	switch {
	case err != nil:
		// The request may have arrived, and only its answer be lost.
		l.takeBack(ctx, a.req, err)
		a.placed = false
		if e := ended(ctx); e != nil && !errors.Is(err, e) {
			err = errors.Join(e, err)
		}
		return nil, fmt.Errorf("lock: acquire %.64q: %w", a.req.Name, err)
	case !grant.Acquired:
		a.placed = grant.Queued
		if !a.placed {
			a.req.Owner = l.owners.next(a.req.Name)
		}
		return nil, &HeldError{Name: a.req.Name, HeldFor: grant.HeldFor}
	case !answered.Before(deadline):
		l.abandon(ctx, a.req)
		return nil, fmt.Errorf("lock: acquire %.64q: the store answered when the lease of %v was over already: use a longer TTL", a.req.Name, a.req.TTL)
	}
	h := &hold{locker: l, req: a.req, line: a.line, granted: answered, inLine: a.inLine, baton: a.inLine && !l.shared, ttl: ttl, deadline: deadline, given: grant.TTL > 0, next: a.next}
	a.next = nil
	return h.begin(a.parent, grant.Token), nil //nolint:contextcheck // the lease outlives ctx
}

// takeBack abandons what the store may have given to req before it failed with err.
func (l *Locker) takeBack(ctx context.Context, req Request, err error) {
	if errors.Is(err, ErrRefused) {
		l.abandonOnce(ctx, req)
	} else {
		l.abandon(ctx, req)
	}
}

// reliable returns what is left of ttl when the most that clocks may drift apart
// is taken off.
func (l *Locker) reliable(ttl time.Duration) time.Duration {
	return ttl - time.Duration(l.drift*float64(ttl)) - driftFloor
}

// abandon releases in the background a lease that may have been acquired, or a
// place in the queue, so that others need not wait for its end. It tries until the
// store has heard of it, or for abandonFor, or until the lease is over. ctx gives
// its values only: it may be why the lease was not acquired. The channel that
// abandon returns is closed when it is done.
func (l *Locker) abandon(ctx context.Context, req Request) <-chan struct{} {
	return l.inBackground(ctx, req, func(ctx context.Context) {
		for wait := 10 * time.Millisecond; !l.releaseOnce(ctx, req); wait = min(2*wait, cleanUp) {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
		}
	})
}

// abandonOnce is abandon after the store has refused to give the lease out. It is
// unlikely to have it, as only a copy of the request can have been granted, and may
// well refuse this, too: many who try again and again would add to its trouble.
func (l *Locker) abandonOnce(ctx context.Context, req Request) {
	l.inBackground(ctx, req, func(ctx context.Context) { l.releaseOnce(ctx, req) })
}

func (l *Locker) inBackground(ctx context.Context, req Request, release func(ctx context.Context)) <-chan struct{} {
	done := make(chan struct{})
	if l.abandoned.count.Add(1) > maxAbandoned {
		l.abandoned.count.Add(-1)
		close(done) // the store hangs; what there is in it ends by itself
		return done
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(abandonFor, max(req.TTL, req.Place)))
	go func() {
		defer close(done)
		defer l.abandoned.count.Add(-1)
		defer cancel()
		release(ctx)
	}()
	return done
}

// releaseOnce reports whether the store has heard of a release.
func (l *Locker) releaseOnce(ctx context.Context, req Request) bool {
	select {
	case l.abandoned.slots <- struct{}{}:
	case <-ctx.Done():
		return true
	}
	defer func() { <-l.abandoned.slots }()
	ctx, cancel := context.WithTimeout(ctx, cleanUp)
	defer cancel()
	_, err := l.store.Release(ctx, req)
	return err == nil
}
