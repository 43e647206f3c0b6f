package main_test

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
)

// Both routers answer alike.
func TestRoutersAgree(t *testing.T) {
	t.Parallel()
	a := start(t, nil, "-node-only", "-router", "nethttp", "-name", "a", "-work", "0s")
	b := start(t, nil, "-node-only", "-router", "gin", "-name", "b", "-work", "0s")
	form := url.Values{}
	for _, test := range []struct {
		method, path string
		form         url.Values
		status       int
	}{
		{"GET", "/", nil, 200},
		{"HEAD", "/", nil, 200},
		{"GET", "/?category=light&page=2", nil, 200},
		{"GET", "/?category=light&page=3", nil, 404},
		{"GET", "/?category=none", nil, 404},
		{"GET", "/?page=x", nil, 404},
		{"GET", "/p/" + product, nil, 200},
		{"GET", "/p/none", nil, 404},
		{"GET", "/uncached", nil, 200},
		{"GET", "/search?q=wool", nil, 200},
		{"GET", "/search", nil, 200},
		{"GET", "/herd", nil, 200},
		{"GET", "/traffic", nil, 200},
		{"GET", "/traffic?format=json&window=day", nil, 200},
		{"GET", "/cart", nil, 200},
		{"GET", "/login", nil, 200},
		{"GET", "/me", nil, 200},
		{"GET", "/healthz", nil, 200},
		{"GET", "/readyz", nil, 200},
		{"GET", "/static/style.css", nil, 200},
		{"GET", "/static/none.css", nil, 404},
		{"GET", "/static/", nil, 404},
		{"GET", "/nothing/here", nil, 404},
		{"POST", "/", form, 404},
		{"POST", "/cart", url.Values{"id": {product}}, 303},
		{"POST", "/cart", url.Values{"id": {"none"}}, 404},
		{"POST", "/cart/quantity", url.Values{"id": {product}, "n": {"2"}}, 303},
		{"POST", "/cart/quantity", url.Values{"id": {product}, "n": {"x"}}, 400},
		{"POST", "/login", url.Values{"name": {"Ada"}}, 303},
		{"POST", "/login", url.Values{"name": {"  "}}, 400},
		{"POST", "/login", url.Values{"name": {strings.Repeat("x", 31)}}, 400},
		{"POST", "/logout", form, 303},
		{"POST", "/visits/end", url.Values{"id": {"none"}}, 303},
		{"POST", "/visits/end-others", form, 303},
		{"POST", "/me/viewed", url.Values{"id": {product}}, 200},
		{"POST", "/me/viewed", url.Values{"id": {"none"}}, 404},
		{"POST", "/herd/run", url.Values{"requests": {"0"}, "mode": {"herdless"}}, 400},
		{"POST", "/herd/run", url.Values{"requests": {"1001"}, "mode": {"herdless"}}, 400},
		{"POST", "/herd/run", url.Values{"requests": {"5"}, "mode": {"wild"}}, 400},
	} {
		t.Run(test.method+" "+test.path+" "+test.form.Encode(), func(t *testing.T) {
			ask := func(base string) page {
				v := newBrowser(t)
				v.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
				return v.do(v.request(test.method, base+test.path, test.form))
			}
			pa, pb := ask(a.url), ask(b.url)
			if pa.status != test.status || pb.status != test.status {
				t.Errorf("status: got %d on net/http and %d on gin, want %d", pa.status, pb.status, test.status)
			}
			for _, field := range []string{"Content-Type", "Location", "Cache-Control", "Content-Security-Policy", "Allow"} {
				ca, cb := strings.ToLower(pa.header.Get(field)), strings.ToLower(pb.header.Get(field))
				if ca, cb = strings.TrimSuffix(ca, "; charset=utf-8"), strings.TrimSuffix(cb, "; charset=utf-8"); ca != cb {
					t.Errorf("%s: got %q on net/http and %q on gin", field, ca, cb)
				}
			}
			if pa.header.Get("X-Node") != "a" || pb.header.Get("X-Node") != "b" {
				t.Errorf("X-Node: got %q and %q", pa.header.Get("X-Node"), pb.header.Get("X-Node"))
			}
		})
	}
}

// What visitors type is text on every page, and no page has a script or style
// of its own, which the policy would forbid.
func TestHostileInput(t *testing.T) {
	t.Parallel()
	p := start(t, nil, "-work", "0s")
	v := newBrowser(t)
	const evil = `<img src=x onerror=alert(1)>`
	const query = `"><script>alert('x')</script>&`
	v.post(p.url+"/login", url.Values{"name": {evil}})
	v.post(p.url+"/cart", url.Values{"id": {product}})
	pages := map[string]string{
		"search": v.get(p.url + "/search?q=" + url.QueryEscape(query)).body,
	}
	inline := regexp.MustCompile(`(?i)<[^>]*\s(style|on[a-z]+)=|<style|<script(>|\s[^>]*>[^<])|javascript:`)
	for _, path := range []string{"/", "/cart", "/login", "/herd", "/p/" + product} {
		pages[path] = v.get(p.url + path).body
	}
	for path, body := range pages {
		if strings.Contains(body, "<img") || strings.Contains(body, "<script>alert") {
			t.Errorf("%s repeats what a visitor typed as markup", path)
		}
		if found := inline.FindString(body); found != "" {
			t.Errorf("%s has inline code: %q", path, found)
		}
	}
	for path, want := range map[string]string{"search": query, "/cart": evil, "/login": evil} {
		if !strings.Contains(html.UnescapeString(pages[path]), want) {
			t.Errorf("%s does not show %q", path, want)
		}
	}
	if me := v.get(p.url + "/me").body; strings.Contains(me, "<img") {
		t.Errorf("/me repeats markup: %s", me)
	}
	// Shared pages know nobody.
	if strings.Contains(html.UnescapeString(pages["/"]), evil) {
		t.Error("the shared catalogue page names a visitor")
	}
}

