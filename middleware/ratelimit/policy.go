package ratelimit

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"
)

// Policy says who may use how much, and what happens otherwise. Name, Limits and
// Key are required.
type Policy struct {
	// Name tells policies apart, in the store and to clients, who read it in the
	// answers: letters, digits and any of "-_./". Limiters that share a store
	// count together what has one name and one key, also in different processes:
	// they should have the same limits.
	Name string

	// Limits are what a key may use. All of them hold, such as so many a second
	// and so many a day; their periods must differ.
	Limits []Limit

	// Key says who is limited.
	Key KeyFunc

	// Tier says which of Tiers a request belongs to. The limits of another tier
	// replace Limits; a name that Tiers does not have, such as "", leaves them.
	// What a key has taken counts in its new tier as well, under limits whose whole burst
	// takes the same time to come back (100 and 1,000 an hour are both full again in an
	// hour). Other limits, sliding windows and those with a Batch among them, count in
	// each tier by themselves. Nil means that there is one tier only.
	Tier  func(*http.Request) string
	Tiers map[string][]Limit

	// Cost says how many units a request takes. Less than none is none. Nil means
	// one each.
	Cost func(*http.Request) int

	// Shadow makes the policy count, and report what it would deny, but deny
	// nothing.
	Shadow bool

	// While the store fails requests pass, unlimited, and a line is logged. With
	// FailClosed they are refused with 503 instead. With Local they are limited
	// in each process by itself, by that limit. A process counts 65,536 keys at a time
	// then, in some 16 MB; if there are more, it forgets those that are full again first.
	FailClosed bool
	Local      *Limit

	// Batch is for keys that are asked for thousands of times a second: a
	// process takes up to so many units of such a key at a time and decides by
	// itself until they are used up, within 100 ms. Nothing is ever admitted over a
	// limit for that; to this end its burst (of a window, its rate) is lowered by what
	// comes back within 100 ms, and units that a process does not use in time are lost.
	// A request for which no batch has had a unit in half of Options.Timeout asks by itself.
	// Zero asks the store each time. A Batch needs a Limiter with one policy.
	Batch int
}

// leaseTime is how long a process may use the units of a Batch.
const leaseTime = 100 * time.Millisecond

// policy is a Policy that has been found valid.
type policy struct {
	Policy
	base  *plan
	tiers map[string]*plan
}

// plan is the limits of a tier of a policy.
type plan struct {
	policy *policy
	limits []*namedLimit
	field  string // what RateLimit-Policy says of them
}

// namedLimit is a limit of a plan.
type namedLimit struct {
	Limit
	name   string // to clients
	stored string // in the store
	quoted string // as a structured field has it
	shadow bool
}

// compile returns p ready for use, or everything that is wrong with it.
func compile(p Policy) (*policy, error) {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("ratelimit: policy %q: "+format, append([]any{p.Name}, args...)...))
	}
	if !validName(p.Name) {
		fault(nameRule)
	}
	if len(p.Limits) == 0 {
		fault("no limit")
	}
	if p.Key == nil {
		fault("no key: say who is limited, for example with clientip.Key for the peer's address")
	}
	if (p.Tier == nil) != (len(p.Tiers) == 0) {
		fault("Tier and Tiers need each other")
	}
	if p.FailClosed && p.Local != nil {
		fault("FailClosed and Local exclude each other")
	}
	if p.Local != nil {
		if err := p.Local.validate(); err != nil {
			fault("Local: %w", err)
		}
		local := *p.Local
		p.Local = &local
	}
	if p.Batch < 0 || p.Batch > MaxExtra {
		fault("Batch is %d, but must be from 0 to 2^30", p.Batch)
	}
	out := &policy{Policy: p, tiers: make(map[string]*plan)}
	several := len(p.Limits) > 1
	for _, limits := range p.Tiers {
		several = several || len(limits) > 1
	}
	plan := func(what string, limits []Limit) *plan {
		pl, err := out.plan(limits, several)
		if err != nil {
			fault("%s: %w", what, err)
		}
		return pl
	}
	out.base = plan("limits", p.Limits)
	for tier, limits := range p.Tiers {
		if len(limits) == 0 {
			fault("tier %q has no limit", tier)
		}
		out.tiers[tier] = plan(fmt.Sprintf("tier %q", tier), limits)
		out.tiers[tier].setApart(out.base)
	}
	return out, errors.Join(faults...)
}

func (p *policy) plan(limits []Limit, several bool) (*plan, error) {
	var faults []error
	pl := &plan{policy: p}
	for i, l := range limits {
		if err := l.validate(); err != nil {
			faults = append(faults, err)
			continue
		}
		if slices.ContainsFunc(limits[:i], func(other Limit) bool { return other.Period == l.Period }) {
			faults = append(faults, fmt.Errorf("two limits have the period %v", l.Period))
		}
		if p.Batch > 0 {
			var err error
			if l, err = l.forLeases(p.Batch); err != nil {
				faults = append(faults, err)
				continue
			}
		}
		name := p.Name
		if several {
			name += "/" + length(l.Period)
		}
		pl.limits = append(pl.limits, &namedLimit{Limit: l, name: name, stored: name, quoted: `"` + name + `"`, shadow: p.Shadow})
	}
	pl.field = policyField(pl.limits)
	return pl, errors.Join(faults...)
}

// setApart names those limits of a tier differently in the store that cannot be counted
// together with those of base. A store keeps how long it takes until all is back, and no
// more of it than a limit can have: what one tier takes, a shorter limit of another would
// cut off, and a client that can change between the two would not pay for it.
func (pl *plan) setApart(base *plan) {
	for _, l := range pl.limits {
		together := func(b *namedLimit) bool {
			alike := pl.policy.Batch == 0 && !l.Sliding && !b.Sliding && l.window() == b.window()
			return b.name == l.name && (alike || b.Limit == l.Limit)
		}
		if slices.ContainsFunc(base.limits, together) {
			continue
		}
		what := length(l.window())
		if l.Sliding || pl.policy.Batch > 0 {
			what = l.String()
		}
		l.stored += "/" + what
	}
}

// forLeases returns the limit under which units may be used up to leaseTime after
// they were taken, and no more than l allows is admitted all the same.
func (l Limit) forLeases(batch int) (Limit, error) {
	back := int(float64(l.Rate)/float64(l.Period)*float64(leaseTime)) + 1
	out := l
	if l.Sliding {
		out.Rate -= back
	} else {
		out.Burst = l.burst() - back
	}
	if out.burst() < batch || out.Burst == 0 && !l.Sliding {
		return l, fmt.Errorf("a Batch of %d needs a burst of %d more than that, which is what comes back in %v; %v has not so much",
			batch, back, leaseTime, l)
	}
	return out, nil
}

// plans returns the limits of all tiers.
func (p *policy) plans() []*plan { return slices.AppendSeq([]*plan{p.base}, maps.Values(p.tiers)) }

// stored returns the names that the limits of all tiers have in the store, each once.
func (p *policy) stored() []string {
	var names []string
	for _, pl := range p.plans() {
		for _, l := range pl.limits {
			names = append(names, l.stored)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// planOf returns the limits for a tier.
func (p *policy) planOf(tier string) *plan {
	if pl, ok := p.tiers[tier]; ok {
		return pl
	}
	return p.base
}
