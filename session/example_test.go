package session_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"strings"
	"time"

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

// newVisitor returns a client that keeps its cookies, and a function that asks for a
// path of a server with the sessions.
func newVisitor(h http.Handler) (get func(path string), end func()) {
	srv := httptest.NewTLSServer(h)
	browser := srv.Client()
	browser.Jar, _ = cookiejar.New(nil)
	return func(path string) {
		res, err := browser.Get(srv.URL + path)
		if err != nil {
			log.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}, srv.Close
}

// "Where am I logged in", and "log out everywhere else".
func ExampleSession_RevokeOthers() {
	sessions, err := session.New(session.NewMemoryStore(), nil)
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/login", func(_ http.ResponseWriter, r *http.Request) {
		_ = session.FromContext(r.Context()).Login(r.Context(), "alice", session.Device{Name: r.FormValue("device")})
	})
	mux.HandleFunc("/sessions", func(_ http.ResponseWriter, r *http.Request) {
		infos, err := session.FromContext(r.Context()).Sessions(r.Context())
		fmt.Println(len(infos), "sessions", err)
		for _, info := range infos {
			if info.Current {
				fmt.Println("this is", info.Name)
			}
		}
	})
	mux.HandleFunc("/log-out-elsewhere", func(_ http.ResponseWriter, r *http.Request) {
		n, err := session.FromContext(r.Context()).RevokeOthers(r.Context())
		fmt.Println("ended", n, err)
	})
	h := sessions.Handler(mux)
	desk, end := newVisitor(h)
	defer end()
	phone, end := newVisitor(h)
	defer end()

	desk("/login?device=the+desk")
	phone("/login?device=the+phone")
	phone("/sessions")
	phone("/log-out-elsewhere")
	desk("/sessions")
	// Output:
	// 2 sessions <nil>
	// this is the phone
	// ended 1 <nil>
	// 0 sessions <nil>
}

// Steps that many requests take at once: none is lost.
func ExampleSession_Add() {
	sessions, err := session.New(session.NewMemoryStore(), nil)
	if err != nil {
		log.Fatal(err)
	}
	seen := session.NewKey[map[string]int]("seen")
	get, end := newVisitor(sessions.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		n, err := session.FromContext(r.Context()).Add(r.Context(), "visits", 1)
		fmt.Println("visit", n, err)
		all, err := seen.Update(r.Context(), func(old map[string]int) (map[string]int, error) {
			if old == nil {
				old = map[string]int{}
			}
			old[r.URL.Path]++
			return old, nil
		})
		fmt.Println(all, err)
	})))
	defer end()
	get("/a")
	get("/b")
	get("/a")
	// Output:
	// visit 1 <nil>
	// map[/a:1] <nil>
	// visit 2 <nil>
	// map[/a:1 /b:1] <nil>
	// visit 3 <nil>
	// map[/a:2 /b:1] <nil>
}

// "Remember me": a session that lasts longer than others, and a cookie that
// outlives the browser.
func ExampleSession_SetTimeouts() {
	sessions, err := session.New(session.NewMemoryStore(), nil)
	if err != nil {
		log.Fatal(err)
	}
	h := sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, s := r.Context(), session.FromContext(r.Context())
		err := s.Login(ctx, "alice")
		if err == nil && r.FormValue("remember") != "" {
			const day = 24 * time.Hour
			err = s.SetTimeouts(ctx, 14*day, 90*day, true)
		}
		if err != nil {
			http.Error(w, "try again", http.StatusServiceUnavailable)
		}
	}))
	for _, path := range []string{"/login", "/login?remember=on"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, nil))
		fmt.Println("the cookie lasts for", w.Result().Cookies()[0].MaxAge, "seconds")
	}
	// Output:
	// the cookie lasts for 0 seconds
	// the cookie lasts for 7776000 seconds
}

