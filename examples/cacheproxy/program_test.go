package main_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
)

// origin starts an origin that counts what it is asked.
func origin(t *testing.T, h http.HandlerFunc) (url string, asked *atomic.Int64) {
	asked = new(atomic.Int64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		h(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL, asked
}

// deadOrigin returns the URL of an origin at which nobody listens any more.
func deadOrigin(t *testing.T) string {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	return server.URL
}

func TestWrongUse(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	good := []string{"-origin", "http://127.0.0.1:1", "-listen", "127.0.0.1:0"}
	for _, test := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"no origin", nil, 2, `-origin is ""`},
		{"origin without a scheme", []string{"-origin", "127.0.0.1:8000"}, 2, "-origin is"},
		{"origin of another scheme", []string{"-origin", "ftp://127.0.0.1"}, 2, "-origin is"},
		{"origin that is no URL", []string{"-origin", "http://[::1"}, 2, "-origin is"},
		{"origin with a line break", []string{"-origin", "a\nb"}, 2, "-origin is"},
		{"unknown flag", []string{"-nope"}, 2, "-nope"},
		{"flag without a value", []string{"-origin"}, 2, "-origin"},
		{"unknown argument", append(good[:len(good):len(good)], "more"), 2, `"more"`},
		{"unknown profile", append(good[:len(good):len(good)], "-profile", "fast"), 2, `"fast"`},
		{"unknown router", append(good[:len(good):len(good)], "-router", "echo"), 2, `"echo"`},
		{"max-body that is no number", append(good[:len(good):len(good)], "-max-body", "1MB"), 2, `"1MB"`},
		{"max-body of nothing", append(good[:len(good):len(good)], "-max-body", "0"), 2, "-max-body"},
		{"max-size below nothing", append(good[:len(good):len(good)], "-max-size", "-1"), 2, "-max-size"},
		{"two faults at once", []string{"-profile", "fast"}, 2, `; -profile is "fast"`},
		{"address that is in use", []string{"-origin", "http://127.0.0.1:1", "-listen", taken.Addr().String()}, 1, "in use"},
		{"address that is none", []string{"-origin", "http://127.0.0.1:1", "-listen", "nowhere"}, 1, "nowhere"},
		{"Redis URL of another scheme", append(good[:len(good):len(good)], "-redis", "http://127.0.0.1"), 1, "redis"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			cmd := command(test.args...)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
			defer stop()
			_ = cmd.Wait()
			if got := cmd.ProcessState.ExitCode(); got != test.code {
				t.Errorf("exit code: got %d, want %d", got, test.code)
			}
			if got := stderr.String(); strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, "cacheproxy: ") || !strings.Contains(got, test.says) {
				t.Errorf("stderr: got %q, want one line from cacheproxy with %q", got, test.says)
			}
			if stdout.Len() > 0 {
				t.Errorf("stdout: got %q, want nothing", stdout.String())
			}
		})
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	out, err := command("-h").CombinedOutput()
	if err != nil {
		t.Fatalf("-h: %v", err)
	}
	for _, name := range []string{"-listen", "-origin", "-redis", "-profile", "-router", "-max-body", "-max-size"} {
		if !strings.Contains(string(out), "  "+name+" ") {
			t.Errorf("-h does not explain %s:\n%s", name, out)
		}
	}
}

// A request that is under way when the signal comes is answered in full.
func TestStopsCleanly(t *testing.T) {
	t.Parallel()
	eachRouter(t, func(t *testing.T, router string) {
		inside, release := make(chan struct{}), make(chan struct{})
		url, _ := origin(t, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "first, ")
			_ = http.NewResponseController(w).Flush()
			close(inside)
			<-release
			_, _ = io.WriteString(w, "last")
		})
		p := start(t, "-origin", url, "-router", router)
		done := make(chan page)
		go func() {
			defer close(done)
			done <- get(t, p.url)
		}()
		<-inside
		p.terminate(t)
		eventually(t, "no more connections are taken", func() bool {
			conn, err := net.Dial("tcp", p.addr)
			if err == nil {
				conn.Close()
			}
			return err != nil
		})
		close(release)
		if got := <-done; got.body != "first, last" {
			t.Errorf("body: got %q, want all of it", got.body)
		}
		if got := p.code(t); got != 0 {
			t.Errorf("exit code: got %d, want 0", got)
		}
	})
}

