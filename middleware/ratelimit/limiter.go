package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"time"
)

// KeyFunc says who is limited: it returns what the requests of one client have
// in common. What decides about it must not be the client's to choose, or one
// client is many: a header that anybody can send is no key. Package clientip
// has the one for addresses.
//
// An error and an empty key both say that the request has no key. Keys end up
// in the store as they are, so they should be short and hold no secret.
type KeyFunc func(*http.Request) (string, error)

// Options are the optional settings of a Limiter. Nil and the zero value are
// the defaults.
type Options struct {
	// Name separates limiters that share a store: each counts on its own.
	// Limiters with one name count together, also in different processes, so
	// they must have the same limit: two limits need two names. It is a part of the keys in the store, and the client reads it
	// in the answer to a denied request. It may hold letters, digits and any
	// of "-_./". The default is made from the limit, such as "100/1m0s".
	Name string

	// FailClosed says what happens while the store fails. By default requests
	// pass, unlimited, and a line is logged; with FailClosed they are refused
	// with 503.
	FailClosed bool

	// Timeout is how long one decision may wait for the store. After it the
	// store counts as failing. The default is 50 ms.
	Timeout time.Duration

	// Denied answers the requests that are over the limit. The header field
	// Retry-After is already set. The default answers 429 with a problem
	// document (RFC 9457).
	Denied http.Handler

	// Logger gets a line when the store fails and when requests have no key, at
	// most one every ten seconds for each. The default is slog.Default().
	Logger *slog.Logger
}

const defaultTimeout = 50 * time.Millisecond

var validName = regexp.MustCompile(`^[A-Za-z0-9._/-]+$`)

// Limiter applies one Limit to each key. It is safe for concurrent use.
type Limiter struct {
	store      Store
	limit      Limit
	key        KeyFunc
	name       string
	failClosed bool
	timeout    time.Duration
	denied     http.Handler

	storeFails logGate
	keyMissing logGate
}

// New returns a Limiter that lets each key have limit, counted in store. It
// reports everything that is wrong with its arguments at once. o may be nil.
func New(store Store, limit Limit, key KeyFunc, o *Options) (*Limiter, error) {
	if o == nil {
		o = &Options{}
	}
	l := &Limiter{
		store: store, limit: limit, key: key,
		name: o.Name, failClosed: o.FailClosed, timeout: o.Timeout, denied: o.Denied,
		storeFails: logGate{logger: o.Logger}, keyMissing: logGate{logger: o.Logger},
	}
	var faults []error
	if store == nil {
		faults = append(faults, errors.New("ratelimit: no store: give NewMemoryStore() for one process, "+
			"or redislimit.New(client, nil) for several"))
	}
	if _, err := limit.rule(); err != nil {
		faults = append(faults, fmt.Errorf("ratelimit: limit: %w", err))
	}
	if key == nil {
		faults = append(faults, errors.New("ratelimit: no key: say who is limited, "+
			"for example with clientip.Key for the peer's address"))
	}
	if l.name == "" {
		l.name = limit.String()
	} else if !validName.MatchString(l.name) {
		faults = append(faults, fmt.Errorf("ratelimit: Options.Name is %q, but may hold only letters, digits and any of \"-_./\"", l.name))
	}
	if l.timeout < 0 {
		faults = append(faults, fmt.Errorf("ratelimit: Options.Timeout is %v, but must not be negative", l.timeout))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	if l.timeout == 0 {
		l.timeout = defaultTimeout
	}
	if l.denied == nil {
		l.denied = http.HandlerFunc(l.answerDenied)
	}
	return l, nil
}

// Allow is AllowN for one unit.
func (l *Limiter) Allow(ctx context.Context, key string) (Decision, error) {
	return l.AllowN(ctx, key, 1)
}

// AllowN takes n units from what key may use, or says that there is no room for
// them. Zero takes nothing and shows how things stand.
//
// If the store fails, AllowN returns both the error and the Decision that the
// options ask for: Allowed unless FailClosed is set, with no States. It has
// logged the error, so a caller that only looks at Allowed does the right
// thing. If ctx ends first, or if the arguments are wrong (an empty key, a
// negative n), it returns the error and does not allow.
func (l *Limiter) AllowN(ctx context.Context, key string, n int) (Decision, error) {
	if key == "" {
		return Decision{}, errNoKey
	}
	if n < 0 {
		return Decision{}, fmt.Errorf("ratelimit: cannot take %d units", n)
	}
	budget, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	d, err := l.store.Take(budget, Request{
		Checks: []Check{{Key: l.name + ":" + key, Limit: l.limit}},
		N:      n,
	})
	if err == nil {
		return d, nil
	}
	if ctxErr := ctx.Err(); ctxErr != nil {
		return Decision{}, fmt.Errorf("ratelimit: %w", errors.Join(ctxErr, err))
	}
	if budget.Err() != nil {
		err = fmt.Errorf("no decision within %v: %w", l.timeout, err)
	}
	err = fmt.Errorf("ratelimit: %w", err)
	if l.failClosed {
		l.storeFails.log(ctx, "ratelimit: the store fails: requests are refused", "limiter", l.name, "error", err)
	} else {
		l.storeFails.log(ctx, "ratelimit: the store fails: requests pass UNLIMITED", "limiter", l.name, "error", err)
	}
	return Decision{Allowed: !l.failClosed}, err
}

var errNoKey = errors.New("ratelimit: no key: it is empty")
