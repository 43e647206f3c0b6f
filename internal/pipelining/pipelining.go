// Package pipelining brings the commands of many goroutines to Redis: each by
// itself while there are few, and together while there are many.
package pipelining

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/herdless/herdless/internal/deadline"
	"github.com/redis/go-redis/v9"
)

// pipeliner is what Pipelined needs of a go-redis client. Every
// redis.UniversalClient is one.
type pipeliner interface {
	Pipelined(ctx context.Context, fn func(redis.Pipeliner) error) ([]redis.Cmder, error)
}

// Client runs commands on a client of go-redis. A few at a time go by themselves,
// from the goroutines that want them. If there are more they go in pipelines:
// while one is under way, what comes waits and makes up the next, which goes at once
// if it is of a crowd. Nobody waits for company.
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
// What goes alone is waited for until the deadline, also if its context is cancelled
// before, as go-redis does while it waits for the answer: here also while it waits for a
// connection. It is not sent again then.
//
// A Client is safe for concurrent use.
type Client struct {
	base redis.Scripter
	// do runs a command on base. It is nil if base is of a program's own: that may do
	// something of its own with a script.
	do func(ctx context.Context, cmd redis.Cmder) error
	// pipeline is nil if nothing goes together.
	pipeline func() redis.Pipeliner
	cluster  *redis.ClusterClient // nil without a Cluster
	// obeys says that base obeys the deadlines of contexts.
	obeys bool
	// retries says that base tries again what failed.
	retries bool

	alarms  deadline.Alarms
	empty   sync.Pool // pipelines, which are empty when they have been executed
	spare   sync.Pool // errands that nobody waits for and nobody sends
	batches sync.Pool // that nobody sends
	only    *queue    // without a Cluster
	mu      sync.RWMutex
	masters map[string]*queue // of a Cluster, by address
	known   atomic.Bool       // the Cluster has told its masters, and is not asked before a command
	server  atomic.Int32      // what is known of it: see joins
}

// New returns a Client on base. With alone nothing goes together, and neither does
// it if base is no *redis.Client and no *redis.ClusterClient, or one that reads
// from replicas.
func New(base redis.Scripter, alone bool) *Client {
	c := &Client{base: base, masters: make(map[string]*queue)}
	switch b := base.(type) {
	case *redis.Client:
		o := b.Options()
		c.do, c.obeys, c.retries = b.Process, o.ContextTimeoutEnabled, o.MaxRetries > 0
		if !alone {
			c.pipeline = b.Pipeline
		}
	case *redis.ClusterClient:
		o := b.Options()
		c.do, c.obeys, c.retries = b.Process, o.ContextTimeoutEnabled, o.MaxRedirects > 0
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
	now := time.Now()
	if err := endedBy(ctx, now); err != nil {
		return nil, err
	}
	value, err := c.run(ctx, now, script, keys, args)
	return value, withEnd(ctx, err)
}

func (c *Client) run(ctx context.Context, now time.Time, script *redis.Script, keys []string, args []any) (any, error) {
	q, err := c.queueOf(ctx, keys)
	if err != nil {
		return nil, err
	}
	cmd := EvalSHA(ctx, script, keys, args)
	w, e := c.enter(ctx, q, now, bytesOf(args) > bigRequest, cmd)
	if w != together {
		return c.runSingly(ctx, w, q, cmd, script, keys, args)
	}
	err = q.await(e)
	if err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") {
		cmd = script.Eval(ctx, c.pipeline(), kept(keys), kept(args)...) // the pipeline goes nowhere
		err = q.send(ctx, cmd)
	}
	if Left(err) {
		return nil, err
	}
	if c.tryAgain(ctx, cmd) {
		w, _ = c.enter(ctx, q, now, true)
		return c.runSingly(ctx, w, q, EvalSHA(ctx, script, keys, args), script, keys, args)
	}
	return cmd.Result()
}

// runSingly runs a script in a way that is not together, by cmd if the server knows it.
func (c *Client) runSingly(ctx context.Context, w way, q *queue, cmd *redis.Cmd, script *redis.Script, keys []string, args []any) (any, error) {
	if w == alone {
		defer q.comeBack() // even if a hook of go-redis panics
		ctx, call := c.alarms.Lone(ctx)
		defer call.End()
		return c.runOne(ctx, q, cmd, script, keys, args)
	}
	k, a := kept(keys), kept(args)
	return orLeave(ctx, func(ctx context.Context) (any, error) { return c.runOne(ctx, q, cmd, script, k, a) })
}

