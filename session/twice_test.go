package session_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/herdless/herdless/session"
	"github.com/stretchr/testify/assert"
)

// echo is a Store behind a network that loses the first answer to every change,
// so that the client repeats the command.
type echo struct{ session.Store }

func twice[T any](do func() (T, error)) (T, error) {
	if first, err := do(); err != nil {
		return first, err
	}
	return do()
}

func (e echo) Commit(ctx context.Context, d session.Delta) (session.Result, error) {
	return twice(func() (session.Result, error) { return e.Store.Commit(ctx, d) })
}

func (e echo) Take(ctx context.Context, id string, d session.Digest, taker string, hold time.Duration) (session.Record, error) {
	return twice(func() (session.Record, error) { return e.Store.Take(ctx, id, d, taker, hold) })
}

func (e echo) Delete(ctx context.Context, id string) (bool, error) {
	return twice(func() (bool, error) { return e.Store.Delete(ctx, id) })
}

// A command whose answer is lost arrives twice. Nobody notices.
func TestEveryCommandArrivesTwice(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		s := newSite(t, echo{store}, &session.Options{MaxPerUser: 1, RenewEvery: time.Nanosecond})
		s.handle("/add", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
			sum, err := sess.Add(r.Context(), "n", 1)
			assert.NoError(t, err)
			return sess.Set(r.Context(), "sum", fmt.Sprint(sum))
		})
		b := s.browser()
		b.ok("/set?name=cart&value=book")
		b.ok("/login?user=alice")
		assert.Equal(t, "book", b.ok("/get?name=cart"), "the login must have taken the cart along")
		b.ok("/login?user=alice")
		b.ok("/renew")
		b.ok("/add")
		b.ok("/add")
		assert.Equal(t, "2", b.ok("/get?name=sum"))
		assert.Equal(t, "alice", b.ok("/user"))

		other := s.browser()
		other.ok("/set?name=cart&value=pen")
		assert.Equal(t, http.StatusConflict, other.get("/login?user=alice").StatusCode)
		assert.Equal(t, "pen", other.ok("/get?name=cart"), "a login that was refused must take nothing away")
		b.ok("/logout")
		other.ok("/login?user=alice")
		assert.Equal(t, "pen", other.ok("/get?name=cart"))
	})
}
