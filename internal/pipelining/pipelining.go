// Package pipelining brings the commands of many goroutines to Redis: each by
// itself while there are few, and together while there are many.
package pipelining

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// pipeliner is what Pipelined needs of a go-redis client. Every
// redis.UniversalClient is one.
type pipeliner interface {
	Pipelined(ctx context.Context, fn func(redis.Pipeliner) error) ([]redis.Cmder, error)
}

// Client runs commands on a client of go-redis. A few at a time go by themselves,
// from the goroutines that want them. If there are more they go in pipelines:
// while one is under way, what comes waits and makes up the next. Nobody waits for
// company.
//
// A pipeline costs Redis and this process little more than one command does. And a
// command that goes by itself costs less from the goroutine that wants it than
// from one of its own, which would wake another thread twice and grow its stack.
//
// On a Cluster those go together that go to the same master, so that nobody waits
// for the slowest. What sends much, or gets much, goes by itself: others would wait
// for its bytes.
//
// Nobody waits beyond the deadline of its context, in a pipeline or not, whether
// the go-redis client obeys deadlines or not.
//
// A Client is safe for concurrent use.
type Client struct {
	base redis.Scripter
	// pipeline is nil if nothing goes together.
	pipeline func() redis.Pipeliner
	cluster  *redis.ClusterClient // nil without a Cluster
	// obeys says that base obeys the deadlines of contexts.
	obeys bool

	empty   sync.Pool // pipelines, which are empty when they have been executed
	only    *queue    // without a Cluster
	mu      sync.Mutex
	masters map[string]*queue // of a Cluster, by address
}

// New returns a Client on base. With alone nothing goes together, and neither does
// it if base is no *redis.Client and no *redis.ClusterClient, or one that reads
// from replicas.
func New(base redis.Scripter, alone bool) *Client {
	c := &Client{base: base, masters: make(map[string]*queue)}
	switch b := base.(type) {
	case *redis.Client:
		c.obeys = b.Options().ContextTimeoutEnabled
		if !alone {
			c.pipeline = b.Pipeline
		}
	case *redis.ClusterClient:
		o := b.Options()
		c.obeys = o.ContextTimeoutEnabled
		if !alone && !o.ReadOnly && !o.RouteByLatency && !o.RouteRandomly {
			c.pipeline, c.cluster = b.Pipeline, b
		}
	}
	c.only = &queue{client: c}
	return c
}

// Run runs a script and returns its answer. An error matches that of ctx if ctx has
// ended. If ctx is cancelled before its deadline, a script that goes by itself is
// waited for all the same, for as long as the timeouts of go-redis let it take.
func (c *Client) Run(ctx context.Context, script *redis.Script, keys []string, args ...any) (any, error) {
	if err := Ended(ctx); err != nil {
		return nil, err
	}
	value, err := c.run(ctx, script, keys, args)
	return value, withEnd(ctx, err)
}

func (c *Client) run(ctx context.Context, script *redis.Script, keys []string, args []any) (any, error) {
	q := c.only
	if c.cluster != nil {
		q = c.toMaster(ctx, keys...)
	}
	big := bytesOf(args) > bigRequest
	switch c.way(ctx, q, big) {
	case alone:
		cmd := script.Run(ctx, c.base, keys, args...)
		q.comeBack(cmd)
		return cmd.Result()
	case leavable:
		return c.leavable(ctx, func(ctx context.Context) (any, error) {
			return script.Run(ctx, c.base, keys, args...).Result()
		})
	}
	made := c.pipe()
	cmd := script.EvalSha(ctx, made, keys, args...)
	if err := q.send(ctx, cmd); errors.Is(err, errLeft) {
		return nil, err
	}
	if redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
		cmd = script.Eval(ctx, made, keys, args...)
		if err := q.send(ctx, cmd); errors.Is(err, errLeft) {
			return nil, err
		}
	}
	return cmd.Result()
}

// Pipelined runs the commands that fn queues, in one round trip, and those that go
// to one server in their order. Its error is the first of any command. If ctx ended
// before there was an answer, the commands may be under way still: Left tells, and
// nobody may look at them then. It needs a base that has a method Pipelined, as all
// clients of go-redis have.
func (c *Client) Pipelined(ctx context.Context, fn func(redis.Pipeliner) error) error {
	if err := Ended(ctx); err != nil {
		return errors.Join(errLeft, err)
	}
	return withEnd(ctx, c.pipelined(ctx, fn))
}

