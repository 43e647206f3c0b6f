package cache

import (
	"sync"
)

// flights brings the callers of this process that miss the same key together.
type flights struct {
	mu    sync.Mutex
	byKey map[string]*flight
}

// flight is one attempt at one key. Its leader ends it exactly once.
type flight struct {
	done   chan struct{}
	entry  Entry // valid after done, if shared
	shared bool
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
	delete(fs.byKey, key)
	fs.mu.Unlock()
	close(f.done)
}
