package push

import "time"

// NewLingering returns a Hub whose subscriptions outlive their last watcher by
// linger.
func NewLingering(client Subscriber, linger time.Duration) *Hub {
	h := New(client)
	h.linger = linger
	return h
}

// Topics returns how many channels h remembers.
func (h *Hub) Topics() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn == nil {
		return 0
	}
	return len(h.conn.topics)
}
