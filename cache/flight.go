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
	done chan struct{}
	// Valid after done. Without shared, those who waited start over.
	shared bool
	entry  Entry
	hit    bool // it was in the store
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
	f = &flight{done: make(chan struct{})}
	fs.byKey[key] = f
	return f, true
}

// end takes the flight off and lets those who wait for it go on.
func (fs *flights) end(key string, f *flight) {
	fs.mu.Lock()
	if fs.byKey[key] == f {
		delete(fs.byKey, key)
	}
	fs.mu.Unlock()
	close(f.done)
}

// part lets nobody else join the flight of key, if there is one.
func (fs *flights) part(key string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	delete(fs.byKey, key)
}
