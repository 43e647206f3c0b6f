package main

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func TestBalancer(t *testing.T) {
	var mu sync.Mutex
	var hosts, forwarded []string
	backend := func(name string) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			mu.Lock()
			defer mu.Unlock()
			hosts = append(hosts, r.Host)
			forwarded = append(forwarded, strings.Join(r.Header["X-Forwarded-For"], ","))
			_, _ = io.WriteString(w, name+" got "+string(body))
		}))
		t.Cleanup(s.Close)
		return s
	}
	a, b, c := backend("a"), backend("b"), backend("c")
	var nodes []*url.URL
	for _, s := range []*httptest.Server{a, b, c} {
		u, err := url.Parse(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, u)
	}
	handler := func() http.Handler {
		h, err := newBalancer(nodes, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	balancer := handler()
	ask := func() *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodPost, "http://shop.example:8080/cart", strings.NewReader("id=x"))
		r.RemoteAddr = "192.0.2.7:1234"
		r.Header.Set("X-Forwarded-For", "203.0.113.9") // a claim
		w := httptest.NewRecorder()
		balancer.ServeHTTP(w, r)
		return w
	}
	count := func(n int) map[string]int {
		got := map[string]int{}
		for range n {
			got[ask().Body.String()]++
		}
		return got
	}

	if got := count(6); got["a got id=x"] != 2 || got["b got id=x"] != 2 || got["c got id=x"] != 2 {
		t.Errorf("6 requests over 3 nodes: got %v, want 2 each", got)
	}
	b.Close()
	balancer = handler() // one that has no connections to b from before
	if got := count(6); got["a got id=x"]+got["c got id=x"] != 6 || got["a got id=x"] == 0 || got["c got id=x"] == 0 {
		t.Errorf("6 requests with one node dead: got %v, want them on the two others, with their bodies", got)
	}
	for i := range hosts {
		if hosts[i] != "shop.example:8080" || forwarded[i] != "192.0.2.7" {
			t.Errorf("a node saw Host %q and X-Forwarded-For %q, want the client's host and the client's address", hosts[i], forwarded[i])
		}
	}
	a.Close()
	c.Close()
	balancer = handler()
	w := ask()
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "catching its breath") || w.Header().Get("Retry-After") == "" {
		t.Errorf("all nodes dead: got %d %q, want a friendly 503", w.Code, w.Body)
	}
}

// A node that broke off in the middle may have acted on the request, so that no
// other is asked.
func TestBalancerNeverRepeats(t *testing.T) {
	var asked atomic.Int32
	broken := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked.Add(1)
		panic(http.ErrAbortHandler)
	}))
	defer broken.Close()
	u, err := url.Parse(broken.URL)
	if err != nil {
		t.Fatal(err)
	}
	b := newRoundRobin([]*url.URL{u, u})
	r := httptest.NewRequest(http.MethodPost, "http://shop.example/cart", strings.NewReader("id=x"))
	if resp, err := b.RoundTrip(r); err == nil {
		resp.Body.Close()
		t.Error("a broken answer is no error")
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the request was sent %d times, want once", n)
	}
}

func TestEdge(t *testing.T) {
	n, err := newNode(nodeConfig{name: "n"}, inProcess(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		handler http.HandlerFunc
		status  int
		body    string
	}{
		{"nothing written", func(http.ResponseWriter, *http.Request) {}, 200, ""},
		{"body only", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "x") }, 200, "x"},
		{"early hints", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusTeapot)
		}, 418, ""},
		{"flush", func(w http.ResponseWriter, _ *http.Request) {
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
		}, 200, ""},
		{"panic", func(http.ResponseWriter, *http.Request) { panic("oh") }, 500, "our fault"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := httptest.NewServer(n.edge(test.handler))
			defer s.Close()
			resp, err := http.Get(s.URL)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != test.status || !strings.Contains(string(body), test.body) {
				t.Errorf("got %d %q and error %v, want %d and %q", resp.StatusCode, body, err, test.status, test.body)
			}
			if resp.Header.Get("X-Node") != "n" || resp.Header.Get("Content-Security-Policy") != policy {
				t.Errorf("the header is %v, want it signed", resp.Header)
			}
		})
	}
	t.Run("panic after the header", func(t *testing.T) {
		s := httptest.NewServer(n.edge(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			panic("oh")
		})))
		defer s.Close()
		resp, err := http.Get(s.URL)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("got error %v, want a response that is cut off", err)
		}
	})
}

func TestOutcome(t *testing.T) {
	for field, want := range map[string]string{
		"":                                  "",
		"node-1; hit; ttl=52":               hit,
		"node-1; fwd=uri-miss; stored":      computed,
		"node-1; fwd=uri-miss; collapsed":   waited,
		"node-1;fwd=bypass":                 computed,
		"node-1; fwd=uri-miss, cdn; hit":    computed,
		`node-1; fwd=miss; detail="x; hit"`: computed,
	} {
		h := http.Header{}
		if field != "" {
			h.Set("Cache-Status", field)
		}
		if got := outcome(h); got != want {
			t.Errorf("%q: got %q, want %q", field, got, want)
		}
	}
}
