package redislock

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"sync"
	"time"

	redsyncredis "github.com/go-redsync/redsync/v4/redis"
	"github.com/herdless/herdless/lock"
	"github.com/redis/go-redis/v9"
)

var (
	//go:embed acquire.lua
	acquireSource string
	//go:embed extend.lua
	extendSource string
	//go:embed release.lua
	releaseSource string

	acquireScript = redis.NewScript(acquireSource)
	extendScript  = redis.NewScript(extendSource)
	releaseScript = redis.NewScript(releaseSource)
)

// fenceTTL is for how long the last token is remembered after the lease's TTL.
// After that the server's clock alone makes tokens grow, and it must not have
// been set back by more than this. It is also for how long after a release a
// command of the same owner may still arrive, and be known.
const fenceTTL = 24 * time.Hour

// step is one step of a Store on one server: what redsync has no words for on its
// way to the scripts and back. It is redsync's pool of connections to that
// server.
type step struct {
	client redis.Scripter
	quorum *server // client's, if it is one of several
	req    lock.Request
	keys   keys
	wake   string // release.lua's ARGV[6]
	raise  uint64 // extend.lua's ARGV[5]

	acquiring bool // set before redsync gets the step

	mu sync.Mutex // redsync goes on without the last servers of a quorum
	outcome
	granted  bool // acquire: the server gave the lease out, or may have, whether somebody waited for that or not
	unwanted bool // acquire: what the server gives out is to be taken back
}

// outcome is what came of a step.
type outcome struct {
	answered bool  // the server has said something,
	err      error // or Redis or a context said this

	refused bool // extend, release: the owner does not hold the lease

	taken   bool // acquire: there is no room for the lease
	heldFor time.Duration
	holder  string // who has it, if that is one
	token   uint64 // acquire: the lease was granted
}

func (s *step) set(o outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o.answered = o.err == nil
	s.outcome = o
}

func (s *step) result() outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.outcome
}

// run runs a script on the keys of the lease. It does not outlast ctx: a client
// without ContextTimeoutEnabled waits for an answer for as long as its own
// timeouts say, and none stops waiting when a context is cancelled. The client's
// timeouts bound what is left behind then.
func (s *step) run(ctx context.Context, script *redis.Script, args ...any) (any, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	requests, wait := ctx, ctx
	done := func() {}
	if s.quorum != nil {
		if !s.quorum.enter() {
			return nil, errHung
		}
		if s.acquiring {
			s.quorum.begin(s)
		}
		// redsync cancels ctx when a quorum of servers has answered. The others
		// are to hear of it all the same.
		var cancelRequests, cancelWait context.CancelFunc
		requests, cancelRequests = context.WithTimeout(context.WithoutCancel(ctx), s.quorum.timeout)
		wait, cancelWait = context.WithTimeout(ctx, s.quorum.timeout)
		defer cancelWait()
		done = func() {
			cancelRequests()
			s.quorum.leave()
		}
	}
	type answer struct {
		value any
		err   error
	}
	answered := make(chan answer, 1)
	go func() {
		value, err := script.Run(requests, s.client, s.keys.all(), args...).Result()
		done()
		if s.quorum != nil && s.acquiring {
			s.ended(ctx, value, err)
		}
		answered <- answer{value, err}
	}()
	select {
	case a := <-answered:
		if e := ended(wait); a.err != nil && e != nil && !errors.Is(a.err, e) {
			a.err = errors.Join(e, a.err)
		}
		return a.value, a.err
	case <-wait.Done():
		return nil, wait.Err()
	}
}

// kind is what the scripts call the kind of a lease.
func (s *step) kind() string {
	if s.req.Shared {
		return "s"
	}
	return "x"
}

// ended returns why ctx is over, or nil. A network timeout that was set from
// ctx's deadline can come a moment before ctx itself notices.
func ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

// Get implements redsync's Pool.
func (s *step) Get(ctx context.Context) (redsyncredis.Conn, error) { return conn{s, ctx}, nil }

// conn makes redsync's commands the scripts of this package. It belongs to one
// step, and redsync uses it from one goroutine at a time.
type conn struct {
	*step
	ctx context.Context
}

// SetNX is redsync's command to acquire.
func (c conn) SetNX(_, owner string, ttl time.Duration) (bool, error) {
	reply, err := c.run(c.ctx, acquireScript, owner, c.kind(), c.req.Limit, ttl.Milliseconds(), (ttl + fenceTTL).Milliseconds(),
		max(c.req.Tokens, 1), milliseconds(c.req.Place))
	var status, value int64
	var holder string
	if err == nil {
		status, value, holder, err = parse(reply)
	}
	if err == nil && status < 0 {
		err = errors.New("the owner has released the lease already: an owner is for one lease only")
	}
	switch {
	case err != nil:
		c.set(outcome{err: err})
	case status == 1:
		c.set(outcome{token: uint64(value)})
	default:
		c.set(outcome{taken: true, heldFor: time.Duration(value) * time.Millisecond, holder: holder})
	}
	return err == nil && status == 1, err
}

// Eval is redsync's command to release, with the owner, and to extend, with the
// owner and the TTL.
func (c conn) Eval(_ *redsyncredis.Script, keyAndArgs ...any) (any, error) {
	if c.acquiring {
		// redsync releases after every try that failed. If the lease is taken
		// there is nothing to release. If the try ended in an error there may
		// be, but the context may be what ended it; lock.Locker releases then,
		// on a context that lives.
		return int64(0), nil
	}
	owner := keyAndArgs[1]
	var reply any
	var err error
	switch len(keyAndArgs) {
	case 2:
		if c.quorum != nil && c.quorum.discard(c.ctx, c.req.Owner) {
			err = errors.New("the acquire is still under way, and is taken back when it ends")
			break
		}
		reply, err = c.run(c.ctx, releaseScript, owner, c.kind(), c.req.Limit, fenceTTL.Milliseconds(), c.keys.channel(), c.wake)
	case 3:
		ttl := int64(keyAndArgs[2].(int))
		reply, err = c.run(c.ctx, extendScript, owner, c.kind(), ttl, ttl+fenceTTL.Milliseconds(), c.raise)
	default:
		err = fmt.Errorf("redsync ran a script with %d arguments", len(keyAndArgs)-1)
	}
	c.set(outcome{err: err, refused: err == nil && reply == int64(0)})
	return reply, err
}

// Close implements redsync's Conn.
func (conn) Close() error { return nil }

// What follows redsync uses for nothing that this package asks of it.

var errUnused = errors.New("redislock: redsync asked for a command that it has no use for")

// Get implements redsync's Conn.
func (conn) Get(string) (string, error) { return "", errUnused }

// Set implements redsync's Conn.
func (conn) Set(string, string) (bool, error) { return false, errUnused }

// PTTL implements redsync's Conn.
func (conn) PTTL(string) (time.Duration, error) { return 0, errUnused }

// ScriptLoad implements redsync's Conn.
func (conn) ScriptLoad(*redsyncredis.Script) error { return errUnused }

// parse takes a reply of acquire.lua apart.
func parse(reply any) (status, value int64, holder string, err error) {
	values, _ := reply.([]any)
	ok := len(values) >= 2
	if ok {
		status, ok = values[0].(int64)
	}
	if ok {
		value, ok = values[1].(int64)
	}
	if !ok {
		return 0, 0, "", fmt.Errorf("the script answered %v", reply)
	}
	if len(values) > 2 {
		holder, _ = values[2].(string)
	}
	return status, value, holder, nil
}

// milliseconds returns d rounded up.
func milliseconds(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}
