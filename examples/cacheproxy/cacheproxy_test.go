package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

func TestBadInput(t *testing.T) {
	for _, tt := range []struct {
		args []string
		code int
		says string
	}{
		{nil, 2, "-origin"},
		{[]string{"-origin", "ftp://example.com"}, 2, "http or https"},
		{[]string{"-origin", "http://127.0.0.1:1", "-profile", "x"}, 2, "safe or conformance"},
		{[]string{"-origin", "http://127.0.0.1:1", "-router", "x"}, 2, "nethttp or gin"},
		{[]string{"-origin", "http://127.0.0.1:1", "-max-body", "0"}, 2, "positive"},
		{[]string{"-origin", "http://127.0.0.1:1", "more"}, 2, `"more"`},
		{[]string{"-origin", "http://127.0.0.1:1", "-redis", "http://127.0.0.1"}, 1, "redis"},
		{[]string{"-origin", "http://127.0.0.1:1", "-listen", "nowhere"}, 1, "nowhere"},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(tt.args, &stdout, &stderr); code != tt.code {
			t.Errorf("%q: exit code %d, want %d", tt.args, code, tt.code)
		}
		if out := stderr.String(); !strings.Contains(out, tt.says) || strings.Count(out, "\n") != 1 {
			t.Errorf("%q: it says %q, want one line with %q", tt.args, out, tt.says)
		}
	}
}

// What the origin lets be shared is asked of it once, by whichever router, and the
// access log says so.
func TestBothRouters(t *testing.T) {
	for _, router := range []string{"nethttp", "gin"} {
		t.Run(router, func(t *testing.T) {
			var asked atomic.Int32
			origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n := asked.Add(1)
				if r.URL.Path == "/shared" {
					w.Header().Set("Cache-Control", "max-age=60")
				}
				fmt.Fprintf(w, "%s, answer %d", r.URL.Path, n)
			}))
			defer origin.Close()
			c, err := parse([]string{"-origin", origin.URL, "-router", router}, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			var lines lockedBuffer
			log := slog.New(slog.NewTextHandler(&lines, nil))
			handler, closeStores, err := newProxy(c, log)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = closeStores() }()
			proxy := httptest.NewServer(accessLog(handler, log))
			defer proxy.Close()
			get := func(path string) string {
				resp, err := http.Get(proxy.URL + path)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				b, err := io.ReadAll(resp.Body)
				if err != nil || resp.StatusCode != http.StatusOK {
					t.Fatal(resp.Status, err)
				}
				return string(b)
			}
			for range 3 {
				if got := get("/shared"); got != "/shared, answer 1" {
					t.Errorf("got %q", got)
				}
			}
			if a, b := get("/silent"), get("/silent"); a == b {
				t.Errorf("a response without a lifetime was shared: %q", a)
			}
			origin.Close()
			resp, err := http.Get(proxy.URL + "/silent")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusBadGateway {
				t.Errorf("without an origin: %s", resp.Status)
			}
			proxy.Close() // and with it all that writes to the log
			if out := lines.String(); !strings.Contains(out, "uri=/shared status=200") || !strings.Contains(out, "herdless; hit; ttl=") {
				t.Errorf("the access log is %q", out)
			}
		})
	}
}
