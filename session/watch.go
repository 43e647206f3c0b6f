package session

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// Context returns a context that ends, with the cause ErrGone, when the session
// does: when it is destroyed or revoked, on whichever server, or its time is over.
// It is for connections that stay open, such as websockets and streams of events.
// It ends within a second, mostly within milliseconds; while the store cannot be
// asked it goes on, but never beyond the absolute end that the session has at the
// call. A session that is not stored has none: the context then ends with ctx only.
//
// The session is not kept alive by it. Call stop when the connection is closed.
// Each session with open connections costs the store some 1.7 commands a second,
// however many connections it has.
func (s *Session) Context(ctx context.Context) (ended context.Context, stop context.CancelFunc, err error) {
	if err := s.lock(ctx, false); err != nil {
		return nil, nil, err
	}
	defer s.mu.Unlock()
	inner, cancel := context.WithCancelCause(ctx)
	if s.destroyed {
		cancel(ErrGone)
		return inner, func() {}, nil
	}
	if !s.stored {
		return inner, func() { cancel(context.Canceled) }, nil
	}
	leave := s.m.watcher.join(s.token.id, cancel)
	end := time.AfterFunc(s.rec.EndsIn-time.Since(s.readAt), func() { cancel(ErrGone) })
	stop = func() {
		end.Stop()
		leave()
		cancel(context.Canceled)
	}
	context.AfterFunc(inner, stop)
	return inner, stop, nil
}

const (
	// lookEvery is how often the store is asked whether the sessions that are
	// watched are still there, because a message may be lost.
	lookEvery = 600 * time.Millisecond
	// atOnce bounds how many sessions one question is about.
	atOnce = 1000
	// watchTimeout bounds how long one attempt to watch takes.
	watchTimeout = 5 * time.Second
)

// watcher ends the contexts of sessions that are over. Its goroutine runs while
// there are any.
type watcher struct {
	store *guarded

	mu      sync.Mutex
	watched map[string]*watched
	due     []string      // those that the store has told to look at
	woken   chan struct{} // there are some due
	idle    chan struct{} // closed when the last one has left; nil without goroutine
}

// watched is a session that contexts depend on.
type watched struct {
	cancels map[int]context.CancelCauseFunc
	next    int
	stop    context.CancelFunc // of the watch in the store
}

func newWatcher(store *guarded) *watcher {
	return &watcher{store: store, watched: make(map[string]*watched), woken: make(chan struct{}, 1)}
}

func (w *watcher) count() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.watched {
		n += len(d.cancels)
	}
	return n
}

// join calls cancel when the session called id has ended, until leave is called.
func (w *watcher) join(id string, cancel context.CancelCauseFunc) (leave func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.watched[id]
	if d == nil {
		ctx, stop := context.WithCancel(context.Background())
		d = &watched{cancels: make(map[int]context.CancelCauseFunc), stop: stop}
		w.watched[id] = d
		go w.watch(ctx, id)
	}
	n := d.next
	d.next++
	d.cancels[n] = cancel
	if w.idle == nil {
		w.idle = make(chan struct{})
		go w.run(w.idle)
	}
	return sync.OnceFunc(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(d.cancels, n)
		if len(d.cancels) == 0 && w.watched[id] == d {
			w.drop(id, d)
		}
	})
}

// drop ends the watch of a session. w.mu is locked.
func (w *watcher) drop(id string, d *watched) {
	d.stop()
	delete(w.watched, id)
	if len(w.watched) == 0 {
		close(w.idle)
		w.idle, w.due = nil, nil
	}
}

// watch has the store tell of the session until ctx ends.
func (w *watcher) watch(ctx context.Context, id string) {
	woken := make(chan struct{}, 1)
	for ctx.Err() == nil {
		var stop func()
		w.store.contained(ctx, func() {
			attempt, cancel := context.WithTimeout(ctx, watchTimeout)
			defer cancel()
			if s, err := w.store.store.Watch(attempt, id, woken); err == nil {
				stop = s
			}
		})
		if stop != nil {
			defer stop()
			break
		}
		select {
		case <-time.After(lookEvery):
		case <-ctx.Done():
		}
	}
	if ctx.Err() == nil {
		w.lookSoon(id) // it may have ended before the watch began
	}
	for {
		select {
		case <-woken:
			w.lookSoon(id)
		case <-ctx.Done():
			return
		}
	}
}

// lookSoon has run look at the session called id, together with others that it
// is told of at the same time.
func (w *watcher) lookSoon(id string) {
	w.mu.Lock()
	w.due = append(w.due, id)
	w.mu.Unlock()
	select {
	case w.woken <- struct{}{}:
	default: // it has not begun with those that are due
	}
}

// run looks after the sessions until there are none: now and then after all, and
// at once after those that the store tells of.
func (w *watcher) run(idle chan struct{}) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		all := false
		select {
		case <-idle:
			return
		case <-tick.C:
			all = true
		case <-w.woken:
		}
		w.mu.Lock()
		ids := w.due
		w.due = nil
		if all {
			ids = slices.Collect(maps.Keys(w.watched))
		}
		w.mu.Unlock()
		for len(ids) > 0 {
			n := min(len(ids), atOnce)
			w.store.contained(context.Background(), func() { w.look(context.Background(), ids[:n]) })
			ids = ids[n:]
		}
	}
}

// look ends the contexts of those of the sessions that are over.
func (w *watcher) look(ctx context.Context, ids []string) {
	alive, err := w.store.Alive(ctx, ids)
	if err != nil || len(alive) != len(ids) {
		return // the next time
	}
	var cancels []context.CancelCauseFunc
	w.mu.Lock()
	for i, id := range ids {
		if d := w.watched[id]; d != nil && !alive[i] {
			for _, cancel := range d.cancels {
				cancels = append(cancels, cancel)
			}
			w.drop(id, d)
		}
	}
	w.mu.Unlock()
	for _, cancel := range cancels {
		cancel(ErrGone)
	}
}
