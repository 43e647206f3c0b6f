package push

import "time"

// NewLingering returns a Hub whose subscriptions outlive their last watcher by
// linger.
func NewLingering(client Subscriber, linger time.Duration) *Hub {
	h := New(client)
	h.linger = linger
	return h
}
