package rediscache

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/herdless/herdless/internal/push"
	"github.com/redis/go-redis/v9"
)

// feed keeps the purge log and the tier of this process right while entries are
// read, by two means. Messages tell within milliseconds what has happened. And
// several times within the bound Redis is asked for the present epoch: if the
// messages have come up to it, none was lost until the question was sent.
//
// It runs from the first read until there has been none for linger, or until the
// client is closed.
type feed struct {
	client   push.Subscriber
	log      *purgeLog
	tier     *tier
	standing *standing
	bound    time.Duration
	linger   time.Duration
	base     time.Time                                           // what times are counted from
	sync     func(ctx context.Context) (epoch uint64, err error) // brings the log up to date

	running   atomic.Bool
	confirmed atomic.Int64 // until when nothing was missed, since base; zero: never
	lastRead  atomic.Int64 // since base

	taking    sync.Mutex // held before mu, so that nothing is taken twice
	mu        sync.Mutex
	life      *life
	notBefore time.Duration // since base: do not start again earlier
}

// life is one run of a feed. It is guarded by the feed's mutex.
type life struct {
	pubsub     *redis.PubSub
	subscribed bool      // the server has confirmed it
	since      time.Time // when it has, or when it was asked to
	again      bool      // the subscription was closed to be replaced
	over       bool

	pos     uint64 // messages have come up to this epoch
	anew    bool   // but some may have been lost, as the subscription is new
	missing uint64 // the epoch up to which messages were missing at the last sync
	asked   time.Time
	gap     bool // a message was lost

	kick  chan struct{} // sync at once; has room for one
	ended chan struct{}
}

const (
	defaultLinger = 30 * time.Second
	// subscribing is how long a subscription may take before it is tried anew.
	subscribing = 3 * time.Second
)

func (f *feed) now() time.Duration { return time.Since(f.base) }

// fresh reports that the tier and the log have missed nothing that happened
// longer ago than the bound.
func (f *feed) fresh() bool { return f.freshAt(f.now()) }

func (f *feed) freshAt(now time.Duration) bool {
	confirmed := f.confirmed.Load()
	return confirmed > 0 && now-time.Duration(confirmed) < f.bound
}

// touch notes that somebody reads now.
func (f *feed) touch(now time.Duration) {
	// All processors write to this, so seldom.
	if now-time.Duration(f.lastRead.Load()) > f.linger/8 {
		f.lastRead.Store(int64(now))
	}
	if !f.running.Load() {
		f.start()
	}
}

func (f *feed) start() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.running.Load() || f.now() < f.notBefore {
		return
	}
	f.lastRead.Store(int64(f.now()))
	f.running.Store(true)
	l := &life{kick: make(chan struct{}, 1), ended: make(chan struct{})}
	f.life = l
	go f.run(l)
	go f.ask(l)
}

// run listens until the life is over.
func (f *feed) run(l *life) {
	for f.listen(l) {
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	l.over = true
	close(l.ended)
	f.life = nil
	if f.confirmed.Swap(0) > 0 {
		f.standing.clear()
	}
	f.tier.clear()
	f.notBefore = f.now() + f.bound/10 // or a closed client would keep a goroutine busy
	f.running.Store(false)
}

// listen subscribes and hears what is told until the subscription is closed. It
// reports whether it is to be replaced. Otherwise the client was closed, or nobody
// reads any more.
func (f *feed) listen(l *life) bool {
	pubsub := f.client.Subscribe(context.Background()) // connects at the first channel
	f.mu.Lock()
	if l.over {
		f.mu.Unlock()
		_ = pubsub.Close()
		return false
	}
	l.pubsub, l.subscribed, l.again, l.since = pubsub, false, false, time.Now()
	f.mu.Unlock()
	// If it fails, the client remembers the channel for when it has reconnected.
	_ = pubsub.Subscribe(context.Background(), f.log.channel)
	for event := range pubsub.ChannelWithSubscriptions() {
		switch e := event.(type) {
		case *redis.Subscription:
			if e.Kind == "subscribe" {
				f.mu.Lock()
				l.subscribed, l.anew, l.since = true, true, time.Now()
				f.mu.Unlock()
				l.wake()
			}
		case *redis.Message:
			n, err := parseNews(e.Payload)
			if err != nil {
				continue // the next one, or the next sync, notices the gap
			}
			f.take(n, false)
		}
	}
	_ = pubsub.Close() // where the client was closed: ends the health check
	f.mu.Lock()
	defer f.mu.Unlock()
	return l.again && !l.over
}

func (l *life) wake() {
	select {
	case l.kick <- struct{}{}:
	default: // it has a value waiting, which says the same
	}
}

// take does what n says to the log and the tier, unless it has been done. What
// this process does itself is taken when Redis has answered, and may come as a
// message before or after that.
func (f *feed) take(n news, own bool) {
	f.taking.Lock()
	defer f.taking.Unlock()
	f.log.add(n)
	f.standing.hear(n)
	if f.taken(n) {
		return
	}
	for _, key := range n.keys {
		f.tier.drop(key)
	}
	f.advance(n, own)
}

// taken reports that n has been taken, or that the tier was emptied since.
func (f *feed) taken(n news) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.life != nil && n.epoch <= f.life.pos
}

