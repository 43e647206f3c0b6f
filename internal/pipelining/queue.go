package pipelining

import (
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
	// crowd is how many callers at a time let nobody go alone, until there has been no
	// crowd for as long as stalled: four that do cost as much as all the others. And
	// it is how many must wait for another pipeline to go beside the first, and as many
	// as are under way: of two that are half as long each costs as much. If fewer are
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
	flying   int       // how many callers' commands are in batches under way
	crowded  time.Time // when those and all others here were a crowd last
	waiting  []*errand
	watched  bool // watch is to come
	reply    int  // the average size of late
}

// errand is what a caller waits for.
type errand struct {
	ctx  context.Context //nolint:containedctx // it stands for a call that waits
	cmds []redis.Cmder   // they have the answers,
	done chan struct{}   // when this brings something,
	hook error           // unless a hook panicked

	timer    *time.Timer // it is used again
	batch    *batch      // nil while it waits; guarded by the queue's mu
	answered bool        // done is to come; guarded by the queue's mu
}

// batch is what goes in one pipeline.
type batch struct {
	errands []*errand
	cmds    []redis.Cmder
	// ctx lives as long as anybody waits for the batch.
	ctx      context.Context //nolint:containedctx // it stands for the calls that wait
	cancel   context.CancelFunc
	awaited  int  // how many wait for it; guarded by the queue's mu
	forsaken bool // its sender is none any more; guarded by the queue's mu
}

// enter is Client.enter. Who stays need not leave before go-redis is through.
func (q *queue) enter(ctx context.Context, now time.Time, single, stays bool, cmds []redis.Cmder) (way, *errand) {
	q.mu.Lock()
	defer q.mu.Unlock()
	single = single || q.reply >= bigReply
	if q.alone+q.flying+len(q.waiting)+1 >= crowd {
		q.crowded = now
	}
	busy := q.alone >= maxAlone || now.Sub(q.crowded) <= stalled
	switch {
	case stays && (single || !busy):
		q.alone++
		return alone, nil
	case single:
		return leavable, nil
	}
	return together, q.add(ctx, now, cmds)
}

func (q *queue) comeBack() {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.alone--
}

// note notes the size of a caller's answers.
func (q *queue) note(cmds ...redis.Cmder) {
	if q == nil {
		return
	}
	n := repliesOf(cmds)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.noteSize(n)
}

// noteSize is called with mu held.
func (q *queue) noteSize(n int) { q.reply += (n - q.reply) / 8 }

// send has commands sent with those of others.
func (q *queue) send(ctx context.Context, cmds ...redis.Cmder) error {
	q.mu.Lock()
	e := q.add(ctx, time.Now(), cmds)
	q.mu.Unlock()
	return q.await(e)
}

// add has commands sent, and sees to it that somebody does. It is called with mu held.
func (q *queue) add(ctx context.Context, now time.Time, cmds []redis.Cmder) *errand {
	e, ok := q.client.spare.Get().(*errand)
	if !ok {
		e = &errand{done: make(chan struct{}, 1)}
	}
	e.ctx, e.cmds = ctx, append(e.cmds, cmds...)
	q.waiting = append(q.waiting, e)
	if !q.help(now) && !q.watched {
		q.watched = true
		time.AfterFunc(stalled, q.watch)
	}
	return e
}

// await waits for e, and returns the first error of its commands, or errLeft.
func (q *queue) await(e *errand) error {
	if !e.wait() {
		if q.leave(e) { // and whoever sends may have it still: it is not used again
			return errors.Join(errLeft, Ended(e.ctx))
		}
		<-e.done
	}
	hook := e.hook
	var err error
	for _, cmd := range e.cmds {
		if err == nil {
			err = cmd.Err()
		}
	}
	clear(e.cmds)
	*e = errand{done: e.done, timer: e.timer, cmds: e.cmds[:0]}
	q.client.spare.Put(e)
	if hook != nil {
		panic(hook)
	}
	return err
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

// leave is for a caller that waits no longer. It reports false if e is done.
func (q *queue) leave(e *errand) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch b := e.batch; {
	case e.answered:
		return false
	case b != nil:
		b.awaited--
		if b.awaited == 0 {
			b.cancel()
			q.forsake(b)
		}
	default:
		if i := slices.Index(q.waiting, e); i >= 0 { // take may have done it
			q.waiting = slices.Delete(q.waiting, i, i+1)
		}
	}
	return true
}

