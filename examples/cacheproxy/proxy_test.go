package main_test

import (
	"bufio"
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
			first := get(t, p.url+"/a?b=c")
			if first.isHit() || !strings.Contains(first.cacheStatus(), "; stored") && !p.missedStore() {
				t.Errorf("first Cache-Status: got %q, want one that is stored", first.cacheStatus())
			}
			pages, proxies := []page{first, stored(t, p.url+"/a?b=c")}, []*program{p}
			if test.store == "redis" { // what one stores, all have
				other := start(t, args...)
				pages, proxies = append(pages, stored(t, other.url+"/a?b=c")), append(proxies, other)
			}
			for _, got := range pages {
				if got.status != http.StatusOK || got.body != "/a?b=c of shop.test" || got.header.Get("Etag") != `"1"` {
					t.Errorf("got %+v, want what the origin says to shop.test", got)
				}
			}
			if got := asked.Load(); got != 1 && !slices.ContainsFunc(proxies, (*program).missedStore) {
				t.Errorf("the origin was asked %d times, want 1", got)
			}
			// The status of the origin is passed on, with gin, too.
			if got := get(t, p.url+"/a"); got.status != http.StatusOK || got.isHit() {
				t.Errorf("another URL: got %+v, want a 200 of its own", got)
			}
		})
	}
}

// The origin gets the target of a request as the client wrote it, or pages that it
// takes for two would be one, and parameters in an uncommon form would be lost.
func TestRequestTargets(t *testing.T) {
	t.Parallel()
	eachRouter(t, func(t *testing.T, router string) {
		url, _ := origin(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			_, _ = io.WriteString(w, r.RequestURI)
		})
		p, below := start(t, "-origin", url, "-router", router), start(t, "-origin", url+"/below", "-router", router)
		for _, target := range []string{
			"/", "/?", "/a%2fb//c/../d?x=a+b%20c", "/%E2%82%AC?%e2%82%ac=1&a=2&a=1&b",
			"/?a=1;b=2", "/?a=%zz", "/?a=1%26b=2&b=%", "/?=&&;",
		} {
			for range 2 { // the second may be a hit
				for at, want := range map[*program]string{p: target, below: "/below" + target} {
					conn, err := net.Dial("tcp", at.addr)
					if err != nil {
						t.Fatal(err)
					}
					_ = conn.SetDeadline(time.Now().Add(patience))
					fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n", target)
					resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
					if err != nil {
						t.Fatal(err)
					}
					if got, err := io.ReadAll(resp.Body); err != nil || string(got) != want {
						t.Errorf("%s: the origin got %q (%v), want %q", target, got, err, want)
					}
					conn.Close()
				}
			}
		}
	})
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

func TestTrailers(t *testing.T) {
	t.Parallel()
	eachRouter(t, func(t *testing.T, router string) {
		url, _ := origin(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-Sum")
			w.Header().Set("Cache-Control", "max-age=60")
			_, _ = io.WriteString(w, "body")
			w.Header().Set("X-Sum", "42")
			w.Header().Set(http.TrailerPrefix+"X-Late", "43") // it was not announced
		})
		p := start(t, "-origin", url, "-router", router)
		for range 2 {
			resp, err := newClient(t).Do(request(t, http.MethodGet, p.url, "shop.test"))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || string(body) != "body" || resp.Trailer.Get("X-Sum") != "42" || resp.Trailer.Get("X-Late") != "43" {
				t.Errorf("got %q, %v, with trailers %v, want both", body, err, resp.Trailer)
			}
		}
	})
}