func TestHits(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ router, store string }{
		{"nethttp", "memory"},
		{"nethttp", "redis"},
		{"gin", "memory"},
		{"gin", "redis"},
	} {
		t.Run(test.router+"/"+test.store, func(t *testing.T) {
			t.Parallel()
			url, asked := origin(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				w.Header().Set("ETag", `"1"`)
				fmt.Fprintf(w, "%s of %s", r.URL, r.Host)
			})
			args := []string{"-origin", url, "-router", test.router}
			if test.store == "redis" {
				args = append(args, "-redis", redistest.NewStandalone(t).URL())
			}
			p := start(t, args...)
			first, second := get(t, p.url+"/a?b=c"), get(t, p.url+"/a?b=c")
			if first.isHit() || !strings.Contains(first.cacheStatus(), "; stored") {
				t.Errorf("first Cache-Status: got %q, want one that is stored", first.cacheStatus())
			}
			// The client may have got all of the first one before that is stored.
			if !second.isHit() && !strings.Contains(second.cacheStatus(), "; collapsed") {
				t.Errorf("second Cache-Status: got %q, want a hit", second.cacheStatus())
			}
			eventually(t, "a hit", func() bool { return get(t, p.url+"/a?b=c").isHit() })
			for _, got := range []page{first, second} {
				if got.status != http.StatusOK || got.body != "/a?b=c of shop.test" || got.header.Get("Etag") != `"1"` {
					t.Errorf("got %+v, want what the origin says to shop.test", got)
				}
			}
			if test.store == "redis" { // what one stores, all have
				if got := get(t, start(t, args...).url+"/a?b=c"); !got.isHit() || got.body != first.body {
					t.Errorf("at another proxy: got %+v, want a hit", got)
				}
			}
			if got := asked.Load(); got != 1 {
				t.Errorf("the origin was asked %d times, want 1", got)
			}
			// The status of the origin is passed on, with gin, too.
			if got := get(t, p.url+"/a"); got.status != http.StatusOK || got.isHit() {
				t.Errorf("another URL: got %+v, want a 200 of its own", got)
			}
		})
	}
}

// A response that says nothing of its lifetime is stored with -profile conformance
// only (RFC 9111 §4.2.2).
func TestProfiles(t *testing.T) {
	t.Parallel()
	url, _ := origin(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Last-Modified", time.Now().Add(-100*24*time.Hour).UTC().Format(http.TimeFormat))
		_, _ = io.WriteString(w, "old")
	})
	for profile, want := range map[string]bool{"safe": false, "conformance": true} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			p := start(t, "-origin", url, "-profile", profile)
			get(t, p.url)
			if want {
				eventually(t, "a hit", func() bool { return get(t, p.url).isHit() })
			}
			if got := get(t, p.url); got.isHit() != want || got.body != "old" {
				t.Errorf("Cache-Status: got %q, want hit: %v", got.cacheStatus(), want)
			}
		})
	}
}

// The first event is there although the stream goes on.
func TestStreams(t *testing.T) {
	t.Parallel()
	eachRouter(t, func(t *testing.T, router string) {
		got := make(chan struct{}) // the client has got the first event
		url, _ := origin(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("Cache-Control", "max-age=60") // it would be stored if it ended
			_, _ = io.WriteString(w, "data: 1\n\n")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-got:
			case <-time.After(patience):
			}
			_, _ = io.WriteString(w, "data: 2\n\n")
		})
		p := start(t, "-origin", url, "-router", router)
		resp, err := newClient(t).Do(request(t, http.MethodGet, p.url, "shop.test"))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		first := make(chan string, 1)
		r := bufio.NewReader(resp.Body)
		go func() {
			line, _ := r.ReadString('\n')
			first <- line
		}()
		select {
		case line := <-first:
			if line != "data: 1\n" {
				t.Fatalf("first line: got %q, want the first event", line)
			}
		case <-time.After(patience / 3): // the origin's is longer
			t.Fatal("the first event is held back until the stream ends")
		}
		close(got)
		rest, err := io.ReadAll(r)
		if err != nil || string(rest) != "\ndata: 2\n\n" {
			t.Errorf("the rest: got %q, %v, want the second event", rest, err)
		}
	})
}