// advance notes that n was taken.
func (f *feed) advance(n news, own bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.life
	switch {
	case l == nil || l.over || n.epoch <= l.pos:
	case n.before == l.pos:
		l.pos = n.epoch
		if l.missing > 0 && l.pos >= l.missing {
			f.confirm(l, l.asked)
		}
	case !own && !l.anew: // what comes before an own one may be on its way
		l.gap = true
		l.wake()
	}
}

// confirm is called with mu held.
func (f *feed) confirm(l *life, asked time.Time) {
	l.missing, l.gap = 0, false
	f.confirmed.Store(max(f.confirmed.Load(), int64(asked.Sub(f.base))))
}

// ask asks for the epoch until the life ends, and ends it if nobody reads.
func (f *feed) ask(l *life) {
	tick := time.NewTicker(f.bound * 2 / 5)
	defer tick.Stop()
	for {
		select {
		case <-l.ended:
			return
		case <-l.kick:
		case <-tick.C:
		}
		if f.now()-time.Duration(f.lastRead.Load()) > f.linger {
			f.end(l)
			continue
		}
		if !f.ready(l) {
			continue
		}
		asked := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), max(f.bound, time.Second))
		epoch, err := f.sync(ctx)
		cancel()
		switch {
		case err == nil:
			f.answered(l, asked, epoch)
		case errors.Is(err, redis.ErrClosed):
			// If it was closed while the subscription was connecting, only
			// this ends that.
			f.end(l)
		}
	}
}

// end closes the subscription for good.
func (f *feed) end(l *life) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l.over = true
	if l.pubsub != nil {
		_ = l.pubsub.Close() // fails only if it is closed already
	}
}

// ready reports that there is a subscription. If there is none after a while, it
// is tried anew: if it failed to be sent, only the client knows of it.
func (f *feed) ready(l *life) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !l.subscribed && l.pubsub != nil && time.Since(l.since) > subscribing {
		f.resubscribe(l)
	}
	return l.subscribed
}

// resubscribe is called with mu held.
func (f *feed) resubscribe(l *life) {
	l.again = true
	_ = l.pubsub.Close()
}

// answered compares the epoch in Redis with the messages that have come.
//
// If some are missing they may be on their way. If they still are at the next
// sync, they are lost, and with them the keys that they named: the tier is
// emptied, and begins anew at the epoch of this answer. What happened after that
// is told by messages, or missing at the next sync. A subscription that loses
// messages is replaced; it may hang without being closed.
func (f *feed) answered(l *life, asked time.Time, epoch uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	lost := l.gap || l.missing > 0 && l.pos < l.missing
	switch {
	case l.over || asked.Before(l.since): // of what came after that some may be lost
		return
	case l.pos >= epoch:
	case l.anew || lost:
		f.tier.clear()
		if f.confirmed.Load() > 0 {
			f.standing.clear()
		}
		l.pos = epoch
		if !l.anew {
			f.resubscribe(l)
		}
	default:
		l.missing, l.asked = epoch, asked
		return
	}
	l.anew = false
	f.confirm(l, asked)
}
