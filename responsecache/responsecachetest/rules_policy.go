package responsecachetest

import (
	"net/http"
	"strings"
	"time"

	"github.com/herdless/herdless/responsecache"
)

// policies is about what a route says besides the handler.
func policies() []group {
	return append([]group{policyTTL(), policyStatuses(), policyStale(), policyPublic()}, policyKeys()...)
}

func policyTTL() group {
	return group{
		section: "Policy TTL",
		rule:    "TTL is the lifetime of responses that state none, and the longest of those that do; what the handler says counts if it allows less",
		policy:  &responsecache.Policy{TTL: time.Minute},
		cases: []scenario{
			{name: "silent", steps: flow(get().answer(200).says("fwd=uri-miss; stored; ttl=60"), get().hit(1).says("hit; ttl=60"))},
			{name: "public", steps: reused(200, "Cache-Control: public")},
			{name: "other directives", steps: reused(200, "Cache-Control: no-transform, immutable")},
			{name: "longer", steps: flow(get().answer(200, "Cache-Control: max-age=3600"), get().hit(1).says("hit; ttl=60"))},
			{name: "longer s-maxage", steps: flow(get().answer(200, "Cache-Control: s-maxage=3600"), get().hit(1).says("hit; ttl=60"))},
			{name: "longer Expires", steps: flow(get().answer(200, "Expires: "+httpDate(3600)), get().hit(1).says("hit; ttl=60"))},
			{name: "longer, targeted", steps: flow(get().answer(200, "CDN-Cache-Control: max-age=3600"), get().hit(1).says("hit; ttl=60"))},
			{name: "shorter", steps: flow(get().answer(200, "Cache-Control: max-age=40"), get().hit(1).says("hit; ttl=40"))},
			{name: "with Last-Modified", steps: flow(get().answer(200, "Last-Modified: "+httpDate(-1_000_000)), get().hit(1).says("hit; ttl=60"))},
			{name: "max-age=0", steps: notReused(200, "Cache-Control: max-age=0")},
			{name: "s-maxage=0", steps: notReused(200, "Cache-Control: s-maxage=0")},
			{name: "no-store", steps: notReused(200, "Cache-Control: no-store")},
			{name: "private", steps: notReused(200, "Cache-Control: private")},
			{name: "no-cache", steps: notReused(200, "Cache-Control: no-cache")},
			{name: "no-store, targeted", steps: notReused(200, "CDN-Cache-Control: no-store")},
			{name: "Expires: 0", steps: notReused(200, "Expires: 0")},
			{name: "invalid max-age", steps: notReused(200, "Cache-Control: max-age=x")},
			{name: "Vary: *", steps: notReused(200, "Vary: *")},
			{name: "Set-Cookie", in: safe, steps: notReused(200, "Set-Cookie: a=b")},
			{name: "Cookie", in: safe, steps: flow(get("Cookie: id=1").answer(200), get("Cookie: id=2").answer(200))},
			{name: "Authorization", steps: flow(get("Authorization: Basic YTpi").answer(200), get("Authorization: Basic Yzpk").answer(200))},
			{name: "206", steps: notReused(206, "Content-Range: bytes 0-5/10")},
			{name: "HEAD, then GET", steps: flow(ask("HEAD").answer(200), get().may(steps(1), 200), get().hit(1, 2))},
			{name: "POST", steps: flow(ask("POST").answer(200), ask("POST").answer(200), get().answer(200))},
		},
	}
}

func policyStatuses() group {
	some := &responsecache.Policy{TTL: time.Minute, Statuses: []int{404, 500}}
	minutes := &responsecache.Policy{TTL: time.Minute}
	return group{
		section: "Policy Statuses",
		rule:    "TTL holds for 200, or for those statuses that are named, and a lifetime that is stated for any",
		cases: []scenario{
			{name: "404 by default", policy: minutes, steps: notReused(404)},
			{name: "500 by default", policy: minutes, steps: notReused(500)},
			{name: "301 by default", policy: minutes, steps: notReused(301, "Location: /x")},
			{name: "404 with a lifetime", policy: minutes, steps: reused(404, minute)},
			{name: "named", policy: some, steps: reused(404)},
			{name: "another that is named", policy: some, steps: reused(500)},
			{name: "not named", policy: some, steps: notReused(200)},
			{name: "not named, with a lifetime", policy: some, steps: reused(200, minute)},
			{name: "named, with no-store", policy: some, steps: notReused(404, "Cache-Control: no-store")},
		},
	}
}

