package ratelimit

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/herdless/herdless/internal/nils"
	"github.com/herdless/herdless/internal/reqcopy"
)

// ConcurrencyOptions are the optional settings of a Concurrency. Nil and the zero
// value are the defaults.
type ConcurrencyOptions struct {
	// Lease is after how long the permit of a process that was killed is free
	// again. Processes that live extend theirs three times as often. The default is
	// 10 s, and the least 100 ms.
	Lease time.Duration

	// While the store fails requests pass, without a permit, and a line is logged. With
	// FailClosed they are refused with 503 instead. With Local each process lets each key
	// have so many of them under way at a time, besides those that hold a permit of the
	// store from before; when the store is back, what is under way so does not count there.
	FailClosed bool
	Local      int

	// Shadow makes it count, and report what it would deny, but deny nothing.
	Shadow bool

	// Timeout, Denied, HideFields, Observe and Logger are as in [Options]. As it is not
	// known when a permit will be free, Retry-After is 1.
	Timeout    time.Duration
	Denied     http.Handler
	HideFields bool
	Observe    func(ctx context.Context, e Event)
	Logger     *slog.Logger
}

const (
	defaultLease = 10 * time.Second
	minLease     = 100 * time.Millisecond
)

var (
	// ErrNoPermit says that all permits are held.
	ErrNoPermit = errors.New("ratelimit: all permits are held")
	// ErrPermitLost is the cause of the end of a Permit's context if it could not be
	// kept.
	ErrPermitLost = errors.New("ratelimit: the permit could not be extended in time")
)

// Concurrency limits how many requests of a key are under way at a time, in all
// processes that share a store. Who holds a permit of it extends it for as long as he
// needs it; what a killed process held is free again after ConcurrencyOptions.Lease.
//
// There are never more holders than permits, as long as a holder stops when the
// context of its permit ends: that happens before the store gives the permit to
// somebody else. (A process that is paused for longer than that cannot notice until it goes
// on.) It is safe for concurrent use.
type Concurrency struct {
	store   PermitStore
	name    string
	limit   int
	key     KeyFunc
	options ConcurrencyOptions
	start   time.Time
	guard   *guard
	keyGate logGate
	local   localPermits
	ids     string        // begins the ids of this process's permits
	lastID  atomic.Uint64 // and this ends them
	counters
}

// NewConcurrency returns a Concurrency that lets each key have limit requests under way
// at a time, counted in store under name, which is as that of a Policy. It reports
// everything that is wrong with its arguments at once. o may be nil.
func NewConcurrency(store PermitStore, name string, limit int, key KeyFunc, o *ConcurrencyOptions) (*Concurrency, error) {
	if o == nil {
		o = &ConcurrencyOptions{}
	}
	c := &Concurrency{
		store: store, name: name, limit: limit, key: key, options: *o, start: time.Now(),
		keyGate: logGate{logger: o.Logger}, ids: rand.Text()[:16] + "-",
	}
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf("ratelimit: "+format, args...)) }
	if nils.Is(store) {
		fault("no store: give NewMemoryStore() for one process, or redislimit.New(client, nil) for several")
	}
	if !validName(name) {
		fault("concurrency limit %q: %s", name, nameRule)
	}
	if limit < 1 {
		fault("concurrency limit %q is %d, but must be positive", name, limit)
	}
	if key == nil {
		fault("concurrency limit %q has no key: say who is limited, or give Everybody", name)
	}
	if o.Lease != 0 && o.Lease < minLease {
		fault("ConcurrencyOptions.Lease is %v, but must be at least %v", o.Lease, minLease)
	}
	if o.Local < 0 {
		fault("ConcurrencyOptions.Local is %d, but must not be negative", o.Local)
	}
	if o.FailClosed && o.Local > 0 {
		fault("FailClosed and Local exclude each other")
	}
	if o.Denied != nil && nils.Is(o.Denied) {
		fault("ConcurrencyOptions.Denied is a nil %T; leave it out, or pass a handler", o.Denied)
	}
	if o.Timeout < 0 {
		fault("ConcurrencyOptions.Timeout is %v, but must not be negative", o.Timeout)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	if c.options.Lease == 0 {
		c.options.Lease = defaultLease
	}
	if c.options.Timeout == 0 {
		c.options.Timeout = defaultTimeout
	}
	if c.options.Denied == nil {
		c.options.Denied = http.HandlerFunc(answerDenied)
	}
	c.guard = newGuard(c.options.Timeout, o.Logger, &c.counters, o.Observe)
	return c, nil
}

// Stats returns what the Concurrency has counted since it was made.
func (c *Concurrency) Stats() Stats { return c.stats() }

// Handler returns a handler that calls next with a permit, and releases that
// afterwards. The request's context ends if the permit is lost, with the cause
// ErrPermitLost. If there is no permit it answers as Limiter.Handler does: 429, or 503 with
// FailClosed while the store fails, or 400 for a request without a key, or 503 if the key is
// not known.
func (c *Concurrency) Handler(next http.Handler) http.Handler {
	nils.MustWrap("ratelimit: Concurrency.Handler", next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, err := keyOf(c.key, r)
		if err != nil {
			c.noKey.Add(1)
			c.keyGate.log(r.Context(), "ratelimit: requests have no key and are refused", "policy", c.name, "error", err)
			answerNoKey(w, err)
			return
		}
		// Without the cancellation, as in Limiter.Handler.
		p, err := c.acquire(context.WithoutCancel(r.Context()), r.Context(), key)
		if p != nil {
			defer p.Release(context.WithoutCancel(r.Context()))
		}
		switch {
		case errors.Is(err, ErrNoPermit):
			c.setFields(w.Header(), 0)
			setRetryAfter(w.Header(), 0)
			c.options.Denied.ServeHTTP(w, withResult(r, Result{RetryAfter: time.Second, Limits: []Standing{{
				Policy: c.name, Name: c.name, Limit: Limit{Rate: c.limit}, Known: true, CheckState: CheckState{Over: true, RetryAfter: time.Second},
			}}}))
		case err != nil:
			answerUnavailable(w)
		default:
			c.setFields(w.Header(), p.left)
			copied := r.WithContext(p.ctx) //nolint:contextcheck // it is a child of the request's
			defer reqcopy.Return(r, copied)
			next.ServeHTTP(w, copied)
		}
	})
}