// All nodes count together, whichever router they have: requests, hits, and what is
// put into carts.
func TestFigures(t *testing.T) {
	t.Parallel()
	p := start(t, nil, "-work", "0s")
	v := newBrowser(t)
	for range 6 { // on every node
		v.get(p.url + "/p/" + product)
	}
	for range 3 {
		v.post(p.url+"/cart", url.Values{"id": {product}})
	}
	type row struct {
		Name     string
		Requests int
	}
	var report struct {
		Total struct {
			Requests int
			Visitors int
		}
		Routes, Nodes []row
		Boards        map[string][]struct {
			Member string
			Score  float64
		}
	}
	eventually(t, "the figures of all nodes are there", func() bool {
		if err := json.Unmarshal([]byte(v.get(p.url+"/traffic?format=json").body), &report); err != nil {
			t.Fatal(err)
		}
		carts := report.Boards["put into carts"]
		return len(report.Nodes) == 3 && len(carts) == 1 && carts[0].Member == product && carts[0].Score == 3
	})
	requests := map[string]int{}
	for _, r := range report.Routes {
		requests[r.Name] = r.Requests
	}
	if got := requests["GET /p/{id}"] + requests["GET /p/:id"]; got != 6 || requests["POST /cart"] != 3 {
		t.Errorf("got %v, want 6 requests for the product and 3 for the cart", requests)
	}
	if page := v.get(p.url + "/traffic"); !strings.Contains(page.body, "</html>") || !strings.Contains(page.header.Get("Content-Security-Policy"), "sha256-") {
		t.Errorf("the page of the figures has the policy %q: %s", page.header.Get("Content-Security-Policy"), page.body)
	}
}

// A visitor sees where he is logged in, and ends what he likes, on whichever node.
func TestVisits(t *testing.T) {
	t.Parallel()
	p := start(t, nil, "-work", "0s")
	browsers := make([]*browser, 3)
	for i := range browsers {
		browsers[i] = newBrowser(t)
		browsers[i].post(p.url+"/login", url.Values{"name": {"Ada"}})
	}
	stranger := newBrowser(t)
	stranger.post(p.url+"/login", url.Values{"name": {"Rob"}})
	loggedIn := func(b *browser) bool { return strings.Contains(b.get(p.url+"/login").body, "Hello, ") }
	other := regexp.MustCompile(`action="/visits/end"><input type="hidden" name="id" value="([^"]+)"`)

	list := browsers[0].get(p.url + "/login").body
	found := other.FindAllStringSubmatch(list, -1)
	if len(found) != 2 || strings.Count(list, `class="here"`) != 1 || !strings.Contains(list, "from 127.0.0.1") {
		t.Fatalf("got %d other sessions, want 2 and the present one: %s", len(found), list)
	}
	stranger.post(p.url+"/visits/end", url.Values{"id": {found[0][1]}})
	stranger.post(p.url+"/visits/end-others", url.Values{})
	for i, b := range browsers {
		if !loggedIn(b) {
			t.Errorf("a stranger has ended session %d", i)
		}
	}

	browsers[0].post(p.url+"/visits/end", url.Values{"id": {found[0][1]}})
	if a, b := loggedIn(browsers[1]), loggedIn(browsers[2]); a == b {
		t.Errorf("one of two sessions was ended: got %t and %t", a, b)
	}
	browsers[0].post(p.url+"/visits/end-others", url.Values{})
	if !loggedIn(browsers[0]) || loggedIn(browsers[1]) || loggedIn(browsers[2]) || !loggedIn(stranger) {
		t.Error("not all other sessions of the visitor were ended, or too many")
	}
}

// Many clicks at once, on all nodes: each counts.
func TestNoClickIsLost(t *testing.T) {
	t.Parallel()
	slow := redistest.NewProxy(t, redistest.Standalone(t).Addr())
	slow.SetLatency(5 * time.Millisecond) // so that they overlap
	p := start(t, nil, "-work", "0s", "-redis", "redis://"+slow.Addr())
	v := newBrowser(t)
	v.post(p.url+"/login", url.Values{"name": {"Ada"}})
	var clicks sync.WaitGroup
	for range 30 {
		clicks.Go(func() {
			if got := v.do(v.request(http.MethodPost, p.url+"/cart", url.Values{"id": {product}})); got.status != http.StatusOK {
				t.Errorf("POST /cart: got %d, want 200 after the redirect", got.status)
			}
		})
	}
	clicks.Wait()
	if me := v.get(p.url + "/me").body; !strings.Contains(me, `"cart":30`) {
		t.Errorf("30 clicks, and the cart is %s", me)
	}
}

