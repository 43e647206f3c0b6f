// Package redislock keeps the leases of package lock in Redis, through
// github.com/go-redsync/redsync/v4.
package redislock

import (
	"context"
	"fmt"
	"time"

	"github.com/go-redsync/redsync/v4"
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
	c := s.call(ctx, req.Name, req.Owner)
	if err := s.mutex(c, req.TTL).TryLockContext(ctx); err != nil {
		if c.taken {
			return lock.Grant{HeldFor: c.heldFor}, nil
		}
		return lock.Grant{}, c.explain("acquire", err)
	}
	return lock.Grant{Acquired: true, Token: c.token}, nil
}

// Extend implements [lock.Store].
func (s *Store) Extend(ctx context.Context, name, owner string, ttl time.Duration) (bool, error) {
	c := s.call(ctx, name, owner)
	ok, err := s.mutex(c, ttl).ExtendContext(ctx)
	if err != nil && !c.refused {
		return false, c.explain("extend", err)
	}
	return ok, nil
}

// Release implements [lock.Store].
func (s *Store) Release(ctx context.Context, name, owner string) (bool, error) {
	c := s.call(ctx, name, owner)
	ok, err := s.mutex(c, 0).UnlockContext(ctx)
	if err != nil && !c.refused {
		return false, c.explain("release", err)
	}
	return ok, nil
}

// Watch implements [lock.Store].
func (s *Store) Watch(ctx context.Context, name string) (released <-chan struct{}, stop func(), err error) {
	released, stop, err = s.hub.Watch(ctx, s.leaseKey(name)+":released")
	if err != nil {
		return nil, nil, fmt.Errorf("redislock: watch: %w", err)
	}
	return released, stop, nil
}

// mutex returns redsync's lock for one call. Nothing of it outlives the call: the
// key and the owner are all that it would know.
func (s *Store) mutex(c *call, ttl time.Duration) *redsync.Mutex {
	return redsync.New(pool{c}).NewMutex(c.lease,
		redsync.WithValue(c.owner),
		redsync.WithGenValueFunc(func() (string, error) { return c.owner, nil }),
		// redsync cuts to milliseconds.
		redsync.WithExpiry((ttl + time.Millisecond - 1).Truncate(time.Millisecond)),
		redsync.WithTries(1),
		// The default gives a lease of a second 50 ms for its request. An
		// answer is worth having until the lease would be over; the caller's
		// context says if less is wanted.
		redsync.WithTimeoutFactor(1),
		// lock.Locker takes the drift off, for every store.
		redsync.WithDriftFactor(0),
	)
}
