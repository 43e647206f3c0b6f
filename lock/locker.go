package lock

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"
)

const (
	// minTTL is the shortest TTL of a lease. Below it, what is taken off for
	// drift and a busy scheduler would leave nothing of the lease.
	minTTL = 10 * time.Millisecond
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
	// maxAbandoned bounds the releases in the background. With the store hung
	// there would be one for every failed try.
	maxAbandoned = 64
)

// Options are the optional settings of a [Locker]. Nil and the zero value mean
// the defaults.
type Options struct {
	// DriftFactor is the part of every TTL that is not relied upon, because
	// the store's clock may be faster than this process's: a lease ends here
	// before it ends in the store. At least 0 and below 0.5; 0 means the
	// default of 0.01. Another 2 ms are always taken off.
	DriftFactor float64
}

// Locker gives out leases. It holds no lease itself and starts no goroutine of
// its own: it needs no closing. A Locker is safe for concurrent use.
type Locker struct {
	store     Store
	drift     float64
	abandoned chan struct{} // one value for each release in the background
}

// New returns a Locker on store. All processes that are to exclude one another
// need a store on the same data.
func New(store Store, o *Options) (*Locker, error) {
	if o == nil {
		o = new(Options)
	}
	var errs []error
	if store == nil {
		errs = append(errs, errors.New("lock: New needs a store, such as lock.NewMemoryStore or redislock.New"))
	}
	if !(o.DriftFactor >= 0 && o.DriftFactor < 0.5) { // NaN as well
		errs = append(errs, fmt.Errorf("lock: Options.DriftFactor is %v, want 0 for the default or a value below 0.5", o.DriftFactor))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	l := &Locker{store: store, drift: o.DriftFactor, abandoned: make(chan struct{}, maxAbandoned)}
	if l.drift == 0 {
		l.drift = defaultDrift
	}
	return l, nil
}

// TryAcquire takes the lease called name if nobody holds it, and answers at
// once either way. name has 1 to 512 bytes, whatever they are; ttl is 10 ms or
// more. The lease is renewed until it is released, so ttl is not how long the
// work may take, but how long others wait after this process died.
//
// ctx bounds the call only. The lease's context carries ctx's values, but does
// not end with it.
//
// If somebody else holds the lease the error is a [*HeldError], which matches
// [ErrNotAcquired]. Every other error is a fault of the arguments, of ctx or of
// the store.
func (l *Locker) TryAcquire(ctx context.Context, name string, ttl time.Duration) (*Lease, error) {
	if err := check(name, ttl); err != nil {
		return nil, err
	}
	return l.try(ctx, context.WithoutCancel(ctx), Request{Name: name, Owner: rand.Text(), TTL: ttl})
}

// Acquire is like [Locker.TryAcquire], but waits while somebody else holds the
// lease until ctx ends. The error matches [ErrNotAcquired] and ctx's error then.
// A fault of the store ends the waiting too, with an error that says so.
//
// Waiters are not served in the order in which they came.
func (l *Locker) Acquire(ctx context.Context, name string, ttl time.Duration) (*Lease, error) {
	if err := check(name, ttl); err != nil {
		return nil, err
	}
	return l.await(ctx, context.WithoutCancel(ctx), Request{Name: name, Owner: rand.Text(), TTL: ttl})
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
// If it fails, the lease ends by itself within ttl; that is no error of Do's.
func (l *Locker) Do(ctx context.Context, name string, ttl time.Duration, fn func(ctx context.Context, token uint64) error) error {
	if err := check(name, ttl); err != nil {
		return err
	}
	lease, err := l.await(ctx, ctx, Request{Name: name, Owner: rand.Text(), TTL: ttl})
	if err != nil {
		return err
	}
	return lease.run(ctx, fn)
}

// TryDo is like [Locker.Do], but acquires the lease like [Locker.TryAcquire].
func (l *Locker) TryDo(ctx context.Context, name string, ttl time.Duration, fn func(ctx context.Context, token uint64) error) error {
	if err := check(name, ttl); err != nil {
		return err
	}
	lease, err := l.try(ctx, ctx, Request{Name: name, Owner: rand.Text(), TTL: ttl})
	if err != nil {
		return err
	}
	return lease.run(ctx, fn)
}

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
	return errors.Join(errs...)
}

// try asks the store once. The context of the lease is a child of parent.
func (l *Locker) try(ctx, parent context.Context, req Request) (*Lease, error) {
	if err := ended(ctx); err != nil {
		return nil, fmt.Errorf("lock: acquire %.64q: %w", req.Name, err)
	}
	// The lease lasts from some instant between the request and its answer.
	// Only the earlier end of that span is safe to count from. time.Now is on
	// the monotonic clock, so setting the wall clock changes nothing.
	asked := time.Now()
	deadline := asked.Add(l.reliable(req.TTL))
	reqCtx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	grant, err := l.store.TryAcquire(reqCtx, req)
	switch {
	case err != nil:
		// The store may have given the lease out, or may do so when it gets to
		// the request.
		l.abandon(ctx, req)
		if e := ended(ctx); e != nil && !errors.Is(err, e) {
			err = errors.Join(e, err)
		}
		return nil, fmt.Errorf("lock: acquire %.64q: %w", req.Name, err)
	case !grant.Acquired:
		return nil, &HeldError{Name: req.Name, HeldFor: grant.HeldFor}
	case !time.Now().Before(deadline):
		l.abandon(ctx, req)
		return nil, fmt.Errorf("lock: acquire %.64q: the store answered when the lease of %v was over already: use a longer TTL", req.Name, req.TTL)
	}
	return newLease(parent, l, req, grant.Token, deadline), nil
}

// reliable returns what is left of ttl when the most that clocks may drift apart
// is taken off.
func (l *Locker) reliable(ttl time.Duration) time.Duration {
	return ttl - time.Duration(l.drift*float64(ttl)) - driftFloor
}

// abandon releases in the background a lease that may have been acquired, so
// that others need not wait for its end. ctx gives its values only: it may be
// why the lease was not acquired.
func (l *Locker) abandon(ctx context.Context, req Request) {
	select {
	case l.abandoned <- struct{}{}:
	default:
		return // many wait for a hung store already; the lease ends by itself
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(cleanUp, req.TTL))
	go func() {
		defer func() { <-l.abandoned }()
		defer cancel()
		_, _ = l.store.Release(ctx, req.Name, req.Owner) // the lease ends by itself if that fails
	}()
}
