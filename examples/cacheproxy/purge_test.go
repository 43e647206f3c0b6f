package main_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/herdless/herdless/internal/redistest"
)

const token = "s3cret-of_the.purge~token+/="

// purge asks for a purge of the page at a URL, or of what header names, and returns
// the status.
func purge(t *testing.T, url string, header ...string) int {
	t.Helper()
	req := request(t, "PURGE", url, "shop.test")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return do(t, newClient(t), req).status
}

// taggedOrigin starts an origin whose pages never get stale and tell how often they
// were made. Their tags are "all" and the path.
func taggedOrigin(t *testing.T) string {
	var made atomic.Int64
	url, _ := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			t.Errorf("the origin got a %s", r.Method)
		}
		w.Header().Set("Cache-Control", "max-age=3600, stale-while-revalidate=3600")
		w.Header().Set("Cache-Tag", "all, "+r.URL.Path)
		fmt.Fprintf(w, "made as number %d", made.Add(1))
	})
	return url
}

// stays checks that a page is still stored. A proxy may have to do without its store
// for a moment where the machine is busy, and asks the origin then.
func stays(t *testing.T, url string, want page) {
	t.Helper()
	eventually(t, url+" is "+want.body, func() bool { return get(t, url).body == want.body })
}

func TestPurge(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ router, store string }{
		{"nethttp", "memory"},
		{"nethttp", "redis"},
		{"gin", "memory"},
		{"gin", "redis"},
	} {
		t.Run(test.router+"/"+test.store, func(t *testing.T) {
			t.Parallel()
			args := []string{"-origin", taggedOrigin(t), "-router", test.router}
			if test.store == "redis" {
				args = append(args, "-redis", redistest.NewStandalone(t).URL())
			}
			p := startIn(t, []string{"CACHEPROXY_PURGE_TOKEN=" + token}, args...)
			other := p
			if test.store == "redis" {
				other = start(t, append(args, "-purge-token", token)...)
			}
			bearer := []string{"Authorization", "Bearer " + token}
			a, b := p.url+"/a?b=c", p.url+"/d"
			for _, way := range []struct {
				name     string
				url      string
				header   []string
				goes     bool // page a does
				bothGo   bool // and page b
				getStale bool // instead
			}{
				{name: "by URL", url: a, goes: true},
				{name: "by another URL", url: p.url + "/a"},
				{name: "by tag", url: p.url + "/", header: []string{"Cache-Tag", "other, /a"}, goes: true},
				{name: "by tag in Surrogate-Key", url: p.url + "/", header: []string{"Surrogate-Key", "other all"}, goes: true, bothGo: true},
				{name: "by another tag", url: p.url + "/", header: []string{"Cache-Tag", "other"}},
				{name: "softly by URL", url: a, header: []string{"Soft-Purge", "1"}, getStale: true},
				{name: "softly by tag", url: p.url + "/", header: []string{"Soft-Purge", "1", "Cache-Tag", "/a"}, getStale: true},
			} {
				pageA, pageB := stored(t, a), stored(t, b)
				if pageA.header.Get("Cache-Tag") != "" {
					t.Errorf("%s: the client gets Cache-Tag: %q", way.name, pageA.header["Cache-Tag"])
				}
				otherA := strings.Replace(a, p.url, other.url, 1)
				stays(t, otherA, pageA)
				if got := purge(t, way.url, append(way.header, bearer...)...); got != http.StatusNoContent {
					t.Fatalf("%s: status %d, want 204", way.name, got)
				}
				switch {
				case way.goes:
					if got := get(t, a); got.body == pageA.body {
						t.Errorf("%s: got %q, %q, want another page", way.name, got.body, got.cacheStatus())
					}
					eventually(t, way.name+": the other proxy has the new page", func() bool { return get(t, otherA).body != pageA.body })
				case way.getStale:
					if got := get(t, a); got.isHit() && (got.body != pageA.body || strings.Contains(got.cacheStatus(), "; ttl=3")) {
						t.Errorf("%s: got %q, %q, want the stale page", way.name, got.body, got.cacheStatus())
					}
					eventually(t, way.name+": the page is made anew", func() bool { return get(t, a).body != pageA.body })
				default:
					stays(t, a, pageA)
				}
				if way.bothGo {
					if got := get(t, b); got.body == pageB.body {
						t.Errorf("%s: got %q, %q, want another page", way.name, got.body, got.cacheStatus())
					}
				} else {
					stays(t, b, pageB)
				}
			}
			eventually(t, "purges are in the access log", func() bool {
				return strings.Contains(strings.Join(p.stderr.requests(), "\n"), " method=PURGE host=shop.test uri=\"/a?b=c\" status=204 ")
			})
			if log := strings.Join(p.stderr.requests(), "\n"); strings.Contains(log, token) {
				t.Errorf("the token is in the access log:\n%s", log)
			}
		})
	}
}

// Nobody purges who does not know the token, and without one nobody does. No PURGE
// gets to the origin, which may take it from a proxy that it trusts.
func TestPurgeIsClosed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		args   []string
		header []string
	}{
		{name: "no token is set"},
		{name: "no token is set, an empty one comes", header: []string{"Authorization", "Bearer "}},
		{name: "no token is set, one comes", header: []string{"Authorization", "Bearer " + token}},
		{name: "none comes", args: []string{"-purge-token", token}},
		{name: "an empty one comes", args: []string{"-purge-token", token}, header: []string{"Authorization", "Bearer "}},
		{name: "another one comes", args: []string{"-purge-token", token}, header: []string{"Authorization", "Bearer " + token + "x"}},
		{name: "a part comes", args: []string{"-purge-token", token}, header: []string{"Authorization", "Bearer " + token[:5]}},
		{name: "another scheme", args: []string{"-purge-token", token}, header: []string{"Authorization", "Basic " + token}},
		{name: "no scheme", args: []string{"-purge-token", token}, header: []string{"Authorization", token}},
		{name: "another field", args: []string{"-purge-token", token}, header: []string{"X-Purge-Token", token}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := start(t, append(test.args, "-origin", taggedOrigin(t))...)
			before := stored(t, p.url+"/a")
			for _, tag := range []string{"", "all"} {
				header := test.header
				if tag != "" {
					header = append(header[:len(header):len(header)], "Cache-Tag", tag)
				}
				if got := purge(t, p.url+"/a", header...); got != http.StatusForbidden {
					t.Errorf("status %d, want 403", got)
				}
			}
			stays(t, p.url+"/a", before)
		})
	}
}

// A purge that did not get to Redis is not said to be one, and the log tells of it
// once: go-redis by itself writes a line for each connection that it tries.
func TestPurgeWithoutRedis(t *testing.T) {
	t.Parallel()
	redis := redistest.NewStandalone(t)
	p := start(t, "-origin", taggedOrigin(t), "-redis", redis.URL(), "-purge-token", token)
	get(t, p.url+"/a")
	redis.Kill(t)
	if got := purge(t, p.url+"/a", "Authorization", "Bearer "+token); got != http.StatusServiceUnavailable {
		t.Errorf("status %d, want 503", got)
	}
	eventually(t, "the log tells of the purge", func() bool { return strings.Contains(p.stderr.String(), "a purge has failed") })
	if log := p.stderr.String(); strings.Contains(log, "failed to dial") {
		t.Errorf("the log is %q, want nothing of dialling in it", log)
	}
}
