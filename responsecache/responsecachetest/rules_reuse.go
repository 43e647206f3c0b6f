package responsecachetest

import (
	"strings"
	"testing"
)

// reuse is about which requests a stored response answers (RFC 9111 §4).
func reuse() []group {
	return []group{
		{
			section: "RFC 9111 §4 target URI",
			rule:    "a stored response answers requests for the same URI only",
			cases: []scenario{
				different("path", "/a", "/b"),
				different("case of the path", "/a", "/A"),
				different("slash at the end", "/a", "/a/"),
				different("two slashes", "/a/b", "/a//b"),
				different("encoded slash", "/a/b", "/a%2Fb"),
				different("encoded question mark", "/a?b", "/a%3Fb"),
				different("query", "?a=1", "?a=2"),
				different("query or none", "", "?a=1"),
				different("empty query or none", "/a", "/a?"),
				different("order of the query", "?a=1&b=2", "?b=2&a=1"),
				different("encoded ampersand", "?a=1&b=2", "?a=1%26b=2"),
				different("semicolon", "?a=1;b=2", "?a=1&b=2"),
				{name: "long ones that end differently", steps: flow(
					get().at("?"+strings.Repeat("x", 5000)+"a").answer(200, minute),
					get().at("?"+strings.Repeat("x", 5000)+"b").answer(200, minute),
					get().at("?"+strings.Repeat("x", 5000)+"a").hit(1),
				)},
				{name: "Host", steps: flow(
					get("Host: one.example").answer(200, minute),
					get("Host: two.example").answer(200, minute),
					get("Host: one.example:8080").answer(200, minute),
					get("Host: one.example").hit(1),
					get("Host: two.example").hit(2),
				)},
				{name: "fields that are not the URI", steps: flow(
					get().answer(200, minute),
					get("X-Forwarded-Host: evil.example", "X-Original-Url: /evil", "X-Http-Method-Override: POST").hit(1),
				)},
			},
		},
		{
			section: "RFC 9110 §4.2.3 normalised URI",
			rule:    "a host is not case-sensitive",
			cases: []scenario{
				{name: "case of the host", steps: flow(get("Host: one.example").answer(200, minute), get("Host: ONE.Example").hit(1))},
			},
		},
		{
			section: "RFC 9111 §4 methods",
			rule:    "a method is answered from the store only if that is defined for it; all others are written through",
			cases: []scenario{
				writtenThrough("POST"), writtenThrough("PUT"), writtenThrough("DELETE"), writtenThrough("PATCH"),
				writtenThrough("OPTIONS"), writtenThrough("TRACE"), writtenThrough("FOO"),
			},
		},
		{
			section: "RFC 9111 §4 most recent response",
			rule:    "of several responses the most recent one is used",
			cases: []scenario{
				{name: "after no-cache", steps: flow(
					get().answer(200, minute),
					get("Cache-Control: no-cache").answer(200, minute),
					get().hit(2),
				)},
				{name: "after it became stale", steps: flow(
					get().answer(200, minute, "Age: 100", `ETag: "a"`),
					get().answer(200, minute),
					get().hit(2),
				)},
				{name: "with another status", steps: flow(
					get().answer(200, minute),
					get("Cache-Control: no-cache").answer(404, minute),
					get().hit(2),
				)},
				{name: "of one variant", steps: flow(
					get("X-V: 1").answer(200, minute, "Vary: X-V"),
					get("X-V: 2").answer(200, minute, "Vary: X-V"),
					get("X-V: 1", "Cache-Control: no-cache").answer(200, minute, "Vary: X-V"),
					get("X-V: 1").hit(3),
					get("X-V: 2").hit(2),
				)},
				{name: "one that must not be stored", steps: flow(
					get().answer(200, minute, "Age: 100"),
					get().answer(200, "Cache-Control: no-store"),
					get().answer(200, minute),
				)},
			},
		},
	}
}

func different(name, one, other string) scenario {
	return scenario{name: name, steps: flow(
		get().at(one).answer(200, minute),
		get().at(other).answer(200, minute),
		get().at(one).hit(1),
		get().at(other).hit(2),
	)}
}

func writtenThrough(method string) scenario {
	return scenario{name: method, steps: flow(
		get().answer(200, minute),
		ask(method).answer(200),
		ask(method).answer(200),
	)}
}

// collapsing is about requests that come together (RFC 9111 §4).
func collapsing() []group {
	return []group{
		{
			section: "RFC 9111 §4 collapsed requests",
			rule:    "a response that may be shared answers all requests that have come meanwhile; one that must not is for one of them alone",
			cases: []scenario{
				{name: "one for all", steps: flow(get().atOnce(5).answer(200, minute).checked(fromOneRun))},
				{name: "private", steps: flow(get().atOnce(5).may(nil, 200, "Cache-Control: private, max-age=60"))},
				{name: "no-store", steps: flow(get().atOnce(5).may(nil, 200, "Cache-Control: no-store"))},
				{name: "Vary: *", steps: flow(get().atOnce(5).may(nil, 200, minute, "Vary: *"))},
				{name: "no-cache", steps: flow(get().atOnce(5).may(nil, 200, "Cache-Control: no-cache"))},
				{name: "Set-Cookie", in: safe, steps: flow(get().atOnce(5).may(nil, 200, minute, "Set-Cookie: a=b"))},
				{name: "Authorization", steps: flow(get("Authorization: Basic YTpi").atOnce(5).may(nil, 200, minute))},
				{name: "POST", steps: flow(ask("POST").atOnce(5).may(nil, 200, minute))},
				{name: "no-store of the requests", steps: flow(get("Cache-Control: no-store").atOnce(5).may(nil, 200, minute))},
				{name: "Cookie", in: safe, steps: flow(get("Cookie: id=1").atOnce(5).may(nil, 200, minute))},
			},
		},
	}
}

// fromOneRun is said of each of several responses that one run has made.
func fromOneRun(t *testing.T, r *response) {
	t.Helper()
	member, err := lastMember(r.header)
	if err != nil {
		t.Errorf("Cache-Status: %v", err)
		return
	}
	_, hit := member.Params.Get("hit")
	collapsed, _ := member.Params.Get("collapsed")
	stored, _ := member.Params.Get("stored")
	if !hit && collapsed != true && stored != true {
		t.Errorf("Cache-Status is %q: neither a hit, nor collapsed, nor stored", r.header.Values("Cache-Status"))
	}
}