// setFields tells the client how many requests more it could make at once, if that is
// known.
func (c *Concurrency) setFields(h http.Header, left int) {
	if c.options.HideFields || c.options.Shadow {
		return
	}
	h[policyHeader] = append(h[policyHeader], `"`+c.name+`";q=`+strconv.Itoa(c.limit)+`;qu="concurrent-requests"`)
	if left >= 0 {
		h[standsHeader] = append(h[standsHeader], `"`+c.name+`";r=`+strconv.Itoa(left))
	}
}

// Acquire returns a permit of key, which is to be released, or ErrNoPermit if all are
// held. It does not wait for one.
//
// If the store fails, it returns a permit that holds nothing, having logged the error,
// or with FailClosed the error; with Local one that counts in the process, or an error that
// matches ErrNoPermit. A permit that holds nothing is also that of a Shadow where all are held. If
// ctx ends first, or key is empty (ErrNoKey), that is an error.
func (c *Concurrency) Acquire(ctx context.Context, key string) (*Permit, error) {
	if key == "" {
		return nil, errEmptyKey
	}
	return c.acquire(ctx, ctx, bounded(key))
}

// acquire acquires a permit under ctx. The permit's own context is a child of parent.
func (c *Concurrency) acquire(ctx, parent context.Context, key string) (*Permit, error) {
	began := time.Since(c.start)
	p := &Permit{c: c, left: -1, request: PermitRequest{
		Key: key, Name: c.name, Limit: c.limit, TTL: c.options.Lease,
		ID: c.ids + strconv.FormatUint(c.lastID.Add(1), 36),
	}}
	var state PermitState
	sent := time.Now()
	err := c.guard.do(ctx, c.options.Timeout, func(ctx context.Context) (err error) {
		state, err = c.store.Acquire(ctx, p.request)
		return err
	}, func() storeStep { return c.try(p.request) })
	event := Event{Kind: Admitted, Limit: c.name, Key: key, Took: time.Since(c.start) - began}
	switch {
	case errors.Is(err, errLeft):
		p.releaseLate(ctx)
		return nil, fmt.Errorf("ratelimit: %w", err)
	case err != nil:
		if !errors.Is(err, errOpen) {
			p.releaseLate(ctx) // it may have been acquired
		}
		err = fmt.Errorf("ratelimit: the store fails: %w", err)
		event.Err = err
		if c.options.FailClosed && !c.options.Shadow {
			c.failedClosed.Add(1)
			event.Kind = FailedClosed
			c.event(ctx, event)
			c.guard.gate.log(ctx, "ratelimit: the store fails: requests are refused", "policy", c.name, "error", err)
			return nil, err
		}
		event.Kind = FailedOpen
		if c.options.Local == 0 || c.options.Shadow {
			c.failedOpen.Add(1)
			c.guard.gate.log(ctx, "ratelimit: the store fails: requests pass UNLIMITED", "policy", c.name, "error", err)
			break
		}
		c.guard.gate.log(ctx, "ratelimit: the store fails: each process limits by itself", "policy", c.name, "error", err)
		event.Local = true
		if p.local = c.local.acquire(key, c.options.Local); !p.local {
			c.localDenied.Add(1)
			event.Kind = Denied
			c.event(ctx, event)
			return nil, fmt.Errorf("%w in this process: %w", ErrNoPermit, err)
		}
		c.localAdmitted.Add(1)
	case state.Acquired:
		c.admitted.Add(1)
		p.held, p.left = true, max(0, c.limit-state.Held)
	case c.options.Shadow:
		c.shadowDenied.Add(1)
		c.admitted.Add(1)
		c.event(ctx, Event{Kind: ShadowDenied, Limit: c.name, Key: key})
	default:
		c.denied.Add(1)
		event.Kind = Denied
		c.event(ctx, event)
		return nil, ErrNoPermit
	}
	p.ctx, p.cancel = context.WithCancelCause(parent)
	if p.held {
		p.keep(sent)
	}
	told := false
	defer func() {
		if !told { // Observe panics
			p.Release(ctx)
		}
	}()
	c.event(ctx, event)
	told = true
	return p, nil
}

// try returns a step that finds out whether the store works.
func (c *Concurrency) try(p PermitRequest) storeStep {
	p.ID = "nobody's" // so that it changes nothing
	return func(ctx context.Context) error {
		_, err := c.store.Extend(ctx, p)
		return err
	}
}

func (c *Concurrency) event(ctx context.Context, e Event) {
	if c.options.Observe != nil {
		c.options.Observe(context.WithoutCancel(ctx), e)
	}
}

// localPermits counts what is under way in this process while the store fails, by key.
type localPermits struct {
	mu   sync.Mutex
	held map[string]int
}

// acquire takes one of limit permits, and reports whether there was one left.
func (l *localPermits) acquire(key string, limit int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[key] >= limit {
		return false
	}
	if l.held == nil {
		l.held = make(map[string]int)
	}
	l.held[key]++
	return true
}

func (l *localPermits) release(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[key]--; l.held[key] == 0 {
		delete(l.held, key)
	}
}
