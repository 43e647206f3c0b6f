package session_test

import (
	"fmt"
	"log"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"

	"github.com/herdless/herdless/session"
)

var cart = session.NewKey[[]string]("cart")

// A cart that is kept between requests, under a typed key.
func ExampleKey() {
	sessions, err := session.New(session.NewMemoryStore(), nil)
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /cart", func(w http.ResponseWriter, r *http.Request) {
		items, err := cart.Get(r.Context())
		if err == nil {
			err = cart.Set(r.Context(), append(items, r.FormValue("item")))
		}
		if err != nil {
			http.Error(w, "try again", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /cart", func(_ http.ResponseWriter, r *http.Request) {
		items, err := cart.Get(r.Context())
		fmt.Println(items, err)
	})
	srv := httptest.NewTLSServer(sessions.Handler(mux))
	defer srv.Close()
	browser := srv.Client()
	browser.Jar, _ = cookiejar.New(nil)

	browser.Post(srv.URL+"/cart?item=book", "", nil)
	browser.Post(srv.URL+"/cart?item=pen", "", nil)
	browser.Get(srv.URL + "/cart")
	// Output: [book pen] <nil>
}

// Logging in renews the token; logging out ends the session everywhere.
func ExampleSession_Login() {
	sessions, err := session.New(session.NewMemoryStore(), nil)
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		// The password has been checked.
		if err := session.FromContext(r.Context()).Login(r.Context(), r.FormValue("user")); err != nil {
			http.Error(w, "try again", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("POST /logout", func(w http.ResponseWriter, r *http.Request) {
		if err := session.FromContext(r.Context()).Destroy(r.Context()); err != nil {
			http.Error(w, "try again", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /", func(_ http.ResponseWriter, r *http.Request) {
		user, err := session.FromContext(r.Context()).User(r.Context())
		fmt.Printf("user %q, error %v\n", user, err)
	})
	srv := httptest.NewTLSServer(sessions.Handler(mux))
	defer srv.Close()
	browser := srv.Client()
	browser.Jar, _ = cookiejar.New(nil)

	browser.Post(srv.URL+"/login?user=alice", "", nil)
	browser.Get(srv.URL)
	browser.Post(srv.URL+"/logout", "", nil)
	browser.Get(srv.URL)
	// Output:
	// user "alice", error <nil>
	// user "", error <nil>
}

// Load and Commit serve a framework that net/http middleware does not fit.
func ExampleManager_Commit() {
	sessions, err := session.New(session.NewMemoryStore(), nil)
	if err != nil {
		log.Fatal(err)
	}
	w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil)

	s := sessions.Load(r)
	if err := s.Set(r.Context(), "theme", "dark"); err != nil { // what a handler would do
		log.Fatal(err)
	}

	if err := sessions.Commit(r.Context(), s, w.Header()); err != nil {
		http.Error(w, "the session could not be saved", http.StatusServiceUnavailable)
		return
	}
	fmt.Println(w.Header().Get("Cache-Control"), len(w.Result().Cookies()))
	// Output: private 1
}