func policyStale() group {
	p := &responsecache.Policy{StaleWhileRevalidate: 1000 * time.Second, StaleIfError: 1000 * time.Second}
	onlyErrors := &responsecache.Policy{
		StaleIfError: 1000 * time.Second,
		IsError:      func(status int, h http.Header) bool { return status == 500 || h.Get("X-Failed") != "" },
	}
	errorsByDefault := &responsecache.Policy{StaleIfError: 1000 * time.Second}
	return group{
		section: "Policy StaleWhileRevalidate, StaleIfError",
		rule:    "they are the windows of responses that state none, and allow nothing that the handler forbids",
		policy:  p,
		cases: []scenario{
			{name: "while revalidating", steps: flow(
				get().answer(200, staleBy40("")...),
				get().hit(1).refreshed(200, minute),
				get().hit(2).eventually(),
			)},
			{name: "if there is an error", policy: errorsByDefault, steps: flow(get().answer(200, staleBy40("")...), get().answer(503).gives(1))},
			{name: "if there is a panic", policy: errorsByDefault, steps: flow(get().answer(200, staleBy40("")...), get().fails().gives(1))},
			{name: "not for 500", policy: errorsByDefault, steps: flow(get().answer(200, staleBy40("")...), get().answer(500))},
			{name: "what is an error", policy: onlyErrors, steps: flow(get().answer(200, staleBy40("")...), get().answer(500).gives(1))},
			{name: "what is an error, by a field", policy: onlyErrors, steps: flow(get().answer(200, staleBy40("")...), get().answer(404, "X-Failed: 1").gives(1))},
			{name: "what is none", policy: onlyErrors, steps: flow(get().answer(200, staleBy40("")...), get().answer(503))},
			{name: "the handler says zero", steps: notReused(200, staleBy40(", stale-while-revalidate=0")...)},
			{name: "the handler says less", steps: notReused(200, staleBy40(", stale-while-revalidate=10")...)},
			{name: "the handler says less if there is an error", in: safe, policy: errorsByDefault, steps: flow(
				get().answer(200, staleBy40(", stale-if-error=10")...), get().answer(503),
			)},
			{name: "must-revalidate", steps: notReused(200, staleBy40(", must-revalidate")...)},
			{name: "s-maxage", steps: notReused(200, staleBy40(", s-maxage=60")...)},
			{name: "no-cache", steps: notReused(200, staleBy40(", no-cache")...)},
			{name: "must-revalidate and an error", policy: errorsByDefault, steps: flow(
				get().answer(200, staleBy40(", must-revalidate")...), get().answer(503),
			)},
		},
	}
}

func policyPublic() group {
	return group{
		section: "Policy Public",
		rule:    "with Public, requests with credentials fill the store and are answered from it as all others; what the handler forbids stays forbidden",
		policy:  &responsecache.Policy{TTL: time.Minute, Public: true},
		cases: []scenario{
			{name: "Cookie", steps: flow(get("Cookie: id=1").answer(200), get("Cookie: id=2").hit(1), get().hit(1))},
			{name: "Authorization", steps: flow(get("Authorization: Basic YTpi").answer(200), get("Authorization: Basic Yzpk").hit(1), get().hit(1))},
			{name: "after others", steps: flow(get().answer(200), get("Cookie: id=1", "Authorization: Basic YTpi").hit(1))},
			{name: "private", steps: flow(get("Cookie: id=1").answer(200, "Cache-Control: private"), get("Cookie: id=2").answer(200))},
			{name: "no-store", steps: notReused(200, "Cache-Control: no-store")},
			{name: "Set-Cookie", in: safe, steps: notReused(200, "Set-Cookie: a=b")},
			{name: "Vary: Cookie", steps: flow(
				get("Cookie: id=1").answer(200, "Vary: Cookie"),
				get("Cookie: id=2").answer(200, "Vary: Cookie"),
				get("Cookie: id=1").hit(1),
			)},
		},
	}
}

