package redislock

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	redsyncredis "github.com/go-redsync/redsync/v4/redis"
	"github.com/herdless/herdless/internal/pipelining"
	"github.com/herdless/herdless/internal/push"
	"github.com/herdless/herdless/internal/rediskey"
	"github.com/herdless/herdless/lock"
)

const (
	// defaultTimeout is how long one server of a quorum is waited for.
	defaultTimeout = 250 * time.Millisecond
	// splitWait is for how long, at most, an asker waits to try again when
	// several have asked at the same time and none of them got a quorum.
	splitWait = 20 * time.Millisecond
)

// QuorumOptions are the optional settings of a [Quorum]. Nil and the zero value
// mean the defaults.
type QuorumOptions struct {
	// Prefix is as in [Options].
	Prefix string
	// Timeout is how long one server is waited for in each step, if the others
	// are not enough. It should be a small part of the TTLs that are used, and
	// more than a server needs on a bad day. Default 250 ms.
	Timeout time.Duration
}

// Quorum is a [lock.Store] on several Redis servers that know nothing of each
// other: a lease is held if more than half of them say so. It goes on while fewer
// than half are down or hang, and it has no failover that could lose a lease. This
// is the Redlock algorithm, in redsync's implementation.
//
// Its leases are exclusive. There is no queue: a release wakes all who wait, and
// one of them is faster. [lock.Locker.Shared], [lock.Locker.Semaphore] and
// [lock.Locker.Fair] are refused, with errors that match [errors.ErrUnsupported].
//
// # What it promises
//
// A lease that more than half of the servers have given out is not given out again
// before it ends, as long as their clocks run at about the same speed and none of
// those servers comes back without its data before the lease would have ended.
// Let the servers write every change to disk (appendfsync always), or keep one
// that has crashed away for longer than the longest TTL. A lease that lasts must
// be kept by the same majority that gave it out: a server that comes back does
// not join it again.
//
// Fencing tokens grow from lease to lease here as well, which Redlock alone does
// not give: each server counts for itself. A lease takes the largest of the tokens
// that its majority has given out, and has all of that majority count on from
// there before the holder gets it. Any two majorities have a server in common, so
// that the next lease is given a larger one. If a majority loses its data, only
// the clocks of the servers make tokens grow, and they have to be right to within
// the time between two leases.
//
// It takes three round trips to lock and unlock instead of two, each of them to
// all servers at once. A Quorum is safe for concurrent use.
type Quorum struct {
	prefix  string
	servers []*server
}

// NewQuorum returns a Quorum on clients, which remain the caller's to close. Each
// must be of a server of its own, without replicas and not of a Cluster, and there
// must be an odd number of them, at least 3: 3 stand one failure, 5 stand two. A
// nil o means the defaults. It panics if clients or o are wrong: that is a mistake
// in the program.
func NewQuorum(clients []Client, o *QuorumOptions) *Quorum {
	if o == nil {
		o = new(QuorumOptions)
	}
	if len(clients) < 3 || len(clients)%2 == 0 {
		panic(fmt.Sprintf("redislock: a quorum of %d servers: an odd number of at least 3 is needed", len(clients)))
	}
	if o.Timeout < 0 {
		panic(fmt.Sprintf("redislock: QuorumOptions.Timeout is %v, want 0 for the default or more", o.Timeout))
	}
	timeout := o.Timeout
	if timeout == 0 {
		timeout = defaultTimeout
	}
	q := new(Quorum)
	for _, client := range clients {
		rediskey.MustListen("redislock", client)
		q.prefix = rediskey.Prefix("redislock", client, o.Prefix, defaultPrefix)
		q.servers = append(q.servers, &server{
			client:     client,
			hub:        push.New(client),
			timeout:    timeout,
			unanswered: make(chan struct{}, maxUnanswered),
			releasing:  make(map[keys]*releasing),
			owed:       make(map[string]debt),
		})
	}
	return q
}

// majority is how many servers decide.
func (q *Quorum) majority() int { return len(q.servers)/2 + 1 }

// TryAcquire implements [lock.Store].
func (q *Quorum) TryAcquire(ctx context.Context, req lock.Request) (lock.Grant, error) {
	if err := supported(req); err != nil {
		return lock.Grant{}, err
	}
	req.Place = 0
	if err := pipelining.Ended(ctx); err != nil {
		return lock.Grant{}, fmt.Errorf("redislock: acquire: %w", err)
	}
	steps, pools := q.steps(acquires, req)
	err := mutex(req, pools...).TryLockContext(ctx)
	if err != nil {
		return q.refused(ctx, steps, err)
	}
	token := uint64(0)
	for _, s := range steps {
		token = max(token, s.result().acquired.token)
	}
	// All of a majority count on from this token before anybody sees it.
	ok, err := q.extend(ctx, req, token+uint64(max(req.Tokens, 1))-1)
	switch {
	case err != nil:
		return lock.Grant{}, err
	case !ok:
		return lock.Grant{}, errors.New("redislock: acquire: the majority that gave the lease out had lost it a moment later: its TTL is too short, or servers have lost their data")
	}
	return lock.Grant{Acquired: true, Token: token}, nil
}