func (c *Client) pipelined(ctx context.Context, fn func(redis.Pipeliner) error) error {
	if c.pipeline == nil {
		return c.plainly(ctx, c.only, fn)
	}
	made := c.pipe()
	if err := fn(made); err != nil {
		return err
	}
	cmds := made.Cmds()
	q, size := c.only, 0
	if c.cluster != nil {
		q = c.toMaster(ctx, keysOf(cmds)...)
	}
	for _, cmd := range cmds {
		size += bytesOf(cmd.Args())
	}
	switch c.way(ctx, q, size > bigRequest) {
	case alone:
		_, err := made.Exec(ctx)
		c.empty.Put(made)
		q.comeBack(cmds...)
		return err
	case leavable:
		_, err := c.leavable(ctx, func(ctx context.Context) (any, error) { return made.Exec(ctx) })
		return err
	}
	return q.send(ctx, cmds...)
}

// pipe returns an empty pipeline. Once it has been executed it belongs into
// c.empty.
func (c *Client) pipe() redis.Pipeliner {
	if p, ok := c.empty.Get().(redis.Pipeliner); ok {
		return p
	}
	return c.pipeline()
}

// plainly has go-redis do it.
func (c *Client) plainly(ctx context.Context, q *queue, fn func(redis.Pipeliner) error) error {
	base, ok := c.base.(pipeliner)
	if !ok {
		return fmt.Errorf("pipelining: %T has no pipelines", c.base)
	}
	if c.way(ctx, q, false) == alone {
		_, err := base.Pipelined(ctx, fn)
		q.comeBack()
		return err
	}
	_, err := c.leavable(ctx, func(ctx context.Context) (any, error) { return base.Pipelined(ctx, fn) })
	return err
}

// A way for commands to get to Redis.
type way int

const (
	alone    way = iota // from the goroutine that wants them; its comeBack is due
	leavable            // from a goroutine of their own
	together
)

// way says how commands are to go. What would not obey a deadline must be left
// behind when it has come.
func (c *Client) way(ctx context.Context, q *queue, big bool) way {
	_, deadline := ctx.Deadline()
	obeys := c.obeys || !deadline
	single := c.pipeline == nil || q == nil || big
	switch {
	case obeys && q.goAlone(single):
		return alone
	case single || q.heavy():
		return leavable
	}
	return together
}

// leavable runs f until ctx ends, and leaves it behind then.
func (*Client) leavable(ctx context.Context, f func(context.Context) (any, error)) (any, error) {
	type answer struct {
		value any
		err   error
	}
	done := make(chan answer, 1)
	go func() {
		value, err := f(ctx)
		done <- answer{value, err}
	}()
	select {
	case a := <-done:
		return a.value, a.err
	case <-ctx.Done():
		return nil, errors.Join(errLeft, ctx.Err())
	}
}

// toMaster returns the queue of the master that has all keys, or nil if there is
// not one.
func (c *Client) toMaster(ctx context.Context, keys ...string) *queue {
	var addr string
	for i, key := range keys {
		master, err := c.cluster.MasterForKey(ctx, key)
		if err != nil {
			return nil // by itself it is tried again
		}
		switch at := master.Options().Addr; {
		case i == 0:
			addr = at
		case at != addr:
			return nil
		}
	}
	if addr == "" {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.masters[addr]
	if q == nil {
		q = &queue{client: c}
		c.masters[addr] = q
	}
	return q
}

// keysOf returns the first key of each command, and none if one has no such.
func keysOf(cmds []redis.Cmder) []string {
	keys := make([]string, len(cmds))
	for i, cmd := range cmds {
		at := 1
		switch cmd.Name() {
		case "eval", "evalsha", "eval_ro", "evalsha_ro":
			at = 3
		}
		args := cmd.Args()
		if at >= len(args) {
			return nil
		}
		key, ok := args[at].(string)
		if !ok {
			return nil
		}
		keys[i] = key
	}
	return keys
}

func bytesOf(args []any) (n int) {
	for _, arg := range args {
		switch a := arg.(type) {
		case string:
			n += len(a)
		case []byte:
			n += len(a)
		}
	}
	return n
}

// errLeft says that commands may be under way still.
var errLeft = errors.New("pipelining: the context ended before Redis answered")

// Left reports whether err, of Pipelined, means that the commands may be under way
// still, so that nobody may look at them.
func Left(err error) bool { return errors.Is(err, errLeft) }

// withEnd adds the error of ctx to err where go-redis has hidden it behind one of
// the network.
func withEnd(ctx context.Context, err error) error {
	if end := Ended(ctx); err != nil && end != nil && !errors.Is(err, end) {
		return errors.Join(end, err)
	}
	return err
}

// Ended returns why ctx is over, or nil. A network timeout that was set from ctx's
// deadline can come a moment before ctx itself notices.
func Ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return nil
}