// runOne and all before it keep no keys and args, which therefore need no memory of
// their own in most of those who call Run.
func (c *Client) runOne(ctx context.Context, q *queue, cmd *redis.Cmd, script *redis.Script, keys []string, args []any) (any, error) {
	if c.do == nil {
		cmd = script.Run(ctx, c.base, kept(keys), kept(args)...)
	} else if err := c.do(ctx, cmd); err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") {
		cmd = script.Eval(ctx, c.base, kept(keys), kept(args)...)
	}
	q.note(cmd)
	return cmd.Result()
}

// kept returns a copy. That of package slices may be what it is of.
func kept[T any](list []T) []T { return append([]T(nil), list...) }

// Process runs commands in one round trip, and those that go to one server in their
// order. Its error is the first of any command. If ctx ended before there was an
// answer, the commands may be under way still: Left tells, and nobody may look at
// them then. It needs a base that has a method Pipelined, as all clients of go-redis
// have.
func (c *Client) Process(ctx context.Context, cmds ...redis.Cmder) error {
	now := time.Now()
	if err := endedBy(ctx, now); err != nil {
		return errors.Join(errLeft, err)
	}
	return withEnd(ctx, c.process(ctx, now, cmds))
}

// Pipelined is Process of the commands that fn queues.
func (c *Client) Pipelined(ctx context.Context, fn func(redis.Pipeliner) error) error {
	if c.pipeline == nil {
		if err := Ended(ctx); err != nil {
			return errors.Join(errLeft, err)
		}
		return withEnd(ctx, c.plainly(ctx, c.only, fn))
	}
	made := c.pipeline() // which goes nowhere
	if err := fn(made); err != nil {
		return err
	}
	return c.Process(ctx, made.Cmds()...)
}

func (c *Client) process(ctx context.Context, now time.Time, cmds []redis.Cmder) error {
	if c.pipeline == nil {
		err := c.plainly(ctx, c.only, func(p redis.Pipeliner) error { return p.BatchProcess(ctx, cmds...) })
		if err == nil || Left(err) {
			return err
		}
		return told(cmds, err) // base may have sent nothing, and know of no commands
	}
	var keys []string
	var room [4]string
	if c.cluster != nil {
		keys = keysOf(cmds, room[:0])
	}
	q, err := c.queueOf(ctx, keys)
	if err != nil {
		return err
	}
	size := 0
	for _, cmd := range cmds {
		size += bytesOf(cmd.Args())
	}
	w, e := c.enter(ctx, q, now, size > bigRequest, cmds...)
	if w == together {
		err := q.await(e)
		if c.splits(err, cmds) {
			err = q.send(ctx, cmds...)
		}
		if Left(err) || !c.tryAgain(ctx, cmds...) {
			return err
		}
		w, _ = c.enter(ctx, q, now, true)
	}
	if w == alone {
		defer q.comeBack()
		ctx, call := c.alarms.Lone(ctx)
		defer call.End()
		return c.execFor(ctx, q, cmds)
	}
	_, err = orLeave(ctx, func(ctx context.Context) (any, error) { return nil, c.execFor(ctx, q, cmds) })
	return err
}

// tryAgain reports whether go-redis would try commands again that went together.
// They go by themselves then, so that nobody else's run twice: go-redis would run
// the whole pipeline again, also if a single answer of it is lost.
func (c *Client) tryAgain(ctx context.Context, cmds ...redis.Cmder) bool {
	if !c.retries {
		return false
	}
	for i, cmd := range cmds {
		err := cmd.Err()
		if err != nil && (isOfTheNetwork(err) || i == 0 && passes(err)) { // of answers go-redis looks at the first
			return Ended(ctx) == nil
		}
	}
	return false
}

// pipe returns an empty pipeline. Once it has been executed it belongs into
// c.empty.
func (c *Client) pipe() redis.Pipeliner {
	if p, ok := c.empty.Get().(redis.Pipeliner); ok {
		return p
	}
	return c.pipeline()
}

