// Package push wakes those who wait for something to happen in Redis, through
// one subscription connection a process.
package push

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// Subscriber is what a Hub needs of a Redis client; every redis.UniversalClient
// has it.
type Subscriber interface {
	Subscribe(ctx context.Context, channels ...string) *redis.PubSub
}

// Hub shares one Redis Pub/Sub connection among all watchers of a process. The
// connection is opened for the first watcher and closed, with its goroutines,
// linger after the last one left, or when the client is closed. One on which the
// server stays silent for a linger after a ping is replaced.
//
// A message may be lost while the connection is down. When it is up again every
// watcher is woken, because its message may have been among the lost: a wake-up
// means "look again", never "it happened".
//
// A Hub is safe for concurrent use.
type Hub struct {
	client Subscriber
	linger time.Duration
	told   func(message string) (name string)

	mu   sync.Mutex
	conn *conn // nil while nobody watches
}

// defaultLinger is how long a subscription outlives its last watcher. Whoever
// waits for a contended key comes back for it soon, and finds it confirmed.
const defaultLinger = 5 * time.Second

// unconfirmed is for how many times linger a subscription outlives its last watcher
// if the server has not confirmed it. It never does if an ACL forbids the channel.
const unconfirmed = 10

// retryAfter is how long to wait after a connection that could not be made.
const retryAfter = 100 * time.Millisecond

// errClosed is what watchers get once the client is closed.
var errClosed = errors.New("the Redis client is closed")

// New returns a Hub on client.
func New(client Subscriber) *Hub {
	return &Hub{client: client, linger: defaultLinger}
}

// NewTold returns a Hub on client for messages that may tell more than a name. told is
// called with each message that is nobody's name, and returns the name of those who
// are woken after that. It must not block.
func NewTold(client Subscriber, told func(message string) (name string)) *Hub {
	h := New(client)
	h.told = told
	return h
}

// Watch subscribes to channel and returns once the server has confirmed it, so
// that no message published after that is missed while the connection stands.
// An empty message is for all watchers of the channel, any other one for those
// whose name it is.
//
// woken has room for one value; several messages may come as one. stop ends the
// watch and may be called more than once. ctx bounds the call only: with Redis
// away, Watch waits for it until ctx ends.
func (h *Hub) Watch(ctx context.Context, channel, name string) (woken <-chan struct{}, stop func(), err error) {
	wake := make(chan struct{}, 1)
	stop, err = h.WatchWith(ctx, channel, name, wake)
	if err != nil {
		return nil, nil, err
	}
	return wake, stop, nil
}

// WatchWith is like Watch, but the caller brings the channel that is woken, which
// must have room for one value. The watches of several hubs can share one.
func (h *Hub) WatchWith(ctx context.Context, channel, name string, wake chan struct{}) (stop func(), err error) {
	c, t := h.join(channel, name, wake) //nolint:contextcheck // the connection outlives the call that opens it
	stop = sync.OnceFunc(func() { h.leave(t, name, wake) })
	select {
	case <-t.confirmed:
		return stop, nil
	case <-c.closed:
		err = errClosed
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	stop()
	return nil, fmt.Errorf("push: subscribe: %w", err)
}

func (h *Hub) join(channel, name string, wake chan struct{}) (*conn, *topic) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.conn
	if c == nil {
		c = &conn{
			hub:    h,
			pubsub: h.client.Subscribe(context.Background()), // connects at the first channel
			topics: make(map[string]*topic),
			kick:   make(chan struct{}, 1),
			closed: make(chan struct{}),
		}
		c.heard.Store(true) // nothing was asked yet
		h.conn = c
		go c.listen()
		go c.reconcile()
	}
	t := c.topics[channel]
	if t == nil {
		t = &topic{watchers: make(map[string]map[chan struct{}]struct{}), confirmed: make(chan struct{})}
		c.topics[channel] = t
	}
	if !t.asked {
		wakeUp(c.kick)
	}
	if t.watchers[name] == nil {
		t.watchers[name] = make(map[chan struct{}]struct{})
	}
	t.watchers[name][wake] = struct{}{}
	return c, t
}

func (h *Hub) leave(t *topic, name string, wake chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(t.watchers[name], wake)
	if len(t.watchers[name]) == 0 {
		delete(t.watchers, name)
	}
	if len(t.watchers) == 0 {
		t.idleSince = time.Now()
	}
}

// conn is one life of the connection. What changes in it is guarded by the hub's
// mutex, which is never held across a call to Redis: a hung server must not hold
// up those who only want to leave.
type conn struct {
	hub    *Hub
	pubsub *redis.PubSub // reconnects and subscribes again by itself; only reconcile replaces it
	topics map[string]*topic
	kick   chan struct{} // has room for one
	closed chan struct{}
	heard  atomic.Bool // something since the last ping
}

// topic is one channel of Redis and those who watch it.
type topic struct {
	watchers  map[string]map[chan struct{}]struct{} // by name
	asked     bool                                  // a SUBSCRIBE for it was sent on the present pubsub
	confirmed chan struct{}                         // closed when the server has confirmed it
	idleSince time.Time                             // valid without watchers
}

func (t *topic) isConfirmed() bool {
	select {
	case <-t.confirmed:
		return true
	default:
		return false
	}
}

func (t *topic) wakeAll() {
	for name := range t.watchers {
		t.wake(name)
	}
}

func (t *topic) wake(name string) {
	for w := range t.watchers[name] {
		wakeUp(w)
	}
}