func policyKeys() []group {
	forTenant := &responsecache.Policy{TTL: time.Minute, Key: func(r *http.Request) string { return r.Header.Get("X-Tenant") }}
	short := strings.Repeat("x", 100)
	return []group{
		{
			section: "Policy Vary",
			rule:    "responses vary on those fields, too, and say so",
			policy:  &responsecache.Policy{TTL: time.Minute, Vary: []string{"X-Tenant"}},
			cases: []scenario{
				{name: "another value", steps: flow(
					get("X-Tenant: 1").answer(200).lines("Vary: X-Tenant"),
					get("X-Tenant: 2").answer(200),
					get("X-Tenant: 1").hit(1).lines("Vary: X-Tenant"),
					get("X-Tenant: 2").hit(2),
					get().answer(200),
				)},
				{name: "with those of the handler", steps: flow(
					get("X-Tenant: 1", "X-V: 1").answer(200, "Vary: X-V"),
					get("X-Tenant: 1", "X-V: 2").answer(200, "Vary: X-V"),
					get("X-Tenant: 2", "X-V: 1").answer(200, "Vary: X-V"),
					get("X-Tenant: 1", "X-V: 1").hit(1).lines("Vary: X-V, X-Tenant"),
				)},
				{name: "named by both", steps: flow(get("X-Tenant: 1").answer(200, "Vary: X-Tenant"), get("X-Tenant: 1").hit(1).lines("Vary: X-Tenant"))},
			},
		},
		{
			section: "Policy Key",
			rule:    "requests for which Key says something else never share, and those for which it says the same do",
			policy:  forTenant,
			cases: []scenario{
				{name: "another key", steps: flow(
					get("X-Tenant: 1").answer(200),
					get("X-Tenant: 2").answer(200),
					get("X-Tenant: 1").hit(1),
					get("X-Tenant: 2").hit(2),
					get().answer(200),
				)},
				{name: "the same key", steps: flow(get("X-Tenant: 1", "X-Other: 1").answer(200), get("X-Tenant: 1", "X-Other: 2").hit(1))},
			},
		},
		{
			section: "Policy Tags",
			rule:    "Surrogate-Key and Cache-Tag are for the cache, and taken off on the way out",
			policy:  &responsecache.Policy{TTL: time.Minute, Tags: []string{"of-the-route"}},
			cases: []scenario{
				{name: "stored", steps: flow(
					get().answer(200, "Surrogate-Key: a b", "Cache-Tag: c,d").lines("!Surrogate-Key", "!Cache-Tag"),
					get().hit(1).lines("!Surrogate-Key", "!Cache-Tag"),
				)},
				{name: "not stored", steps: flow(get().answer(200, "Cache-Control: no-store", "Surrogate-Key: a").lines("!Surrogate-Key"))},
				{name: "304", steps: flow(
					get().answer(200, "Surrogate-Key: a", "Cache-Tag: b", `ETag: "a"`),
					get(`If-None-Match: "a"`).notModified(1).lines("!Surrogate-Key", "!Cache-Tag"),
				)},
				{name: "in lower case", steps: flow(get().answer(200, "surrogate-key: a", "cache-tag: b").lines("!Surrogate-Key", "!Cache-Tag"))},
			},
		},
		{
			section: "Policy MaxBody",
			rule:    "a longer body passes through, and is not stored",
			policy:  &responsecache.Policy{TTL: time.Minute, MaxBody: 100},
			cases: []scenario{
				{name: "as long", steps: flow(get().answer(200).with(short), get().hit(1).withLength())},
				{name: "longer", steps: flow(get().answer(200).with(short+"1"), get().answer(200).with(short+"2"))},
				{name: "longer, and says so", steps: flow(
					get().answer(200, "Content-Length: 101").with(short+"1").says("!stored"),
					get().answer(200, "Content-Length: 101").with(short+"2"),
				)},
				{name: "far longer", steps: flow(get().answer(200).with(text(3_000_000)), get().answer(200).with(text(3_000_001)))},
				{name: "a range of it", steps: flow(
					get("Range: bytes=0-3").answer(200).with("0123"+short).anyStatus().anyText().checked(contains("0123")),
					get().answer(200).with("4567"+short),
				)},
			},
		},
		{
			section: "Policy Methods",
			rule:    "only methods that are named are cached",
			cases: []scenario{
				{name: "GET only", policy: onlyGET, steps: flow(get().answer(200), ask("HEAD").answer(200), get().hit(1))},
				{name: "HEAD only", policy: onlyHEAD, steps: flow(get().answer(200), get().answer(200))},
				{name: "POST still invalidates", policy: onlyGET, steps: flow(get().answer(200), ask("POST").answer(200), get().answer(200))},
			},
		},
	}
}

var (
	onlyGET  = &responsecache.Policy{TTL: time.Minute, Methods: []string{http.MethodGet}}
	onlyHEAD = &responsecache.Policy{TTL: time.Minute, Methods: []string{http.MethodHead}}
)