// execFor runs what one caller wants.
func (c *Client) execFor(ctx context.Context, q *queue, cmds []redis.Cmder) error {
	if len(cmds) == 1 {
		err := c.do(ctx, itself(cmds[0]))
		q.note(cmds...)
		return err
	}
	pipe := c.pipe()
	_ = pipe.BatchProcess(ctx, cmds...) // queues them
	err := c.exec(ctx, pipe)
	q.note(cmds...)
	return err
}

func (c *Client) exec(ctx context.Context, pipe redis.Pipeliner) error {
	cmds, err := pipe.Exec(ctx)
	c.empty.Put(pipe)
	return told(cmds, err)
}

// plainly has go-redis do it.
func (c *Client) plainly(ctx context.Context, q *queue, fn func(redis.Pipeliner) error) error {
	base, ok := c.base.(pipeliner)
	if !ok {
		return fmt.Errorf("pipelining: %T has no pipelines", c.base)
	}
	run := func(ctx context.Context) (any, error) {
		cmds, err := base.Pipelined(ctx, fn)
		return nil, told(cmds, err)
	}
	if w, _ := c.enter(ctx, q, time.Now(), true); w == alone {
		defer q.comeBack()
		ctx, call := c.alarms.Lone(ctx)
		defer call.End()
		_, err := run(ctx)
		return err
	}
	_, err := orLeave(ctx, run)
	return err
}

// enter says which way commands go. What is single cannot go together. If they go alone
// comeBack is due, and if they go together the errand waits already.
func (c *Client) enter(ctx context.Context, q *queue, now time.Time, single bool, cmds ...redis.Cmder) (way, *errand) {
	_, bounded := ctx.Deadline()
	stays := c.obeys || !bounded // what does not obey a deadline must be left behind when it has come
	switch {
	case q != nil:
		return q.enter(ctx, now, single || c.pipeline == nil, stays, cmds)
	case stays:
		return alone, nil
	}
	return leavable, nil
}

// orLeave runs f until ctx ends, and leaves it behind then.
func orLeave[T any](ctx context.Context, f func(context.Context) (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
		hook  error
	}
	done := make(chan answer, 1)
	go func() {
		var a answer
		a.hook = caught(func() { a.value, a.err = f(ctx) })
		done <- a
	}()
	select {
	case a := <-done:
		if a.hook != nil {
			panic(a.hook)
		}
		return a.value, a.err
	case <-ctx.Done():
		var none T
		return none, errors.Join(errLeft, ctx.Err())
	}
}

// queueOf returns the queue of the server that has all keys, or nil if there is not
// one.
func (c *Client) queueOf(ctx context.Context, keys []string) (*queue, error) {
	switch {
	case c.cluster == nil:
		return c.only, nil
	case c.obeys || c.known.Load():
		return c.toMaster(ctx, keys), nil
	}
	k := kept(keys)
	return orLeave(ctx, func(ctx context.Context) (*queue, error) {
		q := c.toMaster(ctx, k)
		if q != nil {
			c.known.Store(true)
		}
		return q, nil
	})
}

// toMaster returns the queue of the master that has all keys, or nil if there is
// not one.
func (c *Client) toMaster(ctx context.Context, keys []string) *queue {
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
	c.mu.RLock()
	q := c.masters[addr]
	c.mu.RUnlock()
	if q != nil {
		return q
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if q = c.masters[addr]; q == nil {
		q = &queue{client: c}
		c.masters[addr] = q
	}
	return q
}

// errLeft says that commands may be under way still.
var errLeft = errors.New("pipelining: the context ended before Redis answered")

// Left reports whether err, of Pipelined, means that the commands may be under way
// still, so that nobody may look at them.
func Left(err error) bool { return errors.Is(err, errLeft) }

// withEnd adds the error of ctx to err where go-redis has hidden it behind one of
// the network.
func withEnd(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if end := Ended(ctx); end != nil && !errors.Is(err, end) {
		return errors.Join(end, err)
	}
	return err
}

// Ended returns why ctx is over, or nil. A network timeout that was set from ctx's
// deadline can come a moment before ctx itself notices.
func Ended(ctx context.Context) error { return endedBy(ctx, time.Now()) }

func endedBy(ctx context.Context, now time.Time) error {
	until, rest := deadline.Apart(ctx)
	if err := rest.Err(); err != nil {
		return err
	}
	if until.IsZero() {
		until, _ = rest.Deadline()
	}
	if !until.IsZero() && !now.Before(until) {
		return context.DeadlineExceeded
	}
	return nil
}
