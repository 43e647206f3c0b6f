package sessiontest_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/sessiontest"
)

var cart = session.NewKey[[]string]("cart")

// A test of a page for who is logged in and has something in the cart.
func ExampleRequest() {
	t := &testing.T{} // a test is given its own

	sessions, _ := session.New(session.NewMemoryStore(), nil)
	page := sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, _ := session.FromContext(r.Context()).User(r.Context())
		items, _ := cart.Get(r.Context())
		fmt.Fprintln(w, user, "buys", items)
	}))

	r := sessiontest.Request(t, sessions, httptest.NewRequest(http.MethodGet, "/cart", nil),
		func(ctx context.Context, s *session.Session) error {
			return errors.Join(s.Login(ctx, "alice"), cart.Set(ctx, []string{"a book"}))
		})
	w := httptest.NewRecorder()
	page.ServeHTTP(w, r)
	fmt.Print(w.Body)
	// Output: alice buys [a book]
}

// A session that ends because nobody uses it, without waiting. With
// testing/synctest in place of a Clock, time.Sleep does the same.
func ExampleClock() {
	t := &testing.T{} // a test is given its own

	var clock sessiontest.Clock
	sessions, _ := session.New(session.NewMemoryStoreWithClock(clock.Now), &session.Options{IdleTimeout: 30 * time.Minute})
	r := sessiontest.Request(t, sessions, httptest.NewRequest(http.MethodGet, "/", nil),
		func(ctx context.Context, s *session.Session) error { return s.Login(ctx, "alice") })

	for range 2 {
		user, _ := sessions.Load(r).User(r.Context())
		fmt.Printf("%q\n", user)
		clock.Advance(30 * time.Minute)
	}
	// Output:
	// "alice"
	// ""
}
