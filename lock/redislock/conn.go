package redislock

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"time"

	redsyncredis "github.com/go-redsync/redsync/v4/redis"
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

// lateness is for how long after a release a command of the same owner may still
// arrive, and be known.
const lateness = time.Minute

// fenceTTL is for how long the last token is remembered after the lease's TTL.
// After that the server's clock alone makes tokens grow, and it must not have
// been set back by more than this.
const fenceTTL = 24 * time.Hour

// call is one call of a Store's method: what redsync has no words for on its way
// to the scripts and back.
type call struct {
	store *Store
	ctx   context.Context // the method's; redsync hands on ones with less time
	lease string          // key
	owner string

	acquiring bool
	err       error // what Redis or a context said, if anything
	refused   bool  // extend, release: the owner does not hold the lease

	taken   bool // acquire: somebody else holds the lease
	heldFor time.Duration
	token   uint64
}

func (s *Store) call(ctx context.Context, name, owner string) *call {
	return &call{store: s, ctx: ctx, lease: s.leaseKey(name), owner: owner}
}

// explain returns the error of a step that failed. redsync's own, err, says less
// than what Redis said, and nothing of a context.
func (c *call) explain(step string, err error) error {
	if c.err != nil {
		err = c.err
	}
	if e := ended(c.ctx); e != nil && !errors.Is(err, e) {
		err = errors.Join(e, err)
	}
	return fmt.Errorf("redislock: %s: %w", step, err)
}

// run runs a script on the keys of the lease. It does not outlast ctx: a client
// without ContextTimeoutEnabled waits for an answer for as long as its own
// timeouts say, and none stops waiting when a context is cancelled. The client's
// timeouts bound what is left behind then.
func (c *call) run(ctx context.Context, script *redis.Script, args ...any) (any, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	type answer struct {
		value any
		err   error
	}
	answered := make(chan answer, 1)
	go func() {
		value, err := script.Run(ctx, c.store.client, []string{c.lease, c.lease + ":fence"}, args...).Result()
		answered <- answer{value, err}
	}()
	select {
	case a := <-answered:
		if e := ended(ctx); a.err != nil && e != nil && !errors.Is(a.err, e) {
			a.err = errors.Join(e, a.err)
		}
		return a.value, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
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

// pool is redsync's way to a call's conn.
type pool struct{ *call }

// Get implements redsync's Pool.
func (p pool) Get(ctx context.Context) (redsyncredis.Conn, error) { return conn{p.call, ctx}, nil }

// conn makes redsync's commands the scripts of this package. It belongs to one
// call, and redsync uses it from one goroutine at a time.
type conn struct {
	*call
	ctx context.Context
}

// SetNX is redsync's command to acquire.
func (c conn) SetNX(_, owner string, ttl time.Duration) (bool, error) {
	c.acquiring = true
	var status, value int64
	reply, err := c.run(c.ctx, acquireScript, owner, ttl.Milliseconds(), (ttl + fenceTTL).Milliseconds())
	if err == nil {
		status, value, err = pair(reply)
	}
	if err != nil {
		c.err = err
		return false, err
	}
	switch status {
	case 1:
		c.token = uint64(value)
		return true, nil
	case 0:
		c.taken, c.heldFor = true, time.Duration(value)*time.Millisecond
		return false, nil
	default:
		c.err = errors.New("the owner has released the lease already: an owner is for one lease only")
		return false, c.err
	}
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
		reply, err = c.run(c.ctx, releaseScript, owner, lateness.Milliseconds())
	case 3:
		milliseconds := int64(keyAndArgs[2].(int))
		reply, err = c.run(c.ctx, extendScript, owner, milliseconds, milliseconds+fenceTTL.Milliseconds())
	default:
		err = fmt.Errorf("redsync ran a script with %d arguments", len(keyAndArgs)-1)
	}
	c.err = err
	c.refused = err == nil && reply == int64(0)
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

// pair takes a reply of two integers apart.
func pair(reply any) (first, second int64, err error) {
	if values, ok := reply.([]any); ok && len(values) == 2 {
		a, isInt := values[0].(int64)
		b, areInts := values[1].(int64)
		if isInt && areInts {
			return a, b, nil
		}
	}
	return 0, 0, fmt.Errorf("the script answered %v", reply)
}
