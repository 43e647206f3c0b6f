package bench

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// prototypes are the ideas that a contended lock can be made of, each alone and
// without what a lock needs besides: fencing tokens, renewal, and a way on when a
// holder or a waiter dies.
var prototypes = []contender{
	{"pub/sub wake-up", openPubSub, []string{"set"}},
	{"BLPOP hand-over", openBLPOP, []string{"lpush"}},
	{"BLPOP, local queue", openLocalQueue, []string{"lpush"}},
}

// pubSubLocker takes a key with SET NX. A release publishes, which wakes all who
// wait, through one subscription per process and lock.
type pubSubLocker struct {
	rdb  *redis.Client
	feed *redis.Client // of which the tries are not counted
	ttl  time.Duration

	mu    sync.Mutex
	wakes map[string]chan struct{} // closed, and replaced, at each release
}

var publishingRelease = redis.NewScript(`
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
  redis.call('PUBLISH', KEYS[1], '')
end`)

func openPubSub(rdb *redis.Client, ttl time.Duration) (locker, error) {
	return &pubSubLocker{rdb: rdb, feed: newClient(rdb.Options().Addr), ttl: ttl, wakes: make(map[string]chan struct{})}, nil
}

func (l *pubSubLocker) try(ctx context.Context, name string) (held, error) {
	h := pubSubHeld{l.rdb, name, rand.Text()}
	ok, err := l.rdb.SetNX(ctx, name, h.owner, l.ttl).Result()
	if err == nil && !ok {
		err = errGaveUp
	}
	return h, err
}

func (l *pubSubLocker) wait(ctx context.Context, name string) (held, error) {
	for {
		wake, err := l.wake(ctx, name) // before it asks, or it could miss a release
		if err != nil {
			return nil, err
		}
		h, err := l.try(ctx, name)
		if err != errGaveUp { //nolint:errorlint // as it is
			return h, err
		}
		select {
		case <-wake:
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// wake returns a channel that is closed at the next release.
func (l *pubSubLocker) wake(ctx context.Context, name string) (<-chan struct{}, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if wake, ok := l.wakes[name]; ok {
		return wake, nil
	}
	feed := l.feed.Subscribe(context.WithoutCancel(ctx), name)
	if _, err := feed.Receive(ctx); err != nil {
		return nil, err
	}
	l.wakes[name] = make(chan struct{})
	go func() { // as long as the process
		for range feed.Channel() {
			l.mu.Lock()
			close(l.wakes[name])
			l.wakes[name] = make(chan struct{})
			l.mu.Unlock()
		}
	}()
	return l.wakes[name], nil
}

type pubSubHeld struct {
	rdb         *redis.Client
	name, owner string
}

func (h pubSubHeld) unlock(ctx context.Context) error {
	err := publishingRelease.Run(ctx, h.rdb, []string{h.name}, h.owner).Err()
	if err == redis.Nil { //nolint:errorlint // as it is
		return nil
	}
	return err
}

func (h pubSubHeld) fence() uint64 { return 0 }

// blpopLocker has a list with one element. Who pops it has the lock, until he
// pushes it back. Redis keeps those who wait in the order of coming.
type blpopLocker struct {
	rdb   *redis.Client
	other *redis.Client // of which the tries are not counted
	known *sync.Map     // names of which the list has been made
}

var makeList = redis.NewScript(`
if redis.call('SET', KEYS[2], '', 'NX', 'EX', 600) then redis.call('LPUSH', KEYS[1], '') end
return 1`)

func openBLPOP(rdb *redis.Client, _ time.Duration) (locker, error) {
	return blpopLocker{rdb, newClient(rdb.Options().Addr), new(sync.Map)}, nil
}

func (l blpopLocker) try(ctx context.Context, name string) (held, error) { return l.wait(ctx, name) }

func (l blpopLocker) wait(ctx context.Context, name string) (held, error) {
	if _, known := l.known.Load(name); !known {
		if err := makeList.Run(ctx, l.other, []string{name, name + ":made"}).Err(); err != nil {
			return nil, err
		}
		l.known.Store(name, nil)
	}
	err := l.rdb.BLPop(ctx, patience, name).Err()
	return blpopHeld{l.other, name}, err
}

type blpopHeld struct {
	rdb  *redis.Client
	name string
}

func (h blpopHeld) unlock(ctx context.Context) error { return h.rdb.LPush(ctx, h.name, "").Err() }
func (h blpopHeld) fence() uint64                    { return 0 }

// localQueue has one of those who wait in a process ask Redis, and hands a lock on
// among them as herdless does: 63 times, for 25 ms.
type localQueue struct {
	locker
	mu    sync.Mutex
	lines map[string][]localWaiter // of names that somebody of the process asks for or has
}

type localWaiter struct {
	ctx  context.Context //nolint:containedctx // of the one who waits
	turn chan *localHeld // nil: to ask Redis
}

func openLocalQueue(rdb *redis.Client, ttl time.Duration) (locker, error) {
	l, err := openBLPOP(rdb, ttl)
	return &localQueue{locker: l, lines: make(map[string][]localWaiter)}, err
}

func (q *localQueue) wait(ctx context.Context, name string) (held, error) {
	q.mu.Lock()
	line, busy := q.lines[name]
	w := localWaiter{ctx, make(chan *localHeld, 1)}
	if busy {
		q.lines[name] = append(line, w)
	} else {
		q.lines[name] = nil
	}
	q.mu.Unlock()
	if busy {
		select {
		case h := <-w.turn:
			if h != nil {
				return h, nil
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	h, err := q.locker.wait(ctx, name)
	if err != nil {
		q.next(name, nil)
		return nil, err
	}
	return &localHeld{held: h, queue: q, name: name, since: time.Now()}, nil
}

// next gives the next in line its turn, and reports whether there is one.
func (q *localQueue) next(name string, h *localHeld) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.lines[name]) > 0 {
		w := q.lines[name][0]
		q.lines[name] = q.lines[name][1:]
		if w.ctx.Err() == nil {
			w.turn <- h
			return true
		}
	}
	if h == nil {
		delete(q.lines, name)
	}
	return false
}

type localHeld struct {
	held
	queue    *localQueue
	name     string
	since    time.Time
	handedOn int
}

func (h *localHeld) unlock(ctx context.Context) error {
	if h.handedOn < 63 && time.Since(h.since) < 25*time.Millisecond {
		next := *h
		next.handedOn++
		if h.queue.next(h.name, &next) {
			return nil
		}
	}
	defer h.queue.next(h.name, nil)
	return h.held.unlock(ctx)
}
