package cache

import "sync"

// flights brings the callers of this process that ask for the same key at the
// same time together: one of them deals with the store, for all.
type flights struct {
	mu    sync.Mutex
	byKey map[string]*flight
}

// flight is one attempt at one key. Its leader ends it exactly once.
type flight struct {
	key  string
	done chan struct{}

	// Valid after done. Without shared, those who waited start over.
	shared bool
	found  finding
}

// finding is what the leader of a flight has found.
type finding struct {
	entry Entry
	hit   bool // it was in the store
	// asOf is the number of the last caller that may have it. Whoever asked
	// later may have asked after a purge that the entry is older than.
	asOf uint64
}

// join returns the flight of key, a new one if there is none. Whoever gets a
// new one leads it, and must end it.
func (fs *flights) join(key string) (f *flight, leads bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f, ok := fs.byKey[key]; ok {
		return f, false
	}
	if fs.byKey == nil {
		fs.byKey = make(map[string]*flight)
	}
	f = &flight{key: key, done: make(chan struct{})}
	fs.byKey[key] = f
	return f, true
}

// end takes the flight off and lets those who wait for it go on, with what was
// found if it is worth sharing. Only the first call counts.
func (fs *flights) end(f *flight, found finding) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.byKey[f.key] != f {
		return
	}
	delete(fs.byKey, f.key)
	f.found, f.shared = found, found.entry.TTL > 0
	close(f.done)
}
