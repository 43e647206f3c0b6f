// Package redislock keeps the leases of package lock in Redis, through
// github.com/go-redsync/redsync/v4.
package redislock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-redsync/redsync/v4"
	redsyncredis "github.com/go-redsync/redsync/v4/redis"
	"github.com/herdless/herdless/internal/push"
	"github.com/herdless/herdless/internal/rediskey"
	"github.com/herdless/herdless/lock"
	"github.com/redis/go-redis/v9"
)

// defaultPrefix begins every key if Options.Prefix is empty.
const defaultPrefix = "herdless:lock:"

// Client is what a [Store] needs of a Redis client. Every redis.UniversalClient
// has it.
type Client interface {
	redis.Scripter
	Subscribe(ctx context.Context, channels ...string) *redis.PubSub
}

// Options are the optional settings of a [Store]. Nil and the zero value mean
// the defaults.
type Options struct {
	// Prefix begins every key and channel. It must not contain braces, which
	// would decide the slot of every lock in a Redis Cluster. Default
	// "herdless:lock:".
	Prefix string
}

// Store is a [lock.Store] in Redis 6.2 or newer: one server, one behind
// Sentinel, or a Cluster. What a lease in it promises, and what not, stands in
// the documentation of package lock.
//
// Each step is one script and one round trip. Waiters of all names share one
// Pub/Sub connection, which is opened for the first of them and closed a few
// seconds after the last.
//
// A Store is safe for concurrent use.
type Store struct {
	client Client
	prefix string
	hub    *push.Hub
}

// New returns a Store on client, which remains the caller's to close. A nil o
// means the defaults. It panics if client is nil or the prefix contains braces:
// both are mistakes in the program.
func New(client Client, o *Options) *Store {
	if o == nil {
		o = new(Options)
	}
	return &Store{
		client: client,
		prefix: rediskey.Prefix("redislock", client, o.Prefix, defaultPrefix),
		hub:    push.New(client),
	}
}

// TryAcquire implements [lock.Store].
func (s *Store) TryAcquire(ctx context.Context, req lock.Request) (lock.Grant, error) {
	c := s.step(req)
	c.acquiring = true
	err := mutex(req, c).TryLockContext(ctx)
	o := c.result()
	switch {
	case err == nil:
		return lock.Grant{Acquired: true, Token: o.token}, nil
	case o.taken:
		return lock.Grant{HeldFor: o.heldFor, Queued: req.Place > 0}, nil
	default:
		return lock.Grant{}, explain(ctx, "acquire", o.err, err)
	}
}

// Extend implements [lock.Store].
func (s *Store) Extend(ctx context.Context, req lock.Request) (bool, error) {
	c := s.step(req)
	ok, err := mutex(req, c).ExtendContext(ctx)
	if o := c.result(); err != nil && !o.refused {
		return false, explain(ctx, "extend", o.err, err)
	}
	return ok, nil
}

// Release implements [lock.Store].
func (s *Store) Release(ctx context.Context, req lock.Request) (bool, error) {
	c := s.step(req)
	ok, err := mutex(req, c).UnlockContext(ctx)
	if o := c.result(); err != nil && !o.refused {
		return false, explain(ctx, "release", o.err, err)
	}
	return ok, nil
}

// Watch implements [lock.Store].
func (s *Store) Watch(ctx context.Context, name, owner string) (turn <-chan struct{}, stop func(), err error) {
	turn, stop, err = s.hub.Watch(ctx, keysOf(s.prefix, name).channel(), owner)
	if err != nil {
		return nil, nil, fmt.Errorf("redislock: watch: %w", err)
	}
	return turn, stop, nil
}

func (s *Store) step(req lock.Request) *step {
	return &step{client: s.client, req: req, keys: keysOf(s.prefix, req.Name), wake: "turn"}
}

// mutex returns redsync's lock for one step, on one server or on each of several.
// Nothing of it outlives the step: the key and the owner are all that it would
// know.
func mutex(req lock.Request, servers ...redsyncredis.Pool) *redsync.Mutex {
	return redsync.New(servers...).NewMutex(req.Name,
		redsync.WithValue(req.Owner),
		redsync.WithGenValueFunc(func() (string, error) { return req.Owner, nil }),
		// redsync cuts to milliseconds.
		redsync.WithExpiry(time.Duration(milliseconds(req.TTL))*time.Millisecond),
		redsync.WithTries(1),
		// The default gives a lease of a second 50 ms for its request. An
		// answer is worth having until the lease would be over; the caller's
		// context says if less is wanted.
		redsync.WithTimeoutFactor(1),
		// lock.Locker takes the drift off, for every store.
		redsync.WithDriftFactor(0),
		// The last servers of a quorum are not waited for.
		redsync.WithFailFast(len(servers) > 1),
	)
}

// explain returns the error of a step that failed. redsync's own, err, says less
// than what Redis said, said, and nothing of a context.
func explain(ctx context.Context, step string, said, err error) error {
	if said != nil {
		err = said
	}
	if e := ended(ctx); e != nil && !errors.Is(err, e) {
		err = errors.Join(e, err)
	}
	return fmt.Errorf("redislock: %s: %w", step, err)
}