// Whatever protocol a connection is upgraded to passes in both directions.
func TestUpgrades(t *testing.T) {
	t.Parallel()
	eachRouter(t, func(t *testing.T, router string) {
		url, _ := origin(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") != "echo" {
				w.WriteHeader(http.StatusUpgradeRequired)
				return
			}
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "echo")
			w.WriteHeader(http.StatusSwitchingProtocols)
			conn, buf, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Errorf("the origin cannot hijack: %v", err)
				return
			}
			defer conn.Close()
			for {
				line, err := buf.ReadString('\n')
				if err != nil {
					return
				}
				fmt.Fprintf(conn, "echo %s", line)
			}
		})
		p := start(t, "-origin", url, "-router", router)
		conn, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		fmt.Fprint(conn, "GET /socket HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "echo" {
			t.Fatalf("got %d %v, want 101 for echo", resp.StatusCode, resp.Header)
		}
		for _, word := range []string{"one\n", "two\n"} {
			fmt.Fprint(conn, word)
			if got, err := r.ReadString('\n'); got != "echo "+word {
				t.Fatalf("got %q, %v, want the echo of %q", got, err, word)
			}
		}
	})
}

func TestEarlyHints(t *testing.T) {
	t.Parallel()
	eachRouter(t, func(t *testing.T, router string) {
		hinted := make(chan struct{}) // the client has got the hints
		var once sync.Once
		url, _ := origin(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "</style.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			select {
			case <-hinted:
			case <-time.After(patience):
			}
			w.Header().Set("Cache-Control", "max-age=60")
			_, _ = io.WriteString(w, "page")
		})
		p := start(t, "-origin", url, "-router", router)
		var codes []int
		req := request(t, http.MethodGet, p.url, "shop.test")
		req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				if codes = append(codes, code); h.Get("Link") == "" {
					t.Errorf("the %d has no Link: %v", code, h)
				}
				once.Do(func() { close(hinted) })
				return nil
			},
		}))
		if got := do(t, newClient(t), req); got.status != http.StatusOK || got.body != "page" {
			t.Errorf("got %+v, want the page", got)
		}
		if !slices.Equal(codes, []int{http.StatusEarlyHints}) {
			t.Errorf("informational responses: got %v, want 103", codes)
		}
		eventually(t, "the page is stored", func() bool {
			got := get(t, p.url)
			return got.isHit() && got.body == "page"
		})
	})
}

func TestMaxBody(t *testing.T) {
	t.Parallel()
	const limit = 100_000
	for _, test := range []struct {
		name   string
		size   int
		length bool // the origin tells it
		stored bool
	}{
		{"at the limit", limit, true, true},
		{"at the limit, chunked", limit, false, true},
		{"beyond the limit", limit + 1, true, false},
		{"beyond the limit, chunked", limit + 1, false, false},
		{"far beyond the limit, chunked", 20 * limit, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			want := strings.Repeat("0123456789", test.size/10+1)[:test.size]
			url, asked := origin(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				if test.length {
					w.Header().Set("Content-Length", fmt.Sprint(test.size))
				}
				_, _ = io.WriteString(w, want[:test.size/2])
				_ = http.NewResponseController(w).Flush()
				_, _ = io.WriteString(w, want[test.size/2:])
			})
			p := start(t, "-origin", url, "-max-body", fmt.Sprint(limit))
			for i := range 2 {
				got := get(t, p.url)
				if got.body != want {
					t.Errorf("response %d has %d bytes, want all %d", i, len(got.body), len(want))
				}
				if got.isHit() && !test.stored {
					t.Errorf("Cache-Status %d: got %q, want no hit", i, got.cacheStatus())
				}
			}
			if got := asked.Load() == 1; got != test.stored {
				t.Errorf("the origin was asked %d times, stored: want %v", asked.Load(), test.stored)
			}
		})
	}
}

