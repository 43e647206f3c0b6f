package redislock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-redsync/redsync/v4"
	redsyncredis "github.com/go-redsync/redsync/v4/redis"
	"github.com/herdless/herdless/internal/pipelining"
	"github.com/herdless/herdless/lock"
	"github.com/redis/go-redis/v9"
)

// mutex returns redsync's lock for one step on each of some servers. Nothing of it
// outlives the step: the owner is all that it would know.
func mutex(req lock.Request, servers ...redsyncredis.Pool) *redsync.Mutex {
	return redsync.New(servers...).NewMutex(req.Name,
		redsync.WithValue(req.Owner),
		redsync.WithGenValueFunc(func() (string, error) { return req.Owner, nil }),
		// redsync cuts to milliseconds.
		redsync.WithExpiry(time.Duration(milliseconds(req.TTL))*time.Millisecond),
		redsync.WithTries(1),
		// The default gives a lease of a second 50 ms for its request. Here each
		// server has its own time.
		redsync.WithTimeoutFactor(1),
		// lock.Locker takes the drift off, for every store.
		redsync.WithDriftFactor(0),
		// The last servers are not waited for.
		redsync.WithFailFast(true),
	)
}

// step is one step of a Quorum on one server: what redsync has no words for on its
// way to the scripts and back. It is redsync's pool of connections to that
// server.
type step struct {
	kind   stepKind
	server *server
	req    lock.Request
	keys   keys
	wake   string // of a release
	raise  uint64 // of an extend

	after <-chan struct{} // of an acquire: closed when the releases before it are over
	over  func()          // of a release: it is over

	sent     atomic.Bool // it may have reached the server
	unwanted atomic.Bool // of an acquire: it is not to be sent any more

	mu sync.Mutex // redsync goes on without the last servers
	outcome
}

type stepKind uint8

const (
	acquires stepKind = iota
	extends
	releases
)

// outcome is what came of a step.
type outcome struct {
	answered bool  // the server has said something,
	err      error // or Redis or a context said this

	refused  bool     // extend, release: the owner does not hold the lease
	acquired acquired // acquire
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

// run runs the step's script on the server, and does not outlast ctx or the
// server's timeout. The command itself does outlast ctx: redsync cancels that when
// enough servers have answered, and the others are to hear of it all the same.
func (s *step) run(ctx context.Context, script *redis.Script, args []any) (any, error) {
	type answer struct {
		value any
		err   error
	}
	answered := make(chan answer, 1)
	if !s.server.enter() {
		s.end(errHung)
		return nil, errHung
	}
	wait, cancel := context.WithTimeout(ctx, s.server.timeout)
	defer cancel()
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.server.timeout)
		defer cancel()
		late := context.AfterFunc(ctx, func() { s.end(ctx.Err()) }) // the client may not look at ctx
		value, err := s.send(ctx, script, args)
		s.server.leave()
		if late() {
			s.end(err)
		}
		answered <- answer{value, err}
	}()
	select {
	case a := <-answered:
		return a.value, a.err
	case <-wait.Done():
		if err := pipelining.Ended(ctx); err != nil {
			return nil, err
		}
		if s.sent.Load() {
			s.server.hangs(true)
		}
		return nil, fmt.Errorf("no answer within %v", s.server.timeout)
	}
}

// send sends the command, when it may be sent, and waits for the answer.
func (s *step) send(ctx context.Context, script *redis.Script, args []any) (any, error) {
	if s.after != nil {
		select {
		case <-s.after:
		case <-ctx.Done():
			return nil, errors.New("the releases before it have not been answered")
		}
	}
	s.sent.Store(true) // before the look at unwanted: see takeBack
	if s.unwanted.Load() {
		return nil, errors.New("the others have refused already")
	}
	value, err := script.Run(ctx, s.server.client, []string{string(s.keys)}, args...).Result()
	if ctx.Err() == nil {
		s.server.hangs(false) // it has said something, if only that it is not there
	}
	return value, err
}

// end notes that the command has ended, or has had its time. A release of which the
// server may not have heard is owed to it.
func (s *step) end(err error) {
	if s.kind != releases {
		return
	}
	if err != nil {
		s.server.owe(s)
	}
	s.over()
}

// giveUp sees to it that an acquire is not sent any more.
func (s *step) giveUp() { s.unwanted.Store(true) }

// takeBack takes back in the background what the server has given out or will. The
// release can overtake the acquire, which is refused then.
func (s *step) takeBack(ctx context.Context) {
	s.giveUp()
	if o := s.result(); !s.sent.Load() || o.answered && !o.acquired.granted {
		return
	}
	back := &step{kind: releases, server: s.server, req: s.req, keys: s.keys, wake: wakeNone}
	back.over = s.server.releases(s.keys)
	go func() { _, _ = back.release(context.WithoutCancel(ctx)) }()
}

func (s *step) release(ctx context.Context) (any, error) {
	return s.run(ctx, releaseScript, releaseArgs(nil, s.req, s.wake))
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
func (c conn) SetNX(string, string, time.Duration) (bool, error) {
	var a acquired
	reply, err := c.run(c.ctx, acquireScript, acquireArgs(nil, c.req))
	if err == nil {
		a, err = parse(reply)
	}
	c.set(outcome{acquired: a, err: err})
	return a.granted, err
}

// Eval is redsync's command to release, with the owner, and to extend, with the
// owner and the TTL.
func (c conn) Eval(_ *redsyncredis.Script, keyAndArgs ...any) (any, error) {
	var reply any
	var err error
	switch {
	case c.kind == acquires:
		// redsync releases everywhere after a try that failed. Quorum knows
		// better where there is something to take back, and when.
		return int64(0), nil
	case c.kind == releases && len(keyAndArgs) == 2:
		reply, err = c.release(c.ctx)
	case c.kind == extends && len(keyAndArgs) == 3:
		reply, err = c.run(c.ctx, extendScript, extendArgs(nil, c.req, c.raise))
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
