package sessiontest

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/herdless/herdless/session"
)

// Request returns a copy of r that comes from a client with a session of m, for
// tests of handlers. do makes the session what it is to be, by Login, Set and so
// on, with a ctx in which typed Keys find it; what it does is saved in m's store. If
// r has a session already, do changes that one. The token goes where m looks for it,
// in the cookie or in the field of Options.Header. An error ends the test.
func Request(t testing.TB, m *session.Manager, r *http.Request, do func(ctx context.Context, s *session.Session) error) *http.Request {
	t.Helper()
	s, said := m.Load(r), http.Header{}
	ctx := session.NewContext(r.Context(), s)
	err := do(ctx, s)
	if err == nil {
		err = m.Commit(ctx, s, said)
	}
	if err != nil {
		t.Fatalf("sessiontest: the session of the request: %v", err)
	}
	r = r.Clone(r.Context())
	// A response that depends on the session says which field it looked at.
	switch field := said.Get("Vary"); field {
	case "Cookie":
		for _, set := range (&http.Response{Header: said}).Cookies() {
			kept := r.Cookies()
			r.Header.Del("Cookie")
			for _, c := range kept {
				if c.Name != set.Name {
					r.AddCookie(c)
				}
			}
			if set.MaxAge >= 0 {
				r.AddCookie(set)
			}
		}
	case "Authorization":
		put(r, field, "Bearer ", said["Session-Token"])
	default:
		put(r, field, "", said[field])
	}
	return r
}

// put sets the field to a new token, if there is one, or removes it if it is empty.
func put(r *http.Request, field, scheme string, token []string) {
	switch {
	case len(token) == 0: // the client keeps what it has
	case token[0] == "":
		r.Header.Del(field)
	default:
		r.Header.Set(field, scheme+token[0])
	}
}

// Clock stands still until it is advanced. With session.NewMemoryStoreWithClock
// sessions end when a test says so:
//
//	var clock sessiontest.Clock
//	store := session.NewMemoryStoreWithClock(clock.Now)
//
// The zero Clock is ready for use, and begins at an arbitrary time. It is safe for
// concurrent use.
type Clock struct {
	mu     sync.Mutex
	passed time.Duration
}

var beginning = time.Date(2000, time.January, 1, 0, 0, 0, 0, time.UTC)

// Now returns the time that the clock shows.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return beginning.Add(c.passed)
}

// Advance moves the clock on by d. It panics if d is negative.
func (c *Clock) Advance(d time.Duration) {
	if d < 0 {
		panic("sessiontest: a Clock does not go back")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.passed += d
}
