package responsecachetest

import (
	"strings"
	"testing"

	"github.com/dunglas/httpsfv"
)

// cacheStatus is about what the cache says of itself (RFC 9211). That the field
// parses, and says either hit or fwd, is looked at in every scenario.
func cacheStatus() []group {
	return []group{
		{
			section: "RFC 9211 §2.1 hit",
			rule:    "hit is true if and only if the request was not forwarded; then nothing is said that only means something with fwd",
			cases: []scenario{
				{name: "fresh", steps: flow(get().answer(200, minute), get().hit(1).says("hit; ttl=60; !fwd; !fwd-status; !stored; !collapsed"))},
				{name: "stale", steps: flow(
					get().answer(200, staleBy40(", stale-while-revalidate=1000")...),
					get().hit(1).refreshed(200, minute).says("hit; ttl=-40; !fwd; !stored"),
				)},
				{name: "304", steps: flow(get().answer(200, minute, `ETag: "a"`), get(`If-None-Match: "a"`).notModified(1).says("hit; ttl=60; !fwd"))},
				{name: "206", steps: flow(get().answer(200, minute), get("Range: bytes=0-3").hit(1).code(206).text("body").says("hit; ttl=60; !fwd"))},
				{name: "HEAD", steps: flow(get().answer(200, minute), ask("HEAD").hit(1).says("hit; ttl=60; !fwd"))},
			},
		},
		{
			section: "RFC 9211 §2.2 fwd",
			rule:    "fwd says why a request was forwarded, as exactly as the cache knows",
			cases: []scenario{
				{name: "uri-miss", steps: flow(get().answer(200, minute).says("fwd=uri-miss; !hit"))},
				{name: "uri-miss of what is not stored", steps: flow(get().answer(200).says("fwd=uri-miss; !hit; !stored"))},
				{name: "vary-miss", steps: flow(
					get("X-V: 1").answer(200, minute, "Vary: X-V").says("fwd=uri-miss"),
					get("X-V: 2").answer(200, minute, "Vary: X-V").says("fwd=vary-miss; stored"),
				)},
				{name: "stale", steps: flow(
					get().answer(200, minute, "Age: 100", `ETag: "a"`),
					get().answer(200, minute).says("fwd=stale; stored"),
				)},
				{name: "request, by no-cache", steps: flow(
					get().answer(200, minute),
					get("Cache-Control: no-cache").answer(200, minute).says("fwd=request; stored"),
				)},
				{name: "request, by max-age", steps: flow(
					get().answer(200, "Cache-Control: max-age=3600", "Age: 100"),
					get("Cache-Control: max-age=10").answer(200, minute).says("fwd=request; stored"),
				)},
				{name: "request, by no-store", steps: flow(
					get("Cache-Control: no-store").answer(200, minute).says("!hit; !stored"),
				)},
				{name: "method", steps: flow(
					ask("POST").answer(200).says("fwd=method; !hit; !stored"),
					ask("DELETE").answer(200).says("fwd=method"),
					ask("OPTIONS").answer(200).says("fwd=method"),
					ask("FOO").answer(200).says("fwd=method"),
				)},
			},
		},
		{
			section: "RFC 9211 §2.3 fwd-status",
			rule:    "fwd-status is the status that the origin answered if it is not that of the response",
			cases: []scenario{
				{name: "304", steps: flow(
					get().answer(200, minute, "Age: 100", `ETag: "a"`),
					get().answer(304, minute, `ETag: "a"`).gives(1).says("fwd=stale; fwd-status=304; stored"),
				)},
				{name: "304 after no-cache", steps: flow(
					get().answer(200, minute, `ETag: "a"`),
					get("Cache-Control: no-cache").answer(304, minute, `ETag: "a"`).gives(1).says("fwd=request; fwd-status=304"),
				)},
			},
		},
		{
			section: "RFC 9211 §2.4 ttl",
			rule:    "ttl is what is left of the lifetime, in seconds",
			cases: []scenario{
				{name: "of a hit", steps: flow(get().answer(200, "Cache-Control: max-age=3600", "Age: 600"), get().hit(1).says("hit; ttl=3000"))},
				{name: "of what is being stored", steps: flow(get().answer(200, "Cache-Control: max-age=3600", "Age: 600").says("stored; ttl=3000"))},
				{name: "by s-maxage", steps: flow(get().answer(200, "Cache-Control: max-age=60, s-maxage=3600"), get().hit(1).says("hit; ttl=3600"))},
				{name: "by Expires", steps: flow(get().answer(200, "Expires: "+httpDate(3600)), get().hit(1).says("hit; ttl=3600"))},
				{name: "after a 304", steps: flow(
					get().answer(200, minute, "Age: 100", `ETag: "a"`),
					get().answer(304, "Cache-Control: max-age=3600", `ETag: "a"`).gives(1).says("stored; ttl=3600"),
				)},
			},
		},
		{
			section: "RFC 9211 §2.5 stored",
			rule:    "stored is true if and only if the response was stored",
			cases: []scenario{
				{name: "stored", steps: flow(get().answer(200, minute).says("fwd=uri-miss; stored"))},
				{name: "no-store", steps: flow(get().answer(200, "Cache-Control: no-store").says("!stored"))},
				{name: "private", steps: flow(get().answer(200, "Cache-Control: private, max-age=60").says("!stored"))},
				{name: "no lifetime", steps: flow(get().answer(200).says("!stored"))},
				{name: "Vary: *", steps: flow(get().answer(200, minute, "Vary: *").says("!stored"))},
				{name: "206", steps: flow(get("Range: bytes=0-3").answer(206, minute, "Content-Range: bytes 0-3/10").with("0123").says("!stored"))},
				{name: "Authorization", steps: flow(get("Authorization: Basic YTpi").answer(200, minute).says("!stored"))},
			},
		},
		{
			section: "RFC 9211 §2.7 key",
			rule:    "key is a String that names what was looked for; it is the same for the same thing, and gives no credentials away",
			cases: []scenario{
				{name: "of a hit", steps: flow(get().answer(200, minute), get().hit(1).says("hit; key"))},
				{name: "no secrets", steps: flow(
					get("X-Secret: verysecret").answer(200, minute, "Vary: X-Secret"),
					get("X-Secret: verysecret").hit(1).checked(isSilentOn("verysecret")),
				)},
			},
		},
		{
			section: "RFC 9211 §2 other caches",
			rule:    "the members of caches closer to the origin stay, in front of this cache's own",
			cases: []scenario{
				{name: "one", steps: flow(
					get().answer(200, minute, "Cache-Status: Origin; hit; ttl=10").checked(members("Origin", cacheName)),
					get().hit(1).checked(members("Origin", cacheName)),
					get().hit(1).checked(members("Origin", cacheName)),
				)},
				{name: "several", steps: flow(
					get().answer(200, minute, `Cache-Status: "CDN Company Here"; hit, Next; fwd=stale`).checked(members("CDN Company Here", "Next", cacheName)),
					get().hit(1).checked(members("CDN Company Here", "Next", cacheName)),
				)},
				{name: "on several lines", steps: flow(
					get().answer(200, minute, "Cache-Status: One; hit", "Cache-Status: Two; hit").checked(members("One", "Two", cacheName)),
					get().hit(1).checked(members("One", "Two", cacheName)),
				)},
				{name: "of the same name", steps: flow(
					get().answer(200, minute, "Cache-Status: herdless; fwd=uri-miss; stored").checked(members(cacheName, cacheName)),
					get().hit(1).checked(members(cacheName, cacheName)),
				)},
				{name: "passed on", steps: flow(ask("POST").answer(200, "Cache-Status: Origin; hit").checked(members("Origin", cacheName)))},
			},
		},
	}
}

// members looks at which caches Cache-Status names.
func members(want ...string) check {
	return func(t *testing.T, r *response) {
		t.Helper()
		list, err := httpsfv.UnmarshalList(r.header.Values("Cache-Status"))
		if err != nil || len(list) != len(want) {
			t.Errorf("Cache-Status is %q (%v), want members of %q", r.header.Values("Cache-Status"), err, want)
			return
		}
		for i, member := range list {
			item, _ := member.(httpsfv.Item)
			if item.Value != httpsfv.Token(want[i]) && item.Value != want[i] {
				t.Errorf("Cache-Status is %q, want members of %q", r.header.Values("Cache-Status"), want)
			}
		}
	}
}

func isSilentOn(secret string) check {
	return func(t *testing.T, r *response) {
		t.Helper()
		for _, line := range r.header.Values("Cache-Status") {
			if strings.Contains(line, secret) {
				t.Errorf("Cache-Status is %q, and has %q in it", line, secret)
			}
		}
	}
}