// refused returns what became of an acquire that did not get a majority.
func (q *Quorum) refused(ctx context.Context, steps []*step, err error) (lock.Grant, error) {
	var free []time.Duration // for each server that has answered, when it is free
	holders := map[string]int{}
	for _, s := range steps {
		switch o := s.result(); {
		case !o.answered:
		case o.acquired.granted:
			free = append(free, 0)
		default:
			free = append(free, o.acquired.heldFor)
			holders[o.acquired.holder]++
		}
	}
	if len(free) < q.majority() || pipelining.Ended(ctx) != nil {
		for _, s := range steps {
			s.giveUp()
		}
		return lock.Grant{}, q.tooFew(ctx, "acquire", steps, err)
	}
	// What was granted is of no use, and must not keep others from a majority.
	// Nobody is woken by that: nothing was held.
	for _, s := range steps {
		s.takeBack(ctx)
	}
	for _, n := range holders {
		if n >= q.majority() {
			slices.Sort(free)
			return lock.Grant{HeldFor: free[q.majority()-1]}, nil
		}
	}
	return lock.Grant{HeldFor: time.Millisecond + rand.N(splitWait)}, nil
}

// Extend implements [lock.Store].
func (q *Quorum) Extend(ctx context.Context, req lock.Request) (bool, error) {
	return q.extend(ctx, req, 0)
}

// extend also has the servers count on from token.
func (q *Quorum) extend(ctx context.Context, req lock.Request, token uint64) (bool, error) {
	steps, pools := q.steps(extends, req)
	for _, s := range steps {
		s.raise = token
	}
	ok, err := mutex(req, pools...).ExtendContext(ctx)
	return q.decide(ctx, "extend", steps, ok, err)
}

// Release implements [lock.Store].
func (q *Quorum) Release(ctx context.Context, req lock.Request) (bool, error) {
	steps, pools := q.steps(releases, req)
	ok, err := mutex(req, pools...).UnlockContext(ctx)
	return q.decide(ctx, "release", steps, ok, err)
}

// decide returns what a majority has said about who holds the lease, or an error
// if there is none.
func (q *Quorum) decide(ctx context.Context, what string, steps []*step, ok bool, err error) (bool, error) {
	if ok {
		return true, nil
	}
	refused := 0
	for _, s := range steps {
		if s.result().refused {
			refused++
		}
	}
	// So many that the others are no majority, whatever they would say.
	if refused > len(steps)-q.majority() {
		return false, nil
	}
	return false, q.tooFew(ctx, what, steps, err)
}

// Watch implements [lock.Store].
func (q *Quorum) Watch(ctx context.Context, name, _ string) (turn <-chan struct{}, stop func(), err error) {
	type watch struct {
		stop func()
		err  error
	}
	wake := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watches := make(chan watch, len(q.servers))
	for _, s := range q.servers {
		go func() {
			stop, err := s.hub.WatchWith(ctx, keysOf(q.prefix, name).channel(""), "", wake)
			watches <- watch{stop, err}
		}()
	}
	var stops []func()
	var errs []error
	for range q.servers {
		w := <-watches
		if w.err != nil {
			errs = append(errs, w.err)
			continue
		}
		// A majority is enough to hear of every release by another one. The
		// last servers are not waited for.
		if stops = append(stops, w.stop); len(stops) == q.majority() {
			cancel()
		}
	}
	stop = func() {
		for _, s := range stops {
			s()
		}
	}
	if len(stops) < q.majority() {
		stop()
		return nil, nil, fmt.Errorf("redislock: watch: %d of %d servers answered, %d are needed: %w", len(stops), len(q.servers), q.majority(), errors.Join(errs...))
	}
	return wake, stop, nil
}

// steps returns a step on each server. All of them must be run: acquires wait for
// the releases that were made before them.
func (q *Quorum) steps(kind stepKind, req lock.Request) ([]*step, []redsyncredis.Pool) {
	steps, pools := make([]*step, len(q.servers)), make([]redsyncredis.Pool, len(q.servers))
	keys := keysOf(q.prefix, req.Name)
	for i, server := range q.servers {
		s := &step{kind: kind, server: server, req: req, keys: keys, wake: wakeAll}
		switch kind {
		case acquires:
			s.after = server.released(keys)
		case releases:
			s.over = server.releases(keys)
		}
		steps[i], pools[i] = s, s
	}
	return steps, pools
}

// tooFew returns the error of a step that not enough servers have answered.
func (q *Quorum) tooFew(ctx context.Context, what string, steps []*step, err error) error {
	answered := 0
	var said []error
	for i, s := range steps {
		o := s.result()
		if o.answered {
			answered++
		}
		if o.err != nil {
			said = append(said, fmt.Errorf("server %d: %w", i+1, o.err))
		}
	}
	if len(said) > 0 {
		err = errors.Join(said...)
	}
	if e := pipelining.Ended(ctx); e != nil && !errors.Is(err, e) {
		err = errors.Join(e, err)
	}
	return fmt.Errorf("redislock: %s: %d of %d servers answered, %d are needed: %w", what, answered, len(steps), q.majority(), err)
}

// supported returns an error if req asks for what a quorum cannot give.
func supported(req lock.Request) error {
	switch {
	case req.Shared:
		return fmt.Errorf("redislock: a quorum has no shared leases and no permits, use a Store on one Redis for those: %w", errors.ErrUnsupported)
	case req.Fair:
		return fmt.Errorf("redislock: a quorum has no queue to serve in order, use a Store on one Redis for that: %w", errors.ErrUnsupported)
	}
	return nil
}
