package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/herdless/herdless/internal/nils"
)

// Options are the optional settings of a Limiter. Nil and the zero value are
// the defaults.
type Options struct {
	// Timeout is how long one decision may wait for the store. After it the
	// store counts as failing; after three failures in a row nobody waits, until
	// the store, which is tried about twice a second, is back. The default is 50 ms.
	Timeout time.Duration

	// Denied answers the requests that are over a limit. It must set the status:
	// one that only writes a body answers 200. The header field Retry-After is
	// already set, and FromContext has the Result. The default answers 429 with a
	// problem document (RFC 9457).
	Denied http.Handler

	// HideFields leaves the fields RateLimit-Policy and RateLimit out of the
	// answers. Retry-After stays.
	HideFields bool

	// XRateLimit adds the older fields X-RateLimit-Limit, -Remaining and -Reset
	// (in seconds from now), of the limit of which the least is left.
	XRateLimit bool

	// LocalDenial is how long at most a key that was denied is denied without
	// asking the store again, if it cannot pass earlier. Other processes do not hear
	// of a Reset before. The default is a minute; a negative one asks each time.
	LocalDenial time.Duration

	// Observe is told what happens, in the goroutine in which it does, so by many at a
	// time; of the changes of the circuit breaker by one after the other. It must not block. If it
	// panics beside the requests, that is logged.
	Observe func(ctx context.Context, e Event)

	// Logger gets a line when the store fails and when requests have no key, at
	// most one every ten seconds for each. The default is slog.Default().
	Logger *slog.Logger
}

const (
	defaultTimeout     = 50 * time.Millisecond
	defaultLocalDenial = time.Minute
	// maxLocalKeys bounds what Policy.Local takes, some 16 MB, with keys that an attacker
	// makes up.
	maxLocalKeys = 1 << 16
)

// Limiter applies one or more policies to each request. It is safe for concurrent
// use.
type Limiter struct {
	*core
	tier *string // or nil: none was chosen
}

// core is what a Limiter and those that Tier returns share.
type core struct {
	store    Store
	policies []*policy
	limits   int // how many limits there are at most
	options  Options
	guard    *guard
	denials  *denials
	leases   *leases // or nil
	local    *MemoryStore
	keyGate  logGate
	counters counters
}

// New returns a Limiter that lets each key have limit, counted in store. It is
// NewPolicies with one policy, which is called after the limit, such as "100/1m0s".
// o may be nil.
//
// So two Limiters with the same limit and key share one count if they share a store,
// such as one of logins and one of searches. If they should not, make them with
// NewPolicies, each with a Name of its own.
func New(store Store, limit Limit, key KeyFunc, o *Options) (*Limiter, error) {
	return NewPolicies(store, []Policy{{Name: limit.String(), Limits: []Limit{limit}, Key: key}}, o)
}

