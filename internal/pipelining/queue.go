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

// maxForsaken is how many batches may be under way besides, for which nobody waits any
// more: they hang, and end by the client's timeouts only.
const maxForsaken = 64

// queue is what goes to one server. The nil queue is that of commands for several
// servers, which go by themselves.
type queue struct {
	client *Client

	mu       sync.Mutex
	seam     seam
	waiting  []*errand
	forsaken int
	watched  bool // watch is to come
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
	joints  []joint
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
	if w := q.seam.choose(now, len(q.waiting), single, stays); w != together {
		return w, nil
	}
	return together, q.add(ctx, now, cmds)
}

// comeBack is for a caller that went alone.
func (q *queue) comeBack() {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.seam.alone--
}

// note notes the size of a caller's answers.
func (q *queue) note(cmds ...redis.Cmder) {
	if q == nil {
		return
	}
	n := repliesOf(cmds)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.seam.note(n)
}

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
	q.seam.senders--
	q.seam.flying -= len(b.errands)
	if len(q.waiting) > 0 {
		q.beginToSend(1)
	}
}

// help begins to send if that is called for. It is called with mu held.
func (q *queue) help(now time.Time) bool {
	begins, least := q.seam.another(now, len(q.waiting))
	if begins {
		q.beginToSend(least)
	}
	return begins
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

// beginToSend has a sender begin that sends as long as so many wait. It is called with mu
// held.
func (q *queue) beginToSend(least int) {
	q.seam.senders++
	q.seam.last = time.Now()
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

// take returns what waits, for one pipeline. If nothing does, or too little while
// others send, the sender is none any more. What nobody waits for any more is not sent:
// while Redis hung it came to be much.
func (q *queue) take(least int) *batch {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.seam.goesOn(len(q.waiting), least) {
		q.seam.senders--
		return nil
	}
	q.seam.last = now
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
		q.seam.senders--
		return nil
	}
	b.awaited = len(b.errands)
	b.ctx, b.cancel = latest(b.errands)
	q.seam.flying += b.awaited
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
	q.seam.note(size / len(b.errands))
	for _, e := range b.errands {
		e.answered = true
	}
	goOn := true
	if b.forsaken {
		q.forsaken--
		goOn = len(q.waiting) > 0 && q.seam.senders < maxSenders
		if goOn {
			q.seam.senders++
		}
	} else {
		q.seam.flying -= len(b.errands)
	}
	q.mu.Unlock()
	for _, e := range b.errands {
		e.done <- struct{}{} // it has room, and e is the caller's from here on
	}
	b.cancel()
	clear(b.errands)
	clear(b.cmds)
	clear(b.joints)
	*b = batch{errands: b.errands[:0], cmds: b.cmds[:0], joints: b.joints[:0]}
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
	add := func(cmd redis.Cmder) {
		w := &wrapped[len(b.cmds)]
		w.Cmder = cmd
		b.cmds = append(b.cmds, w)
	}
	for _, e := range b.errands {
		if b.join(q.client, e) {
			continue
		}
		for _, cmd := range e.cmds {
			add(itself(cmd))
		}
	}
	for i := range b.joints {
		add(b.joints[i].command(b.ctx))
	}
	pipe := q.client.pipe()
	_ = pipe.BatchProcess(b.ctx, b.cmds...)                       // queues them
	panicked := caught(func() { _ = q.client.exec(b.ctx, pipe) }) // commands have their errors
	for i := range b.joints {
		b.joints[i].distribute()
	}
	return panicked
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
