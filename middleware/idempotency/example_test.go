package idempotency_test

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/herdless/herdless/middleware/idempotency"
)

// A payment that is sent twice is made once. In a program with sessions the scope
// is the session's user; here it is a field that an outer handler has checked.
func Example() {
	byClient := func(r *http.Request) (string, error) { return r.Header.Get("X-Client"), nil }
	once, err := idempotency.New(idempotency.NewMemoryStore(), byClient, 24*time.Hour, nil)
	if err != nil {
		log.Fatal(err)
	}
	payments := 0
	pay := once.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if idempotency.Attempt(r.Context()) > 1 {
			// A server has died in the middle: find out what it has done.
			log.Print("looking for a payment that may have been made")
		}
		payments++
		fmt.Fprintf(w, "payment %d", payments)
	}))

	for range 2 {
		r := httptest.NewRequest(http.MethodPost, "/payments", strings.NewReader("amount=5"))
		r.Header.Set("X-Client", "shop-1")
		r.Header.Set("Idempotency-Key", `"8e03978e-40d5-43e8-bc93-6894a57f9324"`)
		w := httptest.NewRecorder()
		pay.ServeHTTP(w, r)
		fmt.Printf("%s, replayed: %q\n", w.Body, w.Header().Get("Idempotent-Replayed"))
	}
	// Output:
	// payment 1, replayed: ""
	// payment 1, replayed: "true"
}