func TestFormsFromOtherSites(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	v := newBrowser(t)
	for i := range 3 { // on every node
		req := v.request(http.MethodPost, p.url+"/cart", url.Values{"id": {product}})
		req.Header.Set("Sec-Fetch-Site", "cross-site")
		if got := v.do(req); got.status != http.StatusForbidden || !strings.Contains(got.body, "Lone Sheep") {
			t.Errorf("a form of another site, try %d: got %d, want a 403 page", i, got.status)
		}
	}
}

// The limit of the search counts over all nodes, and the client cannot choose
// who it is.
func TestSearchLimit(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	v := newBrowser(t)
	var denied page
	for i := range 21 {
		req := v.request(http.MethodGet, p.url+"/search?q=wool", nil)
		req.Header.Set("X-Forwarded-For", fmt.Sprintf("203.0.113.%d", i))
		denied = v.do(req)
		if i < 20 && denied.status != http.StatusOK {
			t.Fatalf("search %d of 20: got %d, want 200", i+1, denied.status)
		}
	}
	wait, err := strconv.Atoi(denied.header.Get("Retry-After"))
	if denied.status != http.StatusTooManyRequests || err != nil || wait < 1 || wait > 3 {
		t.Fatalf("search 21: got %d with Retry-After %q, want 429 with at most 3 s", denied.status, denied.header.Get("Retry-After"))
	}
	if !strings.Contains(denied.body, fmt.Sprintf(`data-seconds="%d"`, wait)) {
		t.Errorf("the page does not count down from %d: %s", wait, denied.body)
	}
}

// Behind a trusted proxy, clients are told apart; without one they are not.
func TestTrustProxy(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		args   []string
		status int // of another client when the first has used up its searches
	}{
		{"trusted", []string{"-trust-proxy", "127.0.0.0/8"}, 200},
		{"not trusted", nil, 429},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := start(t, nil, append(test.args, "-node-only")...)
			v := newBrowser(t)
			search := func(client string) int {
				req := v.request(http.MethodGet, p.url+"/search?q=wool", nil)
				req.Header.Set("X-Forwarded-For", client)
				return v.do(req).status
			}
			for range 20 {
				search("203.0.113.1")
			}
			if got := search("203.0.113.1"); got != 429 {
				t.Errorf("search 21 of the first client: got %d, want 429", got)
			}
			if got := search("203.0.113.2"); got != test.status {
				t.Errorf("the second client: got %d, want %d", got, test.status)
			}
		})
	}
}

// Without Redis, shared pages still come, and a cart is a friendly 503 and never
// an empty one; when Redis is back so is the cart.
func TestRedisGone(t *testing.T) {
	t.Parallel()
	for _, router := range []string{"nethttp", "gin"} {
		t.Run(router, func(t *testing.T) {
			server := redistest.NewStandalone(t)
			p := start(t, nil, "-node-only", "-router", router, "-redis", server.URL(), "-work", "0s")
			v := newBrowser(t)
			expect := func(when, method, path string, form url.Values, status int) {
				t.Helper()
				got := v.do(v.request(method, p.url+path, form))
				if got.status != status {
					t.Errorf("%s, %s %s: got %d, want %d: %s", when, method, path, got.status, status, got.body)
				}
				if status == 503 && !strings.Contains(path, "z") && !strings.Contains(got.body, "Lone Sheep") {
					t.Errorf("%s, %s %s: the 503 is not a page of the shop: %s", when, method, path, got.body)
				}
			}
			recovered := func() {
				t.Helper()
				eventually(t, "/healthz recovers", func() bool {
					return v.do(v.request(http.MethodGet, p.url+"/healthz", nil)).status == 200
				})
			}
			v.post(p.url+"/cart", url.Values{"id": {product}})

			server.Stop(t)
			expect("while Redis hangs", "GET", "/cart", nil, 503)
			expect("while Redis hangs", "GET", "/healthz", nil, 503)
			expect("while Redis hangs", "GET", "/", nil, 200)
			server.Continue(t)
			recovered()
			if cart := v.get(p.url + "/cart"); !strings.Contains(cart.body, title) {
				t.Errorf("the cart was lost: %s", cart.body)
			}

			server.Kill(t)
			for _, path := range []string{"/", "/p/" + product, "/search?q=wool", "/readyz"} {
				expect("without Redis", "GET", path, nil, 200)
			}
			expect("without Redis", "GET", "/cart", nil, 503)
			expect("without Redis", "POST", "/cart", url.Values{"id": {product}}, 503)
			expect("without Redis", "GET", "/healthz", nil, 503)
			server.Restart(t) // with nothing in it
			recovered()
			v.post(p.url+"/cart", url.Values{"id": {product}})
		})
	}
}