// A client that waits for a 100 gets it from the origin, or its refusal without
// having sent anything.
func TestExpectContinue(t *testing.T) {
	t.Parallel()
	eachRouter(t, func(t *testing.T, router string) {
		url, _ := origin(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/refuse" {
				w.WriteHeader(http.StatusRequestEntityTooLarge)
				return
			}
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, n, err)
		})
		p := start(t, "-origin", url, "-router", router)
		transport := &http.Transport{ExpectContinueTimeout: patience}
		t.Cleanup(transport.CloseIdleConnections)
		client := &http.Client{Transport: transport, Timeout: patience}
		for path, want := range map[string]page{
			"/take":   {status: http.StatusOK, body: "1000000 <nil>"},
			"/refuse": {status: http.StatusRequestEntityTooLarge},
		} {
			sent := &counted{r: strings.NewReader(strings.Repeat("x", 1_000_000))}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+path, sent)
			if err != nil {
				t.Fatal(err)
			}
			req.ContentLength = 1_000_000
			req.Header.Set("Expect", "100-continue")
			if got := do(t, client, req); got.status != want.status || got.body != want.body {
				t.Errorf("%s: got %d %q, want %d %q", path, got.status, got.body, want.status, want.body)
			}
			if n := sent.n.Load(); path == "/refuse" && n > 0 {
				t.Errorf("%s: %d bytes were sent, want none", path, n)
			}
		}
	})
}

// counted counts what is read.
type counted struct {
	r io.Reader
	n atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// The origin ends with a client that leaves an endless response.
func TestClientLeaves(t *testing.T) {
	t.Parallel()
	eachRouter(t, func(t *testing.T, router string) {
		ended := make(chan struct{})
		url, _ := origin(t, func(w http.ResponseWriter, _ *http.Request) {
			defer close(ended)
			w.Header().Set("Cache-Control", "max-age=60")
			for part := make([]byte, 64<<10); ; {
				if _, err := w.Write(part); err != nil {
					return
				}
			}
		})
		p := start(t, "-origin", url, "-router", router, "-max-body", "1000000")
		resp, err := newClient(t).Do(request(t, http.MethodGet, p.url, "shop.test"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.CopyN(io.Discard, resp.Body, 20_000_000)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-ended:
		case <-time.After(patience):
			t.Fatal("the origin goes on and on")
		}
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
			if got := asked.Load() == 1; got != test.stored && !p.missedStore() {
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
		var changed atomic.Bool // the page
		var remade atomic.Int64 // how often, since
		url, _ := origin(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60, stale-while-revalidate=600")
			if !changed.Load() {
				w.Header().Set("Age", "60") // stale when it comes
				_, _ = io.WriteString(w, "old")
				return
			}
			remade.Add(1)
			<-release
			_, _ = io.WriteString(w, "new")
		})
		var once sync.Once
		open := func() { once.Do(func() { close(release) }) }
		t.Cleanup(open)
		p := start(t, "-origin", url, "-router", router)
		stored(t, p.url)
		changed.Store(true)
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if got := get(t, p.url); got.body != "old" || !got.isHit() {
					t.Errorf("while it is made anew: got %q, %q, want a hit on the old page", got.body, got.cacheStatus())
				}
			})
		}
		all.Wait()
		eventually(t, "the page is made anew", func() bool { return get(t, p.url).isHit() && remade.Load() > 0 })
		if got := remade.Load(); got != 1 {
			t.Errorf("the origin was asked %d times for one page, want 1", got)
		}
		open()
		eventually(t, "the new page is served", func() bool {
			got := get(t, p.url)
			return got.body == "new" && got.isHit()
		})
	})
}

func TestOriginDown(t *testing.T) {
	t.Parallel()
	eachRouter(t, func(t *testing.T, router string) {
		p := start(t, "-origin", deadOrigin(t), "-router", router)
		if got := get(t, p.url); got.status != http.StatusBadGateway || got.isHit() || got.cacheStatus() == "" || got.body == "" {
			t.Errorf("got %+v, want a 502 with Cache-Status and a text", got)
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
			cached := request(t, http.MethodGet, url, "shop.test")
			cached.Header.Set("Cache-Control", "only-if-cached")
			eventually(t, url+" is stored", func() bool {
				get(t, url)
				return strings.Contains(do(t, newClient(t), cached).cacheStatus(), "fwd=stale")
			})
		}
		server.Close()
		eventually(t, "with stale-if-error the old page is served", func() bool {
			got := get(t, allowed)
			return got.status == http.StatusOK && got.body == "old" && strings.Contains(got.cacheStatus(), "detail=stale-if-error")
		})
		if got := get(t, silent); got.status != http.StatusBadGateway {
			t.Errorf("without stale-if-error: got %+v, want a 502", got)
		}
		if got := get(t, forbidden); got.status != http.StatusBadGateway {
			t.Errorf("with must-revalidate: got %+v, want a 502", got)
		}
	})
}
