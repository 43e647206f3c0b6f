package pipelining

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/herdless/herdless/internal/deadline"
	"github.com/redis/go-redis/v9"
)

const (
	// maxAlone is how many callers may be under way each by itself. What comes
	// on top goes together. Fewer hold up two or four goroutines, more make
	// eight as slow as if nothing went together.
	maxAlone = 4
	// crowd is of how many callers the pipelines under way are that let nobody go
	// alone beside them: then four that do cost as much as all the others. And it is
	// how many must wait for another pipeline to go beside the first. If fewer are
	// enough, eight goroutines wait for one another.
	crowd = 16
	// maxTogether is how many callers' commands make up a batch at most.
	maxTogether = 128
	// maxSenders is how many batches may be under way at a time. One does, and
	// fills best, as long as its connection is well and no crowd waits.
	maxSenders = 4
	// stalled is after how long a batch holds up others no longer.
	stalled = 20 * time.Millisecond
	// maxForsaken is how many batches may be under way besides, for which nobody
	// waits any more: they hang, and end by the client's timeouts only.
	maxForsaken = 64

	// bigRequest and bigReply are the bytes from which on commands go by
	// themselves. Of what is sent the size is known; of replies it is the
	// average of late.
	bigRequest = 16 << 10
	bigReply   = 16 << 10
)

// queue is what goes to one server. The nil queue is that of commands for several
// servers, which go by themselves.
type queue struct {
	client *Client

	mu       sync.Mutex
	alone    int
	senders  int // without those that are forsaken
	forsaken int
	last     time.Time // when the last batch was sent
	flying   int       // how many callers' commands are in batches under way,
	size     int       // and were when the last batch was sent
	waiting  list.List // of *errand
	watched  bool      // watch is to come
	reply    int       // the average size of late
}

// errand is what a caller waits for.
type errand struct {
	ctx  context.Context //nolint:containedctx // it stands for a call that waits
	cmds []redis.Cmder   // they have the answers,
	done chan struct{}   // when this brings something,
	hook error           // unless a hook panicked

	timer *time.Timer   // it is used again
	place *list.Element // in waiting, or where it was
	batch *batch        // nil while it waits; guarded by the queue's mu
}

// batch is what goes in one pipeline.
type batch struct {
	errands []*errand
	// ctx lives as long as anybody waits for the batch.
	ctx     context.Context //nolint:containedctx // it stands for the calls that wait
	cancel  context.CancelFunc
	awaited int // how many wait for it; guarded by the queue's mu
}