// Nobody waits for a page that is stale, and the origin is asked once for all.
func TestStaleWhileRevalidate(t *testing.T) {
	t.Parallel()
	eachRouter(t, func(t *testing.T, router string) {
		release := make(chan struct{})
		var count atomic.Int64
		url, asked := origin(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60, stale-while-revalidate=600")
			if count.Add(1) == 1 {
				w.Header().Set("Age", "60") // stale when it comes
				_, _ = io.WriteString(w, "old")
				return
			}
			<-release
			_, _ = io.WriteString(w, "new")
		})
		var once sync.Once
		open := func() { once.Do(func() { close(release) }) }
		t.Cleanup(open)
		p := start(t, "-origin", url, "-router", router)
		get(t, p.url)
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if got := get(t, p.url); got.body != "old" || !got.isHit() {
					t.Errorf("while it is made anew: got %q, %q, want a hit on the old page", got.body, got.cacheStatus())
				}
			})
		}
		all.Wait()
		eventually(t, "the page is made anew", func() bool { return asked.Load() > 1 })
		open()
		eventually(t, "the new page is served", func() bool {
			got := get(t, p.url)
			return got.body == "new" && got.isHit()
		})
		if got := asked.Load(); got != 2 {
			t.Errorf("the origin was asked %d times, want 2", got)
		}
	})
}

func TestOriginDown(t *testing.T) {
	t.Parallel()
	eachRouter(t, func(t *testing.T, router string) {
		p := start(t, "-origin", deadOrigin(t), "-router", router)
		if got := get(t, p.url); got.status != http.StatusBadGateway || got.isHit() {
			t.Errorf("got %+v, want a 502", got)
		}
	})
}

func TestStaleIfError(t *testing.T) {
	t.Parallel()
	eachRouter(t, func(t *testing.T, router string) {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60"+strings.ReplaceAll(r.URL.RawQuery, "&", ", "))
			w.Header().Set("Age", "60") // stale when it comes
			w.Header().Set("ETag", `"1"`)
			_, _ = io.WriteString(w, "old")
		}))
		defer server.Close()
		p := start(t, "-origin", server.URL, "-router", router)
		allowed, silent, forbidden := p.url+"/?&stale-if-error=600", p.url+"/?", p.url+"/?&stale-if-error=600&must-revalidate"
		for _, url := range []string{allowed, silent, forbidden} {
			get(t, url)
		}
		server.Close()
		if got := get(t, allowed); got.status != http.StatusOK || got.body != "old" || !strings.Contains(got.cacheStatus(), "detail=stale-if-error") {
			t.Errorf("with stale-if-error: got %+v, want the old page", got)
		}
		if got := get(t, silent); got.status != http.StatusBadGateway {
			t.Errorf("without stale-if-error: got %+v, want a 502", got)
		}
		if got := get(t, forbidden); got.status != http.StatusBadGateway {
			t.Errorf("with must-revalidate: got %+v, want a 502", got)
		}
	})
}

func TestAccessLog(t *testing.T) {
	t.Parallel()
	eachRouter(t, func(t *testing.T, router string) {
		url, _ := origin(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			_, _ = io.WriteString(w, "12345")
		})
		p := start(t, "-origin", url, "-router", router)
		first, second := get(t, p.url+"/a?b"), get(t, p.url+"/a?b")
		eventually(t, "two lines are in the access log", func() bool { return len(p.stderr.requests()) == 2 })
		for i, got := range []page{first, second} {
			line := p.stderr.requests()[i]
			for _, want := range []string{
				" method=GET ", " host=shop.test ", " uri=/a?b ", " status=200 ", " bytes=5 ", " took=",
				fmt.Sprintf(" cache=%q", got.cacheStatus()),
			} {
				if !strings.Contains(line, want) {
					t.Errorf("line %d: got %q, want %q in it", i, line, want)
				}
			}
		}
	})
}
