package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	bsm "github.com/bsm/redislock"
	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/redis/go-redis/v9"
)

// lockTTL is how long a lock lasts in these benchmarks. It is redsync's default.
const lockTTL = 8 * time.Second

// contender is one way to lock through Redis.
type contender struct {
	name string
	open func(rdb *redis.Client, ttl time.Duration) (locker, error)
	// plain are the commands on data that it sends as they are. What else
	// Redis counts of such commands was called by its scripts.
	plain []string
}

// newClient returns a client as every contender gets one: with go-redis's
// defaults, but obeying the deadlines of contexts, as docs/redis.md asks for.
// redsync's own time limit for a command does nothing without that either.
func newClient(addr string) *redis.Client {
	return redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
}

func newClientFor(tb testing.TB, s *redistest.Server) *redis.Client {
	rdb := newClient(s.Addr())
	tb.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// contenders are compared with one another in every benchmark of locks.
// redsync is the one that ratios are formed with.
//
// redsync has its defaults, but goes on trying for as long as its context lives:
// with its 32 tries it could not finish what the others do. bsm does not try
// again by default; here it does so every 100 ms, as in its own examples.
var contenders = []contender{
	{"herdless", openHerdless, nil},
	{"redsync", openRedsync(math.MaxInt), []string{"set"}},
	{"bsm/redislock", openBSM, nil},
}

// redsyncDefault is redsync without any option but the TTL.
var redsyncDefault = contender{"redsync, 32 tries", openRedsync(32), []string{"set"}}

// contenderNamed is for a process that has got only the name.
func contenderNamed(name string) (contender, error) {
	for _, c := range slices.Concat(contenders, prototypes, []contender{redsyncDefault}) {
		if c.name == name {
			return c, nil
		}
	}
	return contender{}, fmt.Errorf("no contender %q", name)
}

// locker is a contender on a client.
type locker interface {
	// try asks once.
	try(ctx context.Context, name string) (held, error)
	// wait asks until it has the lock or ctx ends. What a contender returns that
	// gives up before that matches errGaveUp.
	wait(ctx context.Context, name string) (held, error)
}

// held is a lock that somebody holds. The types below are the contenders' own
// under another name, so that measuring adds no allocation.
type held interface {
	unlock(ctx context.Context) error
	// fence returns the fencing token, 0 if the contender has none.
	fence() uint64
}

var errGaveUp = errors.New("gave up before the context ended")

type herdless struct {
	locker *lock.Locker
	ttl    time.Duration
}

func openHerdless(rdb *redis.Client, ttl time.Duration) (locker, error) {
	l, err := lock.New(redislock.New(rdb, nil), nil)
	return herdless{l, ttl}, err
}

func (h herdless) try(ctx context.Context, name string) (held, error) {
	lease, err := h.locker.TryAcquire(ctx, name, h.ttl)
	return (*herdlessLease)(lease), err
}

func (h herdless) wait(ctx context.Context, name string) (held, error) {
	lease, err := h.locker.Acquire(ctx, name, h.ttl)
	return (*herdlessLease)(lease), err
}

type herdlessLease lock.Lease

func (l *herdlessLease) unlock(ctx context.Context) error { return (*lock.Lease)(l).Release(ctx) }
func (l *herdlessLease) fence() uint64                    { return (*lock.Lease)(l).Token() }

type redsyncLocker struct {
	redsync *redsync.Redsync
	options []redsync.Option
}

func openRedsync(tries int) func(*redis.Client, time.Duration) (locker, error) {
	return func(rdb *redis.Client, ttl time.Duration) (locker, error) {
		return redsyncLocker{
			redsync: redsync.New(goredis.NewPool(rdb)),
			options: []redsync.Option{redsync.WithExpiry(ttl), redsync.WithTries(tries)},
		}, nil
	}
}

func (r redsyncLocker) try(ctx context.Context, name string) (held, error) {
	m := r.redsync.NewMutex(name, r.options...)
	return (*redsyncMutex)(m), m.TryLockContext(ctx)
}

func (r redsyncLocker) wait(ctx context.Context, name string) (held, error) {
	m := r.redsync.NewMutex(name, r.options...)
	err := m.LockContext(ctx)
	if err != nil {
		err = errors.Join(errGaveUp, err)
	}
	return (*redsyncMutex)(m), err
}

type redsyncMutex redsync.Mutex

func (m *redsyncMutex) unlock(ctx context.Context) error {
	_, err := (*redsync.Mutex)(m).UnlockContext(ctx)
	return err
}

func (m *redsyncMutex) fence() uint64 { return 0 }

type bsmLocker struct {
	client *bsm.Client
	ttl    time.Duration
	retry  *bsm.Options
}

func openBSM(rdb *redis.Client, ttl time.Duration) (locker, error) {
	return bsmLocker{bsm.New(rdb), ttl, &bsm.Options{RetryStrategy: bsm.LinearBackoff(100 * time.Millisecond)}}, nil
}

func (l bsmLocker) try(ctx context.Context, name string) (held, error) {
	lock, err := l.client.Obtain(ctx, name, l.ttl, nil)
	return (*bsmLock)(lock), err
}

// wait needs a ctx with a deadline: without one Obtain stops after the TTL.
func (l bsmLocker) wait(ctx context.Context, name string) (held, error) {
	lock, err := l.client.Obtain(ctx, name, l.ttl, l.retry)
	return (*bsmLock)(lock), err
}

type bsmLock bsm.Lock

func (l *bsmLock) unlock(ctx context.Context) error { return (*bsm.Lock)(l).Release(ctx) }
func (l *bsmLock) fence() uint64                    { return 0 }