func wakeUp(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it has a value waiting, which says the same
	}
}

// listen hands messages and confirmations out until the connection is closed
// for good.
//
// go-redis would do the reading with PubSub.Channel, in a goroutine of its own, and
// wake one more for its health check at each message. Somebody waits for that.
func (c *conn) listen() {
	failed := false
	for {
		pubsub := c.current()
		event, err := pubsub.Receive(context.Background())
		c.heard.Store(true) // after an error too: it is connected anew
		switch {
		case err == nil:
			c.handOut(event)
		case errors.Is(err, redis.ErrClosed) && pubsub != c.current(): // it was silent
		case errors.Is(err, redis.ErrClosed):
			c.end()
			return
		case failed:
			time.Sleep(retryAfter) // the next one connects anew
		}
		failed = err != nil
	}
}

// handOut hands a message or a confirmation out.
func (c *conn) handOut(event any) {
	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	switch e := event.(type) {
	case *redis.Message:
		switch t := c.topics[e.Channel]; {
		case t == nil:
		case e.Payload == "":
			t.wakeAll()
		default:
			t.wake(c.hub.nameIn(e.Payload, t))
		}
	case *redis.Subscription:
		t := c.topics[e.Channel]
		if t == nil || e.Kind != "subscribe" {
			break
		}
		if t.isConfirmed() {
			t.wakeAll() // a reconnection: what came in between is lost
		} else {
			close(t.confirmed)
		}
	}
}

// end wakes everybody, as there will be no more messages.
func (c *conn) end() {
	_ = c.current().Close() // where the client was closed
	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	if c.hub.conn == c {
		c.hub.conn = nil
	}
	close(c.closed)
	for _, t := range c.topics {
		t.wakeAll()
	}
}

// nameIn returns the name of those whom a message on t is for.
func (h *Hub) nameIn(message string, t *topic) string {
	if _, isName := t.watchers[message]; isName || h.told == nil {
		return message
	}
	return h.told(message)
}

// reconcile brings the server's subscriptions in line with the topics. It is
// one goroutine, so that SUBSCRIBE and UNSUBSCRIBE of a channel are sent in the
// order in which they were decided.
func (c *conn) reconcile() {
	tick := time.NewTicker(c.hub.linger)
	defer tick.Stop()
	for {
		check := false
		select {
		case <-c.closed:
			return
		case <-c.kick:
		case <-tick.C:
			check = true
		}
		add, drop, idle := c.plan(time.Now())
		if idle {
			_ = c.pubsub.Close() // fails only if it is closed already
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), c.hub.linger)
		if len(add) > 0 {
			// If it fails, the client has reconnected, but without these
			// channels, which it remembers only now. Once more sends them; if
			// that fails too, the next reconnection does. The confirmation
			// tells.
			if err := c.pubsub.Subscribe(ctx, add...); err != nil {
				_ = c.pubsub.Subscribe(ctx, add...)
			}
		}
		if len(drop) > 0 {
			_ = c.pubsub.Unsubscribe(ctx, drop...)
		}
		switch {
		case !check:
		case c.heard.Load():
			c.ping(ctx)
		default:
			c.replace()
		}
		cancel()
	}
}

// ping asks the server for an answer, which must have come before the next one.
func (c *conn) ping(ctx context.Context) {
	c.heard.Store(false)
	if err := c.pubsub.Ping(ctx); err != nil {
		c.heard.Store(true) // there is nothing to wait for: the client connects anew
	}
}

// replace subscribes to everything on another connection, as the server is silent
// on this one: the kernel takes pings for a host that is gone, or hangs, for a
// quarter of an hour, and the client, which finds the primary when it connects,
// stays. The confirmations wake the watchers as those of a reconnection do, also
// one who comes meanwhile and takes a late word of the old one for the new one's.
func (c *conn) replace() {
	silent, next := c.pubsub, c.hub.client.Subscribe(context.Background())
	c.hub.mu.Lock()
	c.pubsub = next
	for _, t := range c.topics {
		t.asked = false
	}
	c.hub.mu.Unlock()
	c.heard.Store(true) // nothing was asked yet
	_ = silent.Close()  // fails only if the client is closed
	wakeUp(c.kick)
}

// current returns the present pubsub to all but reconcile, which replaces it.
func (c *conn) current() *redis.PubSub {
	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	return c.pubsub
}

// plan decides what to subscribe to and what to give up, and whether nobody has
// watched anything for the linger time. In that case the conn is no longer the
// hub's.
//
// A topic whose subscription is not confirmed yet is given up much later. If it
// were at once, and somebody came back for the channel, the late confirmation of
// the first SUBSCRIBE would pass for that of the second.
func (c *conn) plan(now time.Time) (add, drop []string, idle bool) {
	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	idle = true
	for channel, t := range c.topics {
		var unwatched time.Duration
		if len(t.watchers) == 0 {
			unwatched = now.Sub(t.idleSince)
		}
		switch {
		case unwatched < c.hub.linger:
			idle = false
			if !t.asked {
				t.asked = true
				add = append(add, channel)
			}
		case t.isConfirmed() || unwatched >= unconfirmed*c.hub.linger:
			drop = append(drop, channel)
		}
	}
	if idle {
		c.hub.conn = nil
		return nil, nil, true
	}
	for _, channel := range drop {
		delete(c.topics, channel)
	}
	return add, drop, false
}