// forsake is for a batch for which nobody waits any more. Its sender does not count as
// one from that moment: a client that does not obey deadlines may be at it for seconds,
// and four such batches would keep everything else from being sent. It is called with
// mu held.
func (q *queue) forsake(b *batch) {
	if q.forsaken == maxForsaken {
		return
	}
	b.forsaken = true
	q.forsaken++
	q.senders--
	q.flying -= len(b.errands)
	if len(q.waiting) > 0 {
		q.beginToSend(false)
	}
}

// help begins to send if nobody does, if those who do have stalled, or if a crowd waits
// for them, and as many as they have under way: then Redis has the next batch while this
// process takes in the one before. It is called with mu held.
func (q *queue) help(now time.Time) bool {
	stuck := now.Sub(q.last) > stalled
	if q.senders > 0 && (q.senders >= maxSenders || len(q.waiting) < max(crowd, q.flying) && !stuck) {
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
	q.watched = len(q.waiting) > 0
	if q.watched {
		q.help(time.Now())
		time.AfterFunc(stalled, q.watch)
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
		if b == nil {
			return
		}
		hook := q.sendTogether(b)
		if !q.finish(b, hook) {
			return
		}
	}
}

// take returns what waits, for one pipeline. If nothing does, or less than least and
// others send, the sender is none any more. What nobody waits for any more is not sent:
// while Redis hung it came to be much.
func (q *queue) take(least int) *batch {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.senders > 1 && len(q.waiting) < least {
		q.senders--
		return nil
	}
	q.last = now
	b, ok := q.client.batches.Get().(*batch)
	if !ok {
		b = &batch{}
	}
	n := 0
	for n < len(q.waiting) && len(b.errands) < maxTogether {
		e := q.waiting[n]
		n++
		if endedBy(e.ctx, now) == nil {
			e.batch = b
			b.errands = append(b.errands, e)
		}
	}
	q.waiting = slices.Delete(q.waiting, 0, n)
	if len(b.errands) == 0 {
		q.client.batches.Put(b)
		q.senders--
		return nil
	}
	b.awaited = len(b.errands)
	b.ctx, b.cancel = latest(b.errands)
	q.flying += b.awaited
	return b
}

// finish tells those who wait for b, and reports whether its sender still is one, or is
// one again.
func (q *queue) finish(b *batch, hook error) bool {
	size := 0
	for _, e := range b.errands {
		e.hook = hook
		size += repliesOf(e.cmds)
	}
	q.mu.Lock()
	q.noteSize(size / len(b.errands))
	for _, e := range b.errands {
		e.answered = true
	}
	goOn := true
	if b.forsaken {
		q.forsaken--
		goOn = len(q.waiting) > 0 && q.senders < maxSenders
		if goOn {
			q.senders++
		}
	} else {
		q.flying -= len(b.errands)
	}
	q.mu.Unlock()
	for _, e := range b.errands {
		e.done <- struct{}{} // it has room, and e is the caller's from here on
	}
	b.cancel()
	clear(b.errands)
	clear(b.cmds)
	*b = batch{errands: b.errands[:0], cmds: b.cmds[:0]}
	q.client.batches.Put(b)
	return goOn
}

// sendTogether sends b and returns what a hook of go-redis panicked with.
func (q *queue) sendTogether(b *batch) error {
	n := 0
	for _, e := range b.errands {
		n += len(e.cmds)
	}
	wrapped := make([]once, n) // a hook may keep them
	for _, e := range b.errands {
		for _, cmd := range e.cmds {
			w := &wrapped[len(b.cmds)]
			w.Cmder = cmd
			b.cmds = append(b.cmds, w)
		}
	}
	pipe := q.client.pipe()
	_ = pipe.BatchProcess(b.ctx, b.cmds...)                  // queues them
	return caught(func() { _ = q.client.exec(b.ctx, pipe) }) // each command has its own error
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
		until, ok := e.ctx.Deadline()
		if !ok {
			return context.WithCancel(context.Background())
		}
		if until.After(last) {
			last = until
		}
	}
	return context.WithDeadline(context.Background(), last)
}