// NewPolicies returns a Limiter under whose policies a request must have room,
// counted in store: it takes its units under all of them or under none. They are
// asked in one step; see the store for keys that it cannot reach in one. It reports
// everything that is wrong with its arguments at once. o may be nil.
func NewPolicies(store Store, policies []Policy, o *Options) (*Limiter, error) {
	if o == nil {
		o = &Options{}
	}
	c := &core{store: store, options: *o, local: NewMemoryStore(), keyGate: logGate{logger: o.Logger}}
	c.local.most = maxLocalKeys
	var faults []error
	if nils.Is(store) {
		faults = append(faults, errors.New("ratelimit: no store: give NewMemoryStore() for one process, "+
			"or redislimit.New(client, nil) for several"))
	}
	if len(policies) == 0 {
		faults = append(faults, errors.New("ratelimit: no policy"))
	}
	batch := 0
	owners := make(map[string]string) // the policies of the limits in the store
	for i, p := range policies {
		compiled, err := compile(p)
		if err != nil {
			faults = append(faults, err)
		}
		if slices.ContainsFunc(policies[:i], func(other Policy) bool { return other.Name == p.Name }) {
			faults = append(faults, fmt.Errorf("ratelimit: two policies have the name %q", p.Name))
		}
		for _, name := range compiled.stored() {
			if other, taken := owners[name]; taken && other != p.Name {
				faults = append(faults, fmt.Errorf("ratelimit: two policies, %q and %q, have a limit of the name %q", other, p.Name, name))
			}
			owners[name] = p.Name
		}
		if p.Batch > 0 && len(policies) > 1 {
			faults = append(faults, fmt.Errorf("ratelimit: policy %q: a Batch needs a Limiter of its own", p.Name))
		}
		c.policies = append(c.policies, compiled)
		most := len(compiled.base.limits)
		for _, pl := range compiled.tiers {
			most = max(most, len(pl.limits))
		}
		c.limits += most
		if p.Batch > 0 && !p.Shadow {
			batch = p.Batch
		}
	}
	if o.Denied != nil && nils.Is(o.Denied) {
		faults = append(faults, fmt.Errorf("ratelimit: Options.Denied is a nil %T; leave it out, or pass a handler", o.Denied))
	}
	if o.Timeout < 0 {
		faults = append(faults, fmt.Errorf("ratelimit: Options.Timeout is %v, but must not be negative", o.Timeout))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	if c.options.Timeout == 0 {
		c.options.Timeout = defaultTimeout
	}
	if c.options.Denied == nil {
		c.options.Denied = http.HandlerFunc(answerDenied)
	}
	if c.options.LocalDenial == 0 {
		c.options.LocalDenial = defaultLocalDenial
	}
	if batch > 0 {
		c.leases = newLeases(batch, c.options.Timeout)
	}
	c.denials = newDenials(c.options.LocalDenial, c.options.Timeout)
	c.guard = newGuard(c.options.Timeout, o.Logger, &c.counters, c.options.Observe)
	return &Limiter{core: c}, nil
}

// Tier returns the same Limiter with the limits of that tier, also for requests. A
// policy that does not have it uses its own Limits.
func (l *Limiter) Tier(name string) *Limiter { return &Limiter{core: l.core, tier: &name} }

// Allow takes a unit of what each key may use, one key for each policy in the order
// of NewPolicies, or says that there is no room for it.
//
// If the store fails, Allow returns both the error and a Result that the policies
// ask for: allowed unless one is FailClosed or has no room in Local. It has logged
// the error, so a caller that only looks at Allowed does the right thing. If ctx
// ends first, or if the arguments are wrong (another number of keys, or an empty one, which
// is ErrNoKey), it returns the error and does not allow.
func (l *Limiter) Allow(ctx context.Context, keys ...string) (Result, error) {
	return l.AllowN(ctx, 1, keys...)
}

// AllowN is Allow for n units, which must not be negative.
func (l *Limiter) AllowN(ctx context.Context, n int, keys ...string) (Result, error) {
	return l.take(ctx, n, 0, keys)
}

// AtMost takes as many units as there is room for, up to n, which must be positive.
// Result.Taken says how many; with none it is not Allowed. The fraction of a unit
// that is there besides stays and counts later. It is for who can do a part of his
// work: how many messages may be sent now. If the store fails it is all n, unless
// a policy says otherwise.
func (l *Limiter) AtMost(ctx context.Context, n int, keys ...string) (Result, error) {
	if n < 1 || n > MaxExtra {
		return Result{}, fmt.Errorf("ratelimit: cannot take at most %d units: it must be from 1 to 2^30", n)
	}
	return l.take(ctx, 1, n-1, keys)
}

// Peek takes nothing and shows how things stand in the store: always Allowed. It
// counts nowhere, and if the store fails there is only the error.
func (l *Limiter) Peek(ctx context.Context, keys ...string) (Result, error) {
	asks, err := l.asks(0, keys)
	if err != nil {
		return Result{}, err
	}
	return l.peek(ctx, asks)
}

func (l *Limiter) take(ctx context.Context, n, extra int, keys []string) (Result, error) {
	if n < 0 {
		return Result{}, fmt.Errorf("ratelimit: cannot take %d units", n)
	}
	asks, err := l.asks(n, keys)
	if err != nil {
		return Result{}, err
	}
	return l.decide(ctx, asks, extra)
}

func (l *Limiter) asks(n int, keys []string) ([]ask, error) {
	if len(keys) != len(l.policies) {
		return nil, fmt.Errorf("ratelimit: %d keys for %d policies", len(keys), len(l.policies))
	}
	asks := make([]ask, len(keys))
	for i, key := range keys {
		if key == "" {
			return nil, errEmptyKey
		}
		p := l.policies[i]
		asks[i] = ask{plan: p.base, key: bounded(key), n: n}
		if l.tier != nil {
			asks[i].plan = p.planOf(*l.tier)
		}
	}
	return asks, nil
}

// Reset forgets what was taken of the keys, one for each policy in the order of
// NewPolicies; an empty one is left as it is. Other processes may go on denying
// them for a while, see Options.LocalDenial, and for up to 100 ms using the units of a
// Policy.Batch that they had taken before: with each of them up to so many more than the
// limit are admitted. It is not held up by the circuit breaker.
func (l *Limiter) Reset(ctx context.Context, keys ...string) error {
	if len(keys) != len(l.policies) {
		return fmt.Errorf("ratelimit: %d keys for %d policies", len(keys), len(l.policies))
	}
	var faults []error
	for i, key := range keys {
		if key == "" {
			continue
		}
		key = bounded(key)
		if err := l.store.Reset(ctx, key, l.policies[i].stored()...); err != nil {
			faults = append(faults, fmt.Errorf("ratelimit: %w", err))
		}
		for _, pl := range l.policies[i].plans() {
			l.denials.forget(pl, key)
			if l.leases != nil {
				l.leases.forget(leaseKey{pl, key})
			}
		}
	}
	return errors.Join(faults...)
}

// Stats returns what the Limiter has counted since it was made.
func (l *Limiter) Stats() Stats { return l.counters.stats() }
