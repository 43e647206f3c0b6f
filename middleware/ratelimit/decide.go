package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ask is what is asked of one policy.
type ask struct {
	plan *plan
	key  string
	n    int
}

// standings returns a Standing for each limit, of which nothing is known yet.
func (c *core) standings(asks []ask) []Standing {
	list := make([]Standing, 0, c.limits)
	for _, a := range asks {
		for _, l := range a.plan.limits {
			list = append(list, Standing{Policy: a.plan.policy.Name, Name: l.name, Limit: l.Limit, Shadow: l.shadow})
		}
	}
	return list
}

// check returns what the store is asked about a limit.
func (a ask) check(l *namedLimit) Check {
	return Check{Key: a.key, Name: l.stored, Limit: l.Limit, N: a.n, Shadow: l.shadow}
}

// peek asks the store how the limits stand.
func (c *core) peek(ctx context.Context, asks []ask) (Result, error) {
	r := Result{Allowed: true, Limits: c.standings(asks)}
	var req Request
	for _, a := range asks {
		for _, l := range a.plan.limits {
			req.Checks = append(req.Checks, a.check(l))
		}
	}
	var d Decision
	take := func(ctx context.Context) (err error) {
		d, err = c.store.Take(ctx, req)
		return err
	}
	if err := c.guard.do(ctx, c.options.Timeout, take, func() storeStep { return c.try(req) }); err != nil {
		return Result{}, fmt.Errorf("ratelimit: %w", err)
	}
	for i := range r.Limits {
		r.Limits[i].Known, r.Limits[i].CheckState = true, d.States[i]
	}
	return r, nil
}

// try returns a step that finds out whether the store works, and takes nothing.
func (c *core) try(req Request) storeStep {
	first := req.Checks[0]
	first.N = 0
	return func(ctx context.Context) error {
		_, err := c.store.Take(ctx, Request{Checks: []Check{first}})
		return err
	}
}

// decide makes a decision: from what the process knows, if that is enough, or else
// by one step in the store.
func (c *core) decide(ctx context.Context, asks []ask, extra int) (Result, error) {
	began, budget := c.denials.now(), c.options.Timeout
	r := Result{Limits: c.standings(asks)}
	l := c.leaseOf(asks, extra)
	var spent *asking // if this caller asks for all
	now := began
	for ; ; now = c.denials.now() {
		late := budget < c.options.Timeout/2
		if l != nil && l.take(now, asks[0].n, &r) || c.deniedHere(asks, &r, now, began, late) {
			c.tell(ctx, asks, &r, began)
			return r, nil
		}
		var wait <-chan struct{}
		switch {
		case late: // what others hear is of no use to it: it asks for itself, while there is time
			l = nil
		case l != nil:
			wait = l.lead(now, asks[0].n)
		default:
			spent, wait = c.denials.lead(asks)
		}
		if wait == nil {
			break
		}
		if err := c.wait(ctx, wait, &budget); err != nil {
			return c.failed(ctx, asks, extra, err, began)
		}
	}
	if l != nil {
		defer l.led()
	} else if spent != nil {
		defer c.denials.led(spent)
	}
	return c.askStore(ctx, asks, extra, l, r, began, now, budget)
}

// leaseOf returns the lease from which units may be used, or nil if there is none.
func (c *core) leaseOf(asks []ask, extra int) *lease {
	if c.leases == nil || extra > 0 || asks[0].n == 0 || asks[0].n > c.leases.batch {
		return nil
	}
	return c.leases.of(leaseKey{asks[0].plan, asks[0].key})
}

// wait waits for the end of what another caller asks. It is an error if that does
// not come within the budget, which it shortens.
func (c *core) wait(ctx context.Context, ended <-chan struct{}, budget *time.Duration) error {
	began := c.denials.now()
	timer := time.NewTimer(*budget)
	defer timer.Stop()
	select {
	case <-ended:
		*budget -= c.denials.now() - began
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errLeft, ctx.Err())
	case <-timer.C:
	}
	select {
	case <-ended: // both at once, on a busy machine
		*budget = 0
		return nil
	default:
		return errBudget
	}
}

// deniedHere reports whether the process knows that the request is denied, for a caller that
// began then, and may be late. A limit in Shadow that has no room is marked, and not asked again.
func (c *core) deniedHere(asks []ask, r *Result, now, began time.Duration, late bool) bool {
	if c.options.LocalDenial < 0 {
		return false
	}
	denied, wait, i := false, time.Duration(0), 0
	for _, a := range asks {
		for _, l := range a.plan.limits {
			s := &r.Limits[i]
			i++
			if !l.shadow && a.n > l.burst() {
				wait = never // whatever is known of the other limits
			}
			if a.n == 0 || s.Over && s.Shadow {
				continue
			}
			if state, ok := c.denials.look(denialKey{l, a.key}, a.n, now, began, late); ok {
				s.Known, s.CheckState = true, state
				if !l.shadow {
					denied = true
					wait = longer(wait, state.RetryAfter)
				}
			}
		}
	}
	r.Local = denied
	if denied {
		r.RetryAfter = wait
	}
	if denied && wait < 0 {
		markNever(asks, r)
	}
	return denied
}