// goAlone reports whether the caller may run its commands itself, and is to call
// comeBack then.
func (q *queue) goAlone(anyway bool) bool {
	if q == nil {
		return true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	busy := q.alone >= maxAlone || q.senders > 0 && q.size >= crowd && time.Since(q.last) <= stalled
	if busy && !anyway && q.reply < bigReply {
		return false
	}
	q.alone++
	return true
}

func (q *queue) comeBack() {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.alone--
}

// heavy reports whether replies are big.
func (q *queue) heavy() bool {
	if q == nil {
		return true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.reply >= bigReply
}

// note notes the size of a caller's answers.
func (q *queue) note(cmds ...redis.Cmder) {
	if q != nil {
		q.noteSize(repliesOf(cmds))
	}
}

func (q *queue) noteSize(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.reply += (n - q.reply) / 8
}

func repliesOf(cmds []redis.Cmder) (n int) {
	for _, cmd := range cmds {
		switch c := cmd.(type) {
		case *redis.StringCmd:
			n += len(c.Val())
		case *redis.RawCmd:
			n += len(c.Val())
		case *redis.MapStringStringCmd:
			for field, value := range c.Val() {
				n += len(field) + len(value)
			}
		case *redis.Cmd:
			n += bytesIn(c.Val())
		}
	}
	return n
}

// bytesIn returns the size of a script's answer.
func bytesIn(answer any) (n int) {
	switch a := answer.(type) {
	case string:
		return len(a)
	case []any:
		for _, part := range a {
			n += bytesIn(part)
		}
	}
	return n
}

// send has commands sent with those of others and returns the first error of any,
// or errLeft.
func (q *queue) send(ctx context.Context, cmds ...redis.Cmder) error {
	e, ok := q.client.spare.Get().(*errand)
	if !ok {
		e = &errand{done: make(chan struct{}, 1)}
	}
	e.ctx, e.cmds = ctx, cmds
	q.hand(e)
	if !e.wait() {
		q.leave(e) // and whoever sends may have it still: it is not used again
		return errors.Join(errLeft, Ended(ctx))
	}
	hook := e.hook
	*e = errand{done: e.done, timer: e.timer}
	q.client.spare.Put(e)
	if hook != nil {
		panic(hook)
	}
	for _, cmd := range cmds {
		if err := cmd.Err(); err != nil {
			return err
		}
	}
	return nil
}

// wait waits until e is done, or its context ends. Most end in time, so that a context
// that has no timer of its own gets none here.
func (e *errand) wait() bool {
	until, ctx := deadline.Apart(e.ctx)
	var late <-chan time.Time
	if !until.IsZero() {
		left := time.Until(until)
		if e.timer == nil {
			e.timer = time.NewTimer(left)
		} else {
			e.timer.Reset(left)
		}
		defer e.timer.Stop()
		late = e.timer.C
	}
	select {
	case <-e.done:
		return true
	case <-late:
	case <-ctx.Done():
	}
	return false
}

// hand gives e to those who send, and sees to it that there is one.
func (q *queue) hand(e *errand) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e.place = q.waiting.PushBack(e)
	if !q.help() && !q.watched {
		q.watched = true
		time.AfterFunc(stalled, q.watch)
	}
}

// help begins to send if nobody does, if those who do have stalled, or if a crowd waits
// for them: then Redis has the next batch while this process takes in the one before. It
// is called with mu held.
func (q *queue) help() bool {
	stuck := time.Since(q.last) > stalled
	if q.senders > 0 && (q.senders >= maxSenders || q.waiting.Len() < crowd && !stuck) {
		return false
	}
	q.beginToSend(q.senders > 0 && !stuck)
	return true
}

// watch sees to it that what waits does not need anybody to come after it who
// notices that a sender has stalled.
func (q *queue) watch() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.watched = q.waiting.Len() > 0
	if q.watched {
		q.help()
		time.AfterFunc(stalled, q.watch)
	}
}

// leave is for a caller that waits no longer.
func (q *queue) leave(e *errand) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e.batch == nil {
		q.waiting.Remove(e.place) // take may have done it
		return
	}
	e.batch.awaited--
	if e.batch.awaited == 0 {
		e.batch.cancel()
	}
}

// beginToSend is called with mu held. A sender beside another one, which is well, has
// begun because of a crowd.
func (q *queue) beginToSend(beside bool) {
	q.senders++
	q.last = time.Now()
	least := 1
	if beside {
		least = crowd
	}
	go q.sendAll(least)
}

// sendAll sends as long as so many wait.
func (q *queue) sendAll(least int) {
	for {
		b := q.take(least)
		if b == nil || !q.sendAsSender(b) {
			return
		}
	}
}

// sendAsSender sends a batch and reports whether the sender still is one. It does
// not count as one from the moment when nobody waits for the batch any more: a
// client that does not obey deadlines may be at it for seconds, and four such
// batches would keep everything else from being sent.
func (q *queue) sendAsSender(b *batch) bool {
	defer b.cancel()
	const (
		counts = iota
		forsaken
		over
	)
	status := counts // guarded by mu
	stop := context.AfterFunc(b.ctx, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if status != counts || q.forsaken == maxForsaken {
			return
		}
		status = forsaken
		q.forsaken++
		q.senders--
		q.flying -= len(b.errands)
		if q.waiting.Len() > 0 {
			q.beginToSend(false)
		}
	})
	q.sendTogether(b)
	stop()
	q.mu.Lock()
	defer q.mu.Unlock()
	was := status
	status = over
	if was == counts {
		q.flying -= len(b.errands)
		return true
	}
	q.forsaken--
	again := q.waiting.Len() > 0 && q.senders < maxSenders
	if again {
		q.senders++
	}
	return again
}

