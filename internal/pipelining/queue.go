package pipelining

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// maxAlone is how many callers may be under way each by itself. What comes
	// on top goes together. Fewer hold up two or four goroutines, more make
	// eight as slow as if nothing went together.
	maxAlone = 4
	// maxTogether is how many callers' commands make up a batch at most.
	maxTogether = 128
	// maxSenders is how many batches may be under way at a time. One does, and
	// fills best, as long as its connection is well.
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
	waiting  []*errand
	reply    int // the average size of late
}

// errand is what a caller waits for.
type errand struct {
	ctx  context.Context //nolint:containedctx // it stands for a call that waits
	cmds []redis.Cmder   // they have the answers,
	done chan struct{}   // when this is closed
}

// goAlone reports whether the caller may run its commands itself, and is to call
// comeBack then.
func (q *queue) goAlone(anyway bool) bool {
	if q == nil {
		return true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !anyway && q.alone >= maxAlone && q.reply < bigReply {
		return false
	}
	q.alone++
	return true
}

// comeBack is told the commands that went.
func (q *queue) comeBack(cmds ...redis.Cmder) {
	if q == nil {
		return
	}
	size := repliesOf(cmds)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.alone--
	q.note(size)
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

// note is called with mu held.
func (q *queue) note(reply int) { q.reply += (reply - q.reply) / 8 }

func repliesOf(cmds []redis.Cmder) (n int) {
	for _, cmd := range cmds {
		switch c := cmd.(type) {
		case *redis.StringCmd:
			n += len(c.Val())
		case *redis.Cmd:
			if s, ok := c.Val().(string); ok {
				n += len(s)
			}
		}
	}
	return n
}

// send has commands sent with those of others and returns the first error of any,
// or errLeft.
func (q *queue) send(ctx context.Context, cmds ...redis.Cmder) error {
	e := &errand{ctx: ctx, cmds: cmds, done: make(chan struct{})}
	q.hand(e) //nolint:contextcheck // a pipeline lives as long as the last of those who wait for it
	select {
	case <-e.done:
	case <-ctx.Done(): // take leaves it then
		return errors.Join(errLeft, ctx.Err())
	}
	for _, cmd := range cmds {
		if err := cmd.Err(); err != nil {
			return err
		}
	}
	return nil
}

// hand gives e to those who send, and sees to it that there is one.
func (q *queue) hand(e *errand) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, e)
	if q.senders == 0 || q.senders < maxSenders && time.Since(q.last) > stalled {
		q.beginToSend()
	}
}

// beginToSend is called with mu held.
func (q *queue) beginToSend() {
	q.senders++
	q.last = time.Now()
	go q.sendAll()
}

// sendAll sends until nothing waits.
func (q *queue) sendAll() {
	for {
		batch := q.take()
		if len(batch) == 0 {
			return
		}
		if !q.sendAsSender(batch) {
			return
		}
	}
}

// sendAsSender sends a batch and reports whether the sender still is one. It does
// not count as one from the moment when nobody waits for the batch any more: a
// client that does not obey deadlines may be at it for seconds, and four such
// batches would keep everything else from being sent.
func (q *queue) sendAsSender(batch []*errand) bool {
	ctx, cancel := latest(batch)
	defer cancel()
	const (
		counts = iota
		forsaken
		over
	)
	status := counts // guarded by mu
	stop := context.AfterFunc(ctx, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if status != counts || q.forsaken == maxForsaken {
			return
		}
		status = forsaken
		q.forsaken++
		q.senders--
		if len(q.waiting) > 0 {
			q.beginToSend()
		}
	})
	q.sendTogether(ctx, batch)
	stop()
	q.mu.Lock()
	defer q.mu.Unlock()
	was := status
	status = over
	if was == counts {
		return true
	}
	q.forsaken--
	again := len(q.waiting) > 0 && q.senders < maxSenders
	if again {
		q.senders++
	}
	return again
}

// take returns what waits, for one pipeline. If nothing does, the sender is none
// any more. What nobody waits for any more is not sent: while Redis hung it came
// to be much.
func (q *queue) take() []*errand {
	q.mu.Lock()
	defer q.mu.Unlock()
	var batch []*errand
	for len(q.waiting) > 0 && len(batch) < maxTogether {
		e := q.waiting[0]
		q.waiting[0] = nil
		q.waiting = q.waiting[1:]
		if Ended(e.ctx) == nil {
			batch = append(batch, e)
		}
	}
	if len(batch) == 0 {
		q.waiting = nil
		q.senders--
	}
	q.last = time.Now()
	return batch
}

// sendTogether sends a batch under ctx, which is what latest returns.
func (q *queue) sendTogether(ctx context.Context, batch []*errand) {
	pipe := q.client.pipe()
	for _, e := range batch {
		_ = pipe.BatchProcess(ctx, e.cmds...) // queues them
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	q.client.empty.Put(pipe)
	size := 0
	for _, e := range batch {
		size += repliesOf(e.cmds)
	}
	q.mu.Lock()
	q.note(size / len(batch))
	q.mu.Unlock()
	for _, e := range batch {
		close(e.done)
	}
}

// latest returns a context that lives as long as anybody waits for the batch.
func latest(batch []*errand) (context.Context, context.CancelFunc) {
	if len(batch) == 1 {
		return batch[0].ctx, func() {}
	}
	var last time.Time
	for _, e := range batch {
		deadline, ok := e.ctx.Deadline()
		if !ok {
			return context.Background(), func() {}
		}
		if deadline.After(last) {
			last = deadline
		}
	}
	return context.WithDeadline(context.Background(), last)
}
