// Package redisclock tells the time of a Redis server without asking for it each time.
package redisclock

import (
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// Clock is the clock of a server as this process's own has gone on since it was asked
// last. Who reads a thing of which the server says when it ends need not ask how long it
// has left. What a wrong time would do harm to is for a script on the server.
//
// A Clock is safe for concurrent use. The nil Clock is of several servers, and never known.
type Clock struct {
	last atomic.Pointer[reading]
}

// reading is what the server has said, to who asked at the time sent of this process.
type reading struct{ server, sent time.Time }

const (
	// valid is how long a reading is good for. So long a server whose clock was set, or
	// another one that has taken over, is taken for the one before.
	valid = time.Second
	// Ahead is how far what a Clock says may be ahead: as long as an answer took. If one
	// takes longer, the server is asked each time.
	Ahead = 10 * time.Millisecond
)

// Of returns a Clock for the server behind client, or nil if there may be several.
func Of(client any) *Clock {
	if _, ok := client.(*redis.Client); ok {
		return &Clock{}
	}
	return nil
}

// At returns the server's time at the time now of this process. It may be ahead, but not
// behind. It reports false if the server is to be
// asked.
func (c *Clock) At(now time.Time) (time.Time, bool) {
	if c == nil {
		return time.Time{}, false
	}
	r := c.last.Load()
	if r == nil {
		return time.Time{}, false
	}
	passed := now.Sub(r.sent)
	return r.server.Add(passed), passed >= 0 && passed < valid
}

// Set notes what the server has said just now, to who asked at the time sent of this process.
func (c *Clock) Set(server, sent time.Time) {
	if time.Since(sent) <= Ahead {
		c.last.Store(&reading{server, sent})
	}
}
