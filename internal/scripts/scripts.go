// Package scripts brings the Lua scripts of a process to Redis: each by itself
// while there are few, and together while there are many.
package scripts

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// maxAlone is how many scripts may be under way each by itself. What comes
	// on top goes together. Fewer hold up two or four goroutines, more make
	// eight as slow as if nothing went together.
	maxAlone = 4
	// maxTogether is how many scripts make up a batch at most.
	maxTogether = 128
	// maxSenders is how many batches may be under way at a time. One does, and
	// fills best, as long as its connection is well.
	maxSenders = 4
	// stalled is after how long a batch holds up others no longer.
	stalled = 20 * time.Millisecond
	// maxForsaken is how many batches may be under way besides, for which nobody
	// waits any more: they hang, and end by the client's timeouts only.
	maxForsaken = 64
)

// Runner runs scripts. A few at a time go by themselves, from the goroutines that
// want them. If there are more they go in pipelines: while one is under way, what
// comes waits and makes up the next. Nobody waits for company.
//
// A pipeline costs Redis and this process little more than one script does. And a
// script that goes by itself costs less from the goroutine that wants it than from
// one of its own, which would wake another thread twice and grow its stack.
//
// A Runner is safe for concurrent use.
type Runner struct {
	client redis.Scripter
	// pipeline is nil where the scripts of a pipeline would go to several
	// servers, and the slowest would hold up all: on a Cluster, and on clients
	// that are not go-redis's own.
	pipeline func() redis.Pipeliner
	// obeys says that the client obeys the deadlines of contexts.
	obeys bool

	mu       sync.Mutex
	alone    int
	senders  int // without those that are forsaken
	forsaken int
	last     time.Time // when the last pipeline was sent
	waiting  []*errand
}

// errand is a script for a pipeline.
type errand struct {
	ctx    context.Context //nolint:containedctx // it stands for a call that waits
	script *redis.Script
	keys   []string
	args   []any
	cmd    *redis.Cmd    // the answer,
	done   chan struct{} // when this is closed
}

// New returns a Runner on client.
func New(client redis.Scripter) *Runner {
	r := &Runner{client: client}
	switch c := client.(type) {
	case *redis.Client:
		r.pipeline, r.obeys = c.Pipeline, c.Options().ContextTimeoutEnabled
	case *redis.ClusterClient:
		r.obeys = c.Options().ContextTimeoutEnabled
	}
	return r
}

// Run runs a script. It does not outlast the deadline of ctx, and an error then
// matches that of ctx. If ctx is cancelled before its deadline, a script that goes
// by itself is waited for all the same, for as long as the client's timeouts let
// it take.
func (r *Runner) Run(ctx context.Context, script *redis.Script, keys []string, args ...any) (any, error) {
	if err := Ended(ctx); err != nil {
		return nil, err
	}
	value, err := r.run(ctx, script, keys, args)
	if e := Ended(ctx); err != nil && e != nil && !errors.Is(err, e) {
		err = errors.Join(e, err)
	}
	return value, err
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

func (r *Runner) run(ctx context.Context, script *redis.Script, keys []string, args []any) (any, error) {
	if r.goAlone(ctx) {
		defer r.comeBack()
		return script.Run(ctx, r.client, keys, args...).Result()
	}
	e := &errand{ctx: ctx, script: script, keys: keys, args: args, done: make(chan struct{})}
	r.hand(e) //nolint:contextcheck // a pipeline lives as long as the last of those who wait for it
	select {
	case <-e.done:
		return e.cmd.Result()
	case <-ctx.Done(): // take leaves it then
		return nil, ctx.Err()
	}
}

// goAlone reports whether the caller may run its script itself, and is to call
// comeBack then. A client that would not obey a deadline must be left behind when
// it has come.
func (r *Runner) goAlone(ctx context.Context) bool {
	if _, deadline := ctx.Deadline(); deadline && !r.obeys {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pipeline != nil && r.alone == maxAlone {
		return false
	}
	r.alone++
	return true
}

func (r *Runner) comeBack() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alone--
}

// hand gives e to those who send, and sees to it that there is one.
func (r *Runner) hand(e *errand) {
	if r.pipeline == nil {
		go r.send(e.ctx, []*errand{e})
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = append(r.waiting, e)
	if r.senders == 0 || r.senders < maxSenders && time.Since(r.last) > stalled {
		r.beginToSend()
	}
}

// beginToSend is called with mu held.
func (r *Runner) beginToSend() {
	r.senders++
	r.last = time.Now()
	go r.sendAll()
}

// sendAll sends until nothing waits.
func (r *Runner) sendAll() {
	for {
		batch := r.take()
		if len(batch) == 0 {
			return
		}
		if !r.sendAsSender(batch) {
			return
		}
	}
}

// sendAsSender sends a batch and reports whether the sender still is one. It does
// not count as one from the moment when nobody waits for the batch any more: a
// client that does not obey deadlines may be at it for seconds, and four such
// batches would keep everything else from being sent.
func (r *Runner) sendAsSender(batch []*errand) bool {
	ctx, cancel := together(batch)
	defer cancel()
	const (
		counts = iota
		forsaken
		over
	)
	status := counts // guarded by mu
	stop := context.AfterFunc(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if status != counts || r.forsaken == maxForsaken {
			return
		}
		status = forsaken
		r.forsaken++
		r.senders--
		if len(r.waiting) > 0 {
			r.beginToSend()
		}
	})
	r.send(ctx, batch)
	stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	was := status
	status = over
	if was == counts {
		return true
	}
	r.forsaken--
	again := len(r.waiting) > 0 && r.senders < maxSenders
	if again {
		r.senders++
	}
	return again
}

// take returns what waits, for one pipeline. If nothing does, the sender is none
// any more. What nobody waits for any more is not sent: while Redis hung it came
// to be much.
func (r *Runner) take() []*errand {
	r.mu.Lock()
	defer r.mu.Unlock()
	var batch []*errand
	for len(r.waiting) > 0 && len(batch) < maxTogether {
		e := r.waiting[0]
		r.waiting[0] = nil
		r.waiting = r.waiting[1:]
		if Ended(e.ctx) == nil {
			batch = append(batch, e)
		}
	}
	if len(batch) == 0 {
		r.waiting = nil
		r.senders--
	}
	r.last = time.Now()
	return batch
}

// send sends a batch under ctx, which is what together returns.
func (r *Runner) send(ctx context.Context, batch []*errand) {
	if len(batch) == 1 {
		e := batch[0]
		e.cmd = e.script.Run(ctx, r.client, e.keys, e.args...)
		close(e.done)
		return
	}
	pipe := r.pipeline()
	for _, e := range batch {
		e.cmd = e.script.EvalSha(ctx, pipe, e.keys, e.args...)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for _, e := range batch {
		if redis.HasErrorPrefix(e.cmd.Err(), "NOSCRIPT") {
			e.cmd = e.script.Run(ctx, r.client, e.keys, e.args...)
		}
		close(e.done)
	}
}

// together returns a context that lives as long as anybody waits for the batch.
func together(batch []*errand) (context.Context, context.CancelFunc) {
	if len(batch) == 1 {
		return batch[0].ctx, func() {}
	}
	var latest time.Time
	for _, e := range batch {
		deadline, ok := e.ctx.Deadline()
		if !ok {
			return context.Background(), func() {}
		}
		if deadline.After(latest) {
			latest = deadline
		}
	}
	return context.WithDeadline(context.Background(), latest)
}
