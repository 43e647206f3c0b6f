package lock

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// lines are where those wait who want the same lease in the same process. One of
// them asks the store, and only he costs it anything. A lease that is released
// can be handed on within the line, without the store.
//
// A line has a baton, which one asker has, or a lease that was acquired by one:
// they will say when it is the next one's turn to ask. A line exists as long as
// somebody has its baton.
type lines struct {
	mu sync.Mutex
	m  map[lineKey]*list.List // of *waiter; the one in front comes next
}

// lineKey says what leases are as good as each other.
type lineKey struct {
	name  string
	ttl   time.Duration
	limit int
}

// waiter stands in a line.
type waiter struct {
	parent context.Context // of the lease that it gets
	turn   chan turn       // has room for one
	place  *list.Element
}

// turn ends a waiter's standing in line.
type turn struct {
	lease *Lease // handed on; or
	err   error  // the store is at fault; or neither: it is up to the waiter to ask,

	place   *watch        // which was done for it, if it has a place in the store's queue,
	heldFor time.Duration // and was told this, if it is not 0
}

// enter returns nil if nobody has the baton: the caller has it now. Otherwise it
// returns a waiter at the end of the line.
func (l *lines) enter(key lineKey, parent context.Context) *waiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	line, ok := l.m[key]
	if !ok {
		l.m[key] = new(list.List)
		return nil
	}
	w := &waiter{parent: parent, turn: make(chan turn, 1)}
	w.place = line.PushBack(w)
	return w
}

// leave takes w out of the line and reports whether it still stood there. If not,
// its turn has come.
func (l *lines) leave(key lineKey, w *waiter) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	line, ok := l.m[key]
	if !ok {
		return false
	}
	before := line.Len()
	line.Remove(w.place) // does nothing if it is not in this list
	return line.Len() < before
}

// next hands the baton on. The one who has it calls this.
func (l *lines) next(key lineKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.front(key); w != nil {
		w.turn <- turn{}
		return
	}
	delete(l.m, key)
}

// fail hands a fault of the store to all who wait, and ends the line. The one who
// has the baton calls this: each of them would ask the same store in turn.
func (l *lines) fail(key lineKey, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for w := l.front(key); w != nil; w = l.front(key) {
		w.turn <- turn{err: err}
	}
	delete(l.m, key)
}

// waits reports whether anybody stands in the line.
func (l *lines) waits(key lineKey) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	line, ok := l.m[key]
	return ok && line.Len() > 0
}

// take takes the next out of the line, who must be given its turn, or returns nil.
func (l *lines) take(key lineKey) *waiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.front(key)
}

// handOn gives the next in line, if there is one, the lease that make returns.
func (l *lines) handOn(key lineKey, make func(parent context.Context) *Lease) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.front(key)
	if w == nil {
		return false
	}
	w.turn <- turn{lease: make(w.parent)}
	return true
}

func (l *lines) front(key lineKey) *waiter {
	line, ok := l.m[key]
	if !ok || line.Len() == 0 {
		return nil
	}
	return line.Remove(line.Front()).(*waiter)
}
