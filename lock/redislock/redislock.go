// Package redislock keeps the leases of package lock in Redis: in one, with [New],
// or in a majority of several, with [NewQuorum], which is made with
// github.com/go-redsync/redsync/v4.
package redislock

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/herdless/herdless/internal/pipelining"
	"github.com/herdless/herdless/internal/push"
	"github.com/herdless/herdless/internal/rediskey"
	"github.com/herdless/herdless/lock"
	"github.com/redis/go-redis/v9"
)

// defaultPrefix begins every key if Options.Prefix is empty.
const defaultPrefix = "herdless:lock:"

// Client is what a [Store] needs of a Redis client. Every redis.UniversalClient
// has it; New panics with a redis.Ring, which has no place for a Pub/Sub channel.
type Client interface {
	redis.Scripter
	Subscribe(ctx context.Context, channels ...string) *redis.PubSub
}

// Options are the optional settings of a [Store]. Nil and the zero value mean
// the defaults.
type Options struct {
	// Prefix begins every key and channel. Two applications on one Redis need
	// two prefixes, or they lock each other out of what they name alike. It must
	// not contain braces, which would decide the slot of every lock in a Redis
	// Cluster. Default "herdless:lock:".
	Prefix string
	// NoPipelining sends each command by itself. By default the commands of more
	// than four callers at a time go together, in a pipeline, which costs a busy
	// Redis and the process a fraction; a hook or a trace of go-redis sees the
	// pipeline. What is bigger than 16 KiB goes by itself in any case. It needs a
	// *redis.Client or a *redis.ClusterClient that does not
	// read from replicas.
	NoPipelining bool
}

// Store is a [lock.Store] in Redis 6.2 or newer: one server, one behind
// Sentinel, or a Cluster. What a lease in it promises, and what not, stands in
// the documentation of package lock.
//
// Each step is one script and one round trip. Waiters of all names share one
// Pub/Sub connection, which is opened for the first of them and closed a few
// seconds after the last.
//
// A step obeys the deadline of its context, whether the client does or not. Without
// a deadline it takes as long as the client's timeouts let it, also if the context
// is cancelled meanwhile: with a Redis that hangs, 1 to 2 s with redisconn.Open, and 5 to
// 15 s with the timeouts of go-redis.
//
// Set ContextTimeoutEnabled in the client's options, as redisconn.Open does. Without
// it a client does not look at deadlines, and every step that has one, as all
// renewals do, needs a goroutine and a pipeline that others wait for. And where a
// connection hangs, it keeps that of a step that was given up until ReadTimeout.
//
// A Store is safe for concurrent use.
type Store struct {
	scripts *pipelining.Client
	prefix  string
	hub     *push.Hub
	given   given
}

// New returns a Store on client, which remains the caller's to close. A nil o
// means the defaults. It panics if client is nil or the prefix contains braces:
// both are mistakes in the program.
func New(client Client, o *Options) *Store {
	rediskey.MustListen("redislock", client)
	if o == nil {
		o = new(Options)
	}
	s := &Store{
		scripts: pipelining.New(client, o.NoPipelining),
		prefix:  rediskey.Prefix("redislock", client, o.Prefix, defaultPrefix),
		given:   given{waiters: make(map[string]*givenTo)},
	}
	s.hub = push.NewTold(client, s.given.told)
	return s
}

// TryAcquire implements [lock.Store].
func (s *Store) TryAcquire(ctx context.Context, req lock.Request) (lock.Grant, error) {
	if grant, ok := s.given.take(req); ok {
		return grant, nil
	}
	var a acquired
	var room [maxArgs]any
	var asked time.Time
	if req.Give {
		asked = time.Now()
	}
	reply, err := s.scripts.Run(ctx, acquireScript, s.keys(req.Name).of(req), acquireArgs(room[:0], req)...)
	if err == nil {
		a, err = parse(reply)
	}
	if err != nil {
		return lock.Grant{}, fmt.Errorf("redislock: acquire: %w", marked(err))
	}
	s.given.answered(req, asked, a)
	return a.grant(req), nil
}

// Extend implements [lock.Store].
func (s *Store) Extend(ctx context.Context, req lock.Request) (bool, error) {
	var room [maxArgs]any
	reply, err := s.scripts.Run(ctx, extendScript, s.keys(req.Name).of(req), extendArgs(room[:0], req, 0)...)
	if err != nil {
		return false, fmt.Errorf("redislock: extend: %w", err)
	}
	return reply == int64(1), nil
}

// Release implements [lock.Store].
func (s *Store) Release(ctx context.Context, req lock.Request) (bool, error) {
	var room [maxArgs]any
	reply, err := s.scripts.Run(ctx, releaseScript, s.keys(req.Name).of(req), releaseArgs(room[:0], req, wakeTurn)...)
	if err != nil {
		return false, fmt.Errorf("redislock: release: %w", err)
	}
	return reply == int64(1), nil
}

// Relay implements [lock.Relay].
func (s *Store) Relay(ctx context.Context, from, to lock.Request) (held bool, grant lock.Grant, err error) {
	var room [maxArgs]any
	asked := time.Now()
	reply, err := s.scripts.Run(ctx, relayScript, s.keys(from.Name).of(from), relayArgs(room[:0], from, to)...)
	var a acquired
	values, _ := reply.([]any)
	switch {
	case err != nil:
		err = marked(err)
	case len(values) != 2:
		err = fmt.Errorf("the script answered %v", reply)
	default:
		a, err = parse(values[1])
	}
	if err != nil {
		return false, lock.Grant{}, fmt.Errorf("redislock: release and acquire: %w", err)
	}
	s.given.answered(to, asked, a)
	return values[0] == int64(1), a.grant(to), nil
}

// refusals begin the answers of a Redis that is full, a replica, or loading, or
// that cannot write to its disk.
var refusals = []string{"OOM", "READONLY", "LOADING", "MISCONF"}

// refused marks such an answer.
type refused struct{ error }

// Is reports whether target is [lock.ErrRefused].
func (refused) Is(target error) bool { return target == lock.ErrRefused }

// Unwrap returns the answer.
func (r refused) Unwrap() error { return r.error }

// marked returns err, as one that matches lock.ErrRefused if it is a refusal.
func marked(err error) error {
	for _, r := range refusals {
		// Redis 6.2 says what went wrong in a script in the middle of the answer.
		if redis.HasErrorPrefix(err, r) || redis.HasErrorPrefix(err, "ERR") && strings.Contains(err.Error(), "-"+r+" ") {
			return refused{err}
		}
	}
	return err
}

// Watch implements [lock.Store].
func (s *Store) Watch(ctx context.Context, name, owner string) (turn <-chan struct{}, stop func(), err error) {
	turn, leave, err := s.hub.Watch(ctx, s.keys(name).channel(owner), owner)
	if err != nil {
		return nil, nil, fmt.Errorf("redislock: watch: %w", err)
	}
	over := s.given.await(owner)
	return turn, func() { leave(); over() }, nil
}

func (s *Store) keys(name string) keys { return keysOf(s.prefix, name) }
