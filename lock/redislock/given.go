package redislock

import (
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/herdless/herdless/lock"
)

// given are the leases that those who wait have been given by give.lua, and not asked
// for yet.
type given struct {
	mu      sync.Mutex
	waiters map[string]*givenTo // by owner, while it watches
}

// givenTo is what is known of one who waits.
type givenTo struct {
	asked time.Time // when it asked for the place that it has,
	place time.Duration
	kept  int64 // and when that ends, in ms of the server's clock; 0 without a place

	token uint64 // that it has been told; 0 for none
	until int64  // when the lease with it ends, in ms of the server's clock
}

// await has messages for owner kept until the function that it returns is called.
func (g *given) await(owner string) (over func()) {
	w := new(givenTo)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiters[owner] = w
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.waiters[owner] == w {
			delete(g.waiters, owner)
		}
	}
}

// answered notes the answer to req, which was sent at asked: it has a place, or the
// lease. Of several places the one that ends last counts, as it stands in Redis.
func (g *given) answered(req lock.Request, asked time.Time, a acquired) {
	if !req.Give {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch w := g.waiters[req.Owner]; {
	case w == nil:
	case a.granted: // it has a token that is larger than that of a message
		w.kept = 0
	case a.kept > w.kept:
		w.asked, w.place, w.kept = asked, req.Place, a.kept
	}
}

// told notes a message of give.lua, and returns whom it is for. Any other message is an
// owner.
func (g *given) told(message string) (owner string) {
	rest, until, ok := cutNumber(message)
	owner, token, ok2 := cutNumber(rest)
	if !ok || !ok2 {
		return message
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if w := g.waiters[owner]; w != nil {
		w.token, w.until = uint64(token), until
	}
	return owner
}

// cutNumber cuts the number off that s ends with, and the space before it.
func cutNumber(s string) (before string, number int64, ok bool) {
	i := strings.LastIndexByte(s, ' ')
	if i < 0 {
		return s, 0, false
	}
	number, err := strconv.ParseInt(s[i+1:], 10, 64)
	return s[:i], number, err == nil
}

// take returns the lease that req's owner has been given, once.
//
// The lease ends when the place would have, and that lasts from some instant after it
// was asked for. So it does not matter when the message was sent, nor how long it took.
// One that is of an earlier place is not taken: see give.lua. Nor is one that may be
// over.
func (g *given) take(req lock.Request) (grant lock.Grant, ok bool) {
	if !req.Give {
		return lock.Grant{}, false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	w := g.waiters[req.Owner]
	if w == nil || w.token == 0 {
		return lock.Grant{}, false
	}
	token := w.token
	w.token = 0
	if w.until != w.kept || time.Since(w.asked) >= w.place {
		return lock.Grant{}, false
	}
	return lock.Grant{Acquired: true, Token: token, Since: w.asked, TTL: w.place}, true
}
