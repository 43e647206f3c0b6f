package ratelimit

import (
	"context"
	"net/http"
	"time"
)

// Result is what a Limiter has decided.
type Result struct {
	// Allowed reports whether the request may go on.
	Allowed bool
	// Taken is how many units were taken under the first policy. Only AtMost and a
	// Policy.Cost make it another number than was asked for, or that of another
	// policy.
	Taken int
	// RetryAfter is, if it is not Allowed, how long to wait until it would be: to the
	// microsecond. Negative if it never would be. Zero if the store fails.
	RetryAfter time.Duration
	// Local reports that the store was not asked.
	Local bool
	// Limits says how each limit stands, those of the first policy first. It is empty if
	// the store fails.
	Limits []Standing
}

// Standing says how a limit stands after a decision.
type Standing struct {
	// Policy is the name of the policy. Name is that of the limit: the same if all of
	// its tiers have one limit, else with the period, such as "api/1s".
	Policy, Name string
	// Limit is the limit.
	Limit Limit
	// Shadow says that it denies nothing.
	Shadow bool
	// Known says whether CheckState does: not if the process denied on its
	// own for another limit. (Over and RetryAfter do all the same of a limit that never has
	// room.)
	Known bool
	CheckState
}

// Violated returns the names of the limits that had no room, without those of
// Shadow policies.
func (r Result) Violated() []string {
	var names []string
	for i := range r.Limits {
		if l := &r.Limits[i]; l.Over && !l.Shadow {
			names = append(names, l.Name)
		}
	}
	return names
}

type resultKey struct{}

func withResult(r *http.Request, result Result) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), resultKey{}, result))
}

// FromContext returns the Result of a request that was denied, to Options.Denied.
func FromContext(ctx context.Context) (Result, bool) {
	r, ok := ctx.Value(resultKey{}).(Result)
	return r, ok
}