// markNever marks the limits that never have room for what is asked for. Nothing else may be
// known of them.
func markNever(asks []ask, r *Result) {
	i := 0
	for _, a := range asks {
		for _, l := range a.plan.limits {
			if s := &r.Limits[i]; !l.shadow && a.n > l.burst() {
				s.Over, s.RetryAfter = true, never
			}
			i++
		}
	}
}

// never is the RetryAfter of what has no room however long one waits.
const never = time.Duration(-1)

// longer returns the longer of two RetryAfters.
func longer(a, b time.Duration) time.Duration {
	if a < 0 || b < 0 {
		return never
	}
	return max(a, b)
}

// askStore asks the store for what the process does not know, and to refill l if that is
// not nil. The caller began then, and asks now.
func (c *core) askStore(ctx context.Context, asks []ask, extra int, l *lease, r Result, began, now, budget time.Duration) (Result, error) {
	req := Request{Checks: make([]Check, 0, len(r.Limits)), Extra: extra}
	leaseRound := 0
	if l != nil {
		var size int
		size, leaseRound = l.size(now)
		req.Extra = max(0, size-asks[0].n)
	}
	i := 0
	for _, a := range asks {
		for _, limit := range a.plan.limits {
			if !r.Limits[i].Over { // else it is in Shadow, and denied here
				req.Checks = append(req.Checks, a.check(limit))
			}
			i++
		}
	}
	if len(req.Checks) == 0 {
		r.Allowed, r.Local, r.Taken = true, true, asks[0].n+extra
		c.tell(ctx, asks, &r, began)
		return r, nil
	}

	var d Decision
	round := c.denials.round()
	err := c.guard.do(ctx, budget, func(ctx context.Context) (err error) {
		d, err = c.store.Take(ctx, req)
		return err
	}, func() storeStep { return c.try(req) })
	if err != nil {
		return c.failed(ctx, asks, extra, err, began)
	}
	seen := c.denials.now()

	r.Allowed = d.Allowed
	i, at := 0, 0
	for _, a := range asks {
		for _, limit := range a.plan.limits {
			s := &r.Limits[i]
			i++
			if s.Over {
				continue
			}
			s.Known, s.CheckState = true, d.States[at]
			at++
			if s.Over && !s.Shadow {
				r.RetryAfter = longer(r.RetryAfter, s.RetryAfter)
			}
			if a.n > 0 {
				c.denials.learn(denialKey{limit, a.key}, a.n, s.CheckState, now, seen, round)
			}
		}
	}
	if r.Allowed {
		r.Taken = asks[0].n + d.Extra
		if l != nil {
			r.Taken = asks[0].n
			l.fill(now, leaseRound, d, &r)
		}
	}
	c.tell(ctx, asks, &r, began)
	return r, nil
}

// failed decides without the store, as the policies want it.
func (c *core) failed(ctx context.Context, asks []ask, extra int, err error, began time.Duration) (Result, error) {
	if errors.Is(err, errLeft) {
		return Result{}, fmt.Errorf("ratelimit: %w", err)
	}
	err = fmt.Errorf("ratelimit: the store fails: %w", err)
	names, refuse := make([]string, len(asks)), false
	req := Request{Extra: extra}
	for i, a := range asks {
		p := a.plan.policy
		names[i] = p.Name
		refuse = refuse || p.FailClosed && !p.Shadow
		if p.Local != nil {
			req.Checks = append(req.Checks, Check{Key: a.key, Name: p.Name, Limit: *p.Local, N: a.n, Shadow: p.Shadow})
		}
	}
	r := Result{Allowed: true, Taken: asks[0].n + extra, Local: true}
	kind, outcome := FailedOpen, "requests pass UNLIMITED"
	switch {
	case refuse:
		r = Result{Local: true}
		kind, outcome = FailedClosed, "requests are refused"
		c.counters.failedClosed.Add(1)
	case len(req.Checks) > 0:
		outcome = "each process limits by itself"
		d, localErr := c.local.Take(context.WithoutCancel(ctx), req)
		if localErr != nil { // cannot be: the limits are valid, and so are the keys
			return Result{}, errors.Join(err, localErr)
		}
		r.Allowed, r.Taken = d.Allowed, asks[0].n+d.Extra
		for i, s := range d.States {
			check := req.Checks[i]
			r.Limits = append(r.Limits, Standing{
				Policy: check.Name, Name: check.Name, Limit: check.Limit, Shadow: check.Shadow, Known: true, CheckState: s,
			})
			if s.Over && !check.Shadow {
				r.RetryAfter = longer(r.RetryAfter, s.RetryAfter)
			}
		}
		if r.Allowed {
			c.counters.localAdmitted.Add(1)
		} else {
			r.Taken, kind = 0, Denied
			c.counters.localDenied.Add(1)
		}
	default:
		c.counters.failedOpen.Add(1)
	}
	c.guard.gate.log(ctx, "ratelimit: the store fails: "+outcome, "policies", names, "error", err)
	c.event(ctx, Event{Kind: kind, Key: asks[0].key, Local: true, Took: c.denials.now() - began, Err: err})
	return r, err
}
