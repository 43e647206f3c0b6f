// Package ttlmap holds a map whose entries end by themselves. The in-process
// stores of the features are built on it.
package ttlmap

import (
	"container/heap"
	"time"
)

// Map is a map from K to V in which every entry has a time to live. It starts
// no goroutine: each Set also removes a few entries whose time is over, so that
// the map holds at most as many dead entries as live ones in the long run.
//
// A Map is not safe for concurrent use. The stores guard it with a mutex of
// their own, because a whole step of theirs must be atomic and not a single
// access.
type Map[K comparable, V any] struct {
	now     func() time.Time
	removed func(key K, value V) // or nil
	items   map[K]*item[K, V]
	queue   queue[K, V]
}

// item is an entry of the map and of the queue of endings.
type item[K comparable, V any] struct {
	key   K
	value V
	ends  time.Time
	index int // in the queue
}

// New returns an empty Map.
func New[K comparable, V any]() *Map[K, V] { return NewWithClock[K, V](time.Now) }

// NewWithClock returns an empty Map that goes by the clock now.
func NewWithClock[K comparable, V any](now func() time.Time) *Map[K, V] {
	return &Map[K, V]{now: now, items: make(map[K]*item[K, V])}
}

// OnRemove has f called with every entry that goes, because its time is over or
// by Delete, but not with a value that Set replaces. It must come before the
// first Set, and f must not use the Map.
func (m *Map[K, V]) OnRemove(f func(key K, value V)) { m.removed = f }

// Get returns the live entry of key and the time that it has left.
func (m *Map[K, V]) Get(key K) (value V, left time.Duration, ok bool) {
	it, ok := m.items[key]
	if !ok {
		return value, 0, false
	}
	left = it.ends.Sub(m.now())
	if left <= 0 {
		return value, 0, false
	}
	return it.value, left, true
}

// Find returns the entry of key, also if its time is over and it has not been removed
// yet. It is for who knows better, and does not look at the clock.
func (m *Map[K, V]) Find(key K) (value V, ok bool) {
	it, ok := m.items[key]
	if !ok {
		return value, false
	}
	return it.value, true
}

// Set stores value under key for ttl. A ttl that is not positive deletes.
func (m *Map[K, V]) Set(key K, value V, ttl time.Duration) {
	m.sweep()
	if ttl <= 0 {
		m.Delete(key)
		return
	}
	ends := m.now().Add(ttl)
	if it, ok := m.items[key]; ok {
		it.value, it.ends = value, ends
		heap.Fix(&m.queue, it.index)
		return
	}
	it := &item[K, V]{key: key, value: value, ends: ends}
	m.items[key] = it
	heap.Push(&m.queue, it)
}

// Delete removes the entry of key and reports whether there was a live one.
func (m *Map[K, V]) Delete(key K) bool {
	it, ok := m.items[key]
	if !ok {
		return false
	}
	m.remove(it)
	return it.ends.Sub(m.now()) > 0
}

// DropFirst removes the entry that ends first, dead or alive, and reports whether there was
// one. It is for who bounds the map.
func (m *Map[K, V]) DropFirst() bool {
	if len(m.queue) == 0 {
		return false
	}
	m.remove(m.queue[0])
	return true
}

// Len returns how many entries the map holds, dead ones that no Set has removed
// yet included.
func (m *Map[K, V]) Len() int { return len(m.items) }

// Sweep removes all entries whose time is over.
func (m *Map[K, V]) Sweep() {
	now := m.now()
	for len(m.queue) > 0 && !now.Before(m.queue[0].ends) {
		m.remove(m.queue[0])
	}
}

// sweepAtOnce bounds the work that one Set does for others. Two is enough for
// the dead never to pile up: a Set adds one entry at most.
const sweepAtOnce = 2

func (m *Map[K, V]) sweep() {
	now := m.now()
	for range sweepAtOnce {
		if len(m.queue) == 0 || now.Before(m.queue[0].ends) {
			return
		}
		m.remove(m.queue[0])
	}
}

func (m *Map[K, V]) remove(it *item[K, V]) {
	heap.Remove(&m.queue, it.index)
	delete(m.items, it.key)
	if m.removed != nil {
		m.removed(it.key, it.value)
	}
}

// queue is a heap of entries, the one that ends first on top.
type queue[K comparable, V any] []*item[K, V]

func (q queue[K, V]) Len() int           { return len(q) }
func (q queue[K, V]) Less(i, j int) bool { return q[i].ends.Before(q[j].ends) }
func (q queue[K, V]) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push adds x, as package heap asks for it.
func (q *queue[K, V]) Push(x any) {
	it := x.(*item[K, V])
	it.index = len(*q)
	*q = append(*q, it)
}

// Pop removes the last element, as package heap asks for it.
func (q *queue[K, V]) Pop() any {
	old := *q
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return it
}