// Values that who reads the store cannot read, and a new key beside the old one.
func ExampleOptions_encryption() {
	store := session.NewMemoryStore()
	old := session.EncryptionKey{ID: "2026-01", Key: bytes.Repeat([]byte("1"), 32)} // 32 random bytes, from a secret store
	now := session.EncryptionKey{ID: "2026-07", Key: bytes.Repeat([]byte("2"), 32)}
	request := httptest.NewRequest(http.MethodGet, "/", nil)
	with := func(keys ...session.EncryptionKey) {
		sessions, err := session.New(store, &session.Options{Encryption: keys})
		if err != nil {
			log.Fatal(err)
		}
		s := sessions.Load(request)
		var colour string
		found, err := s.Get(request.Context(), "colour", &colour)
		fmt.Println(found, colour, err)

		// A value that is set is encrypted with the first key.
		w := httptest.NewRecorder()
		if err := s.Set(request.Context(), "colour", "blue"); err != nil {
			log.Fatal(err)
		}
		if err := sessions.Commit(request.Context(), s, w.Header()); err != nil {
			log.Fatal(err)
		}
		for _, c := range w.Result().Cookies() {
			request.AddCookie(c)
		}
	}
	with(old)
	with(now, old) // for as long as sessions last
	with(now)
	// Output:
	// false  <nil>
	// true blue <nil>
	// true blue <nil>
}

// Tokens in a header, for clients that are no browsers.
func ExampleOptions_header() {
	sessions, err := session.New(session.NewMemoryStore(), &session.Options{Header: "Authorization"})
	if err != nil {
		log.Fatal(err)
	}
	h := sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		if r.URL.Path == "/login" {
			_ = s.Login(r.Context(), "alice")
		}
		user, _ := s.User(r.Context())
		fmt.Fprint(w, user)
	}))
	login := httptest.NewRecorder()
	h.ServeHTTP(login, httptest.NewRequest(http.MethodPost, "/login", nil))

	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Bearer "+login.Header().Get("Session-Token"))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	fmt.Println(w.Body, w.Header().Get("Vary"))
	// Output: alice Authorization
}

// A page that is shown while the store is away, as to somebody who is not logged
// in; all others answer 503.
func ExampleIfDown() {
	store := &failingStore{Store: session.NewMemoryStore()}
	sessions, err := session.New(store, &session.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		log.Fatal(err)
	}
	greet := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		if r.URL.Path == "/login" {
			_ = s.Login(r.Context(), "alice")
		}
		user, _ := s.User(r.Context())
		fmt.Fprintf(w, "hello %q", user)
	})
	mux := http.NewServeMux()
	mux.Handle("/", greet)
	mux.Handle("/news", session.IfDown(session.Anonymous)(greet))
	h := sessions.Handler(mux)
	login := httptest.NewRecorder()
	h.ServeHTTP(login, httptest.NewRequest(http.MethodPost, "/login", nil))

	store.away = true
	for _, path := range []string{"/news", "/account"} {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.AddCookie(login.Result().Cookies()[0])
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		fmt.Println(w.Code, strings.TrimSpace(w.Body.String()))
	}
	// Output:
	// 200 hello ""
	// 503 The session store is not available.
}

type failingStore struct {
	session.Store
	away bool
}

func (s *failingStore) Load(ctx context.Context, id string, digest session.Digest) (session.Record, error) {
	if s.away {
		return session.Record{}, errors.New("connection refused")
	}
	return s.Store.Load(ctx, id, digest)
}

// A stream of events that ends when its session does, on whichever server that
// is ended.
func ExampleSession_Context() {
	sessions, err := session.New(session.NewMemoryStore(), nil)
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/login", func(_ http.ResponseWriter, r *http.Request) {
		_ = session.FromContext(r.Context()).Login(r.Context(), "alice")
	})
	events := make(chan string, 1)
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		ctx, stop, err := session.FromContext(r.Context()).Context(r.Context())
		if err != nil {
			http.Error(w, "try again", http.StatusServiceUnavailable)
			return
		}
		defer stop()
		w.Header().Set("Content-Type", "text/event-stream")
		for {
			select {
			case e := <-events:
				fmt.Fprintf(w, "data: %s\n\n", e)
				_ = http.NewResponseController(w).Flush()
				if _, err := sessions.RevokeAll(ctx, "alice"); err != nil { // as an administrator would, elsewhere
					log.Print(err)
				}
			case <-ctx.Done():
				fmt.Println("closed:", context.Cause(ctx))
				return
			}
		}
	})
	get, end := newVisitor(sessions.Handler(mux))
	defer end()
	get("/login")
	events <- "hello"
	get("/events")
	// Output: closed: session: the session has ended
}