// take returns what waits, for one pipeline. If nothing does, or less than least and
// others send, the sender is none any more. What nobody waits for any more is not sent:
// while Redis hung it came to be much.
func (q *queue) take(least int) *batch {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.senders > 1 && q.waiting.Len() < least {
		q.senders--
		return nil
	}
	q.last = time.Now()
	var errands []*errand
	for q.waiting.Len() > 0 && len(errands) < maxTogether {
		e := q.waiting.Remove(q.waiting.Front()).(*errand)
		if Ended(e.ctx) == nil {
			errands = append(errands, e)
		}
	}
	if len(errands) == 0 {
		q.senders--
		return nil
	}
	q.flying += len(errands)
	q.size = q.flying
	b := &batch{errands: errands, awaited: len(errands)}
	b.ctx, b.cancel = latest(errands)
	for _, e := range errands {
		e.batch = b
	}
	return b
}

func (q *queue) sendTogether(b *batch) {
	pipe := q.client.pipe()
	n := 0
	for _, e := range b.errands {
		n += len(e.cmds)
	}
	wrapped, cmds := make([]once, n), make([]redis.Cmder, 0, n)
	for _, e := range b.errands {
		for _, cmd := range e.cmds {
			w := &wrapped[len(cmds)]
			w.Cmder = cmd
			cmds = append(cmds, w)
		}
	}
	_ = pipe.BatchProcess(b.ctx, cmds...)                     // queues them
	hook := caught(func() { _ = q.client.exec(b.ctx, pipe) }) // each command has its own error
	size := 0
	for _, e := range b.errands {
		size += repliesOf(e.cmds)
	}
	q.noteSize(size / len(b.errands))
	for _, e := range b.errands {
		e.hook = hook
		e.done <- struct{}{} // it has room, and e is the caller's from here on
	}
}

// once is a command that go-redis does not try again, and neither the pipeline that
// it is in. A Cluster's redirections it follows.
type once struct {
	redis.Cmder
	answered bool
}

// NoRetry implements redis.Cmder.
func (*once) NoRetry() bool { return true }

// SetErr implements redis.Cmder. If a connection breaks, go-redis gives its error
// to all commands of a pipeline. Those before have their answers.
func (o *once) SetErr(err error) {
	if err != nil && o.answered && isOfTheNetwork(err) {
		return
	}
	o.answered = err == nil
	o.Cmder.SetErr(err)
}

// told returns err, which a pipeline of cmds ended with. A hook of go-redis may keep
// commands from Redis and tell only the pipeline. Then each of them is told.
func told(cmds []redis.Cmder, err error) error {
	if !slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool { return cmd.Err() != nil }) {
		for _, cmd := range cmds {
			cmd.SetErr(err)
		}
	}
	return err
}

// caught runs f and returns what it panicked with. A hook of go-redis panics in the
// goroutine of a caller otherwise, where a server of HTTP contains it.
func caught(f func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("pipelining: panic: %v\n\n%s", p, debug.Stack())
		}
	}()
	f()
	return nil
}

// latest returns a context with the last deadline of all. The values of contexts
// are lost if there are several: they are those of one caller.
func latest(errands []*errand) (context.Context, context.CancelFunc) {
	if len(errands) == 1 {
		return errands[0].ctx, func() {}
	}
	var last time.Time
	for _, e := range errands {
		deadline, ok := e.ctx.Deadline()
		if !ok {
			return context.WithCancel(context.Background())
		}
		if deadline.After(last) {
			last = deadline
		}
	}
	return context.WithDeadline(context.Background(), last)
}
