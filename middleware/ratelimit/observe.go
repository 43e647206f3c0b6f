package ratelimit

import (
	"context"
	"sync/atomic"
	"time"
)

// EventKind says what an [Event] is about.
type EventKind uint8

// The kinds of events.
const (
	// Admitted: a request may go on, after Took. Local says that the store was not
	// asked.
	Admitted EventKind = iota + 1
	// Denied: a request may not go on: the limit called Limit has no room.
	Denied
	// ShadowDenied: the limit called Limit would have denied a request if its
	// policy were no Shadow. Admitted or Denied follows.
	ShadowDenied
	// StoreFailed: a step of the store has failed with Err.
	StoreFailed
	// FailedOpen: a request may go on without having been counted, because the store
	// fails with Err.
	FailedOpen
	// FailedClosed: a request is refused because the store fails with Err.
	FailedClosed
	// BreakerChanged: the circuit breaker has opened, or closed again.
	BreakerChanged
	// PermitLost: a permit of a concurrency limit could not be kept, and the context of
	// its holder has ended.
	PermitLost
)

// String returns the name of the kind in lower case.
func (k EventKind) String() string {
	names := [...]string{
		Admitted: "admitted", Denied: "denied", ShadowDenied: "shadow denied", StoreFailed: "store failed", FailedOpen: "failed open",
		FailedClosed: "failed closed", BreakerChanged: "breaker changed", PermitLost: "permit lost",
	}
	if int(k) >= len(names) || names[k] == "" {
		return "unknown"
	}
	return names[k]
}

// An Event says what happened. See Options.Observe.
type Event struct {
	Kind EventKind
	// Limit is the name of the limit that had no room, and Key whose.
	Limit, Key string
	// Local says that the store was not asked.
	Local bool
	// Took is how long the decision took.
	Took time.Duration
	// Err is what went wrong, or nil.
	Err error
	// Open is the new state of the circuit breaker.
	Open bool
}

// Stats are counts since a Limiter or a Concurrency was made.
type Stats struct {
	// Admitted and Denied count decisions. AdmittedLocally and DeniedLocally are those of
	// them for which the store was not asked.
	Admitted, AdmittedLocally, Denied, DeniedLocally uint64
	// ShadowDenied counts what limits of Shadow policies would have denied.
	ShadowDenied uint64
	// FailedOpen counts requests that passed uncounted because the store failed,
	// FailedClosed those that were refused therefore. LocalAdmitted and LocalDenied
	// count what Policy.Local or ConcurrencyOptions.Local has decided meanwhile.
	FailedOpen, FailedClosed, LocalAdmitted, LocalDenied uint64
	// Asked counts steps of the store, StoreErrors those that failed.
	Asked, StoreErrors uint64
	// NoKey counts requests that had no key, or whose KeyFunc failed, and were refused.
	NoKey uint64
	// PermitsLost counts permits that could not be kept.
	PermitsLost uint64
	// BreakerOpen says whether the circuit breaker is open.
	BreakerOpen bool
}

type counters struct {
	admitted, admittedLocally, denied, deniedLocally, shadowDenied     atomic.Uint64
	failedOpen, failedClosed, localAdmitted, localDenied, asked, noKey atomic.Uint64
	storeErrors, permitsLost                                           atomic.Uint64
	open                                                               atomic.Bool
}

func (c *counters) stats() Stats {
	return Stats{
		Admitted: c.admitted.Load(), AdmittedLocally: c.admittedLocally.Load(),
		Denied: c.denied.Load(), DeniedLocally: c.deniedLocally.Load(), ShadowDenied: c.shadowDenied.Load(),
		FailedOpen: c.failedOpen.Load(), FailedClosed: c.failedClosed.Load(),
		LocalAdmitted: c.localAdmitted.Load(), LocalDenied: c.localDenied.Load(),
		Asked: c.asked.Load(), StoreErrors: c.storeErrors.Load(), NoKey: c.noKey.Load(),
		PermitsLost: c.permitsLost.Load(), BreakerOpen: c.open.Load(),
	}
}

// tell tells of a decision that was made, and counts it.
func (c *core) tell(ctx context.Context, asks []ask, r *Result, began time.Duration) {
	i := 0
	for _, a := range asks {
		for range a.plan.limits {
			if l := &r.Limits[i]; l.Over && l.Shadow {
				c.counters.shadowDenied.Add(1)
				c.event(ctx, Event{Kind: ShadowDenied, Limit: l.Name, Key: a.key, Local: r.Local})
			}
			i++
		}
	}
	all, local := &c.counters.admitted, &c.counters.admittedLocally
	if !r.Allowed {
		all, local = &c.counters.denied, &c.counters.deniedLocally
	}
	all.Add(1)
	if r.Local {
		local.Add(1)
	}
	if c.options.Observe == nil {
		return
	}
	e := Event{Kind: Admitted, Key: asks[0].key, Local: r.Local, Took: c.denials.now() - began}
	if !r.Allowed {
		e.Kind = Denied
		i = 0
		for _, a := range asks {
			for range a.plan.limits {
				if l := &r.Limits[i]; l.Over && !l.Shadow && e.Limit == "" {
					e.Limit, e.Key = l.Name, a.key
				}
				i++
			}
		}
	}
	c.event(ctx, e)
}

// event tells of e. The context of e carries the values of ctx.
func (c *core) event(ctx context.Context, e Event) {
	if c.options.Observe != nil {
		c.options.Observe(context.WithoutCancel(ctx), e)
	}
}
