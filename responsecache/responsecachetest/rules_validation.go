package responsecachetest

import (
	"net/http"
	"testing"
)

// validation is about how a stale response is asked for again (RFC 9111 §4.3.1,
// §4.3.3).
func validation() []group {
	modified := httpDate(-10_000)
	stale := func(lines ...string) []string { return append([]string{minute, "Age: 100"}, lines...) }
	return []group{
		{
			section: "RFC 9111 §4.3.1 validation requests",
			rule:    "what is stale is validated by the validators that it came with",
			cases: []scenario{
				{name: "ETag", steps: flow(
					get().answer(200, stale(`ETag: "a"`)...),
					get().answer(304, minute, `ETag: "a"`).saw(`If-None-Match: "a"`, "!If-Modified-Since").gives(1).lines(`ETag: "a"`),
					get().hit(1).aged(0),
				)},
				{name: "weak ETag", steps: flow(
					get().answer(200, stale(`ETag: W/"a"`)...),
					get().answer(304, minute, `ETag: W/"a"`).saw(`If-None-Match: W/"a"`).gives(1),
					get().hit(1),
				)},
				{name: "Last-Modified", steps: flow(
					get().answer(200, stale("Last-Modified: "+modified)...),
					get().answer(304, minute, "Last-Modified: "+modified).saw("If-Modified-Since: "+modified, "!If-None-Match").gives(1),
					get().hit(1),
				)},
				{name: "both", steps: flow(
					get().answer(200, stale(`ETag: "a"`, "Last-Modified: "+modified)...),
					get().answer(304, minute, `ETag: "a"`).saw(`If-None-Match: "a"`).gives(1),
					get().hit(1),
				)},
				{name: "neither", steps: flow(
					get().answer(200, stale()...),
					get().answer(200, minute).saw("!If-None-Match", "!If-Modified-Since"),
				)},
				{name: "of a 404", steps: flow(
					get().answer(404, stale(`ETag: "a"`)...),
					get().may(steps(1), 200, minute),
				)},
				{name: "by max-age=0", steps: flow(
					get().answer(200, minute, `ETag: "a"`),
					get("Cache-Control: max-age=0").answer(304, minute, `ETag: "a"`).saw(`If-None-Match: "a"`).gives(1),
				)},
				{name: "by no-cache", steps: flow(
					get().answer(200, minute, `ETag: "a"`),
					get("Cache-Control: no-cache").answer(304, minute, `ETag: "a"`).saw(`If-None-Match: "a"`).gives(1),
				)},
				{name: "with other fields of the request", steps: flow(
					get().answer(200, stale(`ETag: "a"`)...),
					get("X-Other: 1").answer(304, minute, `ETag: "a"`).saw(`If-None-Match: "a"`, "X-Other: 1").gives(1),
				)},
				{name: "for a range", steps: flow(
					get().answer(200, stale(`ETag: "a"`)...),
					get("Range: bytes=0-3").answer(304, minute, `ETag: "a"`).saw(`If-None-Match: "a"`, "!Range").gives(1).code(206).text("body"),
					get().hit(1),
				)},
			},
		},
		{
			section: "RFC 9111 §4.3.2 a client's validators",
			rule:    "a client's own validators are not taken for the cache's: it gets a 304 only if it has what the cache gives it",
			cases: []scenario{
				{name: "another ETag", steps: flow(
					get().answer(200, stale(`ETag: "a"`)...),
					get(`If-None-Match: "x"`).answer(304, minute, `ETag: "a"`).saw(`If-None-Match: "a"`).gives(1),
				)},
				{name: "the same ETag", steps: flow(
					get().answer(200, stale(`ETag: "a"`)...),
					get(`If-None-Match: "a"`).answer(304, minute, `ETag: "a"`).saw(`If-None-Match: "a"`).gives(1).code(304).text(""),
					get().hit(1),
				)},
				{name: "another date", steps: flow(
					get().answer(200, stale("Last-Modified: "+modified)...),
					get("If-Modified-Since: "+httpDate(-20_000)).answer(304, minute, "Last-Modified: "+modified).saw("If-Modified-Since: "+modified).gives(1),
				)},
				{name: "a new response instead", steps: flow(
					get().answer(200, stale(`ETag: "a"`)...),
					get(`If-None-Match: "x"`).answer(200, minute, `ETag: "b"`),
					get().hit(2),
				)},
				{name: "nothing to validate", steps: flow(
					get().answer(200, "Cache-Control: max-age=60, stale-if-error=1000", "Age: 100"),
					get(`If-None-Match: "x"`).answer(200, minute),
					get().hit(2),
				)},
				{name: "unconditional to a client without", steps: flow(
					get(`If-None-Match: "x"`).answer(200, minute, `ETag: "a"`),
					get().hit(1),
				)},
			},
		},
		{
			section: "RFC 9111 §4.3.3 validation responses",
			rule:    "a full response is used, and stored in the place of the old one; an error is passed on",
			cases: []scenario{
				{name: "200", steps: flow(
					get().answer(200, stale(`ETag: "a"`)...),
					get().answer(200, minute, `ETag: "b"`),
					get().hit(2),
				)},
				{name: "200 with the same ETag", steps: flow(
					get().answer(200, stale(`ETag: "a"`)...),
					get().answer(200, minute, `ETag: "a"`),
					get().hit(2),
				)},
				{name: "404", steps: flow(
					get().answer(200, stale(`ETag: "a"`)...),
					get().answer(404, minute),
					get().hit(2),
				)},
				{name: "200 that must not be stored", steps: flow(
					get().answer(200, stale(`ETag: "a"`)...),
					get().answer(200, "Cache-Control: no-store"),
					get().answer(200, minute),
				)},
				{name: "500", steps: flow(get().answer(200, stale(`ETag: "a"`)...), get().answer(500))},
				{name: "503", in: safe, steps: flow(get().answer(200, stale(`ETag: "a"`)...), get().answer(503))},
				{name: "304 that is stale itself", steps: flow(
					get().answer(200, stale(`ETag: "a"`)...),
					get().answer(304, minute, "Age: 100", `ETag: "a"`).gives(1),
					get().answer(304, minute, `ETag: "a"`).saw(`If-None-Match: "a"`).gives(1),
				)},
				{name: "304 without a lifetime", steps: flow(
					get().answer(200, minute, "Age: 100", `ETag: "a"`),
					get().answer(304, `ETag: "a"`).gives(1).lines(minute),
					get().hit(1),
				)},
			},
		},
	}
}

// updates is about what a 304 changes (RFC 9111 §3.2, §4.3.4).
func updates() []group {
	first := []string{
		minute, "Age: 100", `ETag: "a"`, "X-Old: stays", "X-New: 1", "X-New: 2", "Content-Type: text/x-first", "Content-Encoding: x-own",
		"Vary: Accept", "Expires: " + httpDate(10),
	}
	updated := func(name string, lines []string, later ...string) scenario {
		return scenario{name: name, steps: flow(
			get().answer(200, first...),
			get().answer(304, append(lines, `ETag: "a"`)...).gives(1).lines(later...),
			get().hit(1).lines(later...).withLength(),
		)}
	}
	refused := func(name, directives string) scenario {
		return scenario{name: name, steps: flow(
			get().answer(200, first...),
			get().answer(304, "Cache-Control: "+directives, `ETag: "a"`).gives(1),
			get().answer(200, minute, `ETag: "b"`),
		)}
	}
	expires := httpDate(3600)
	return []group{
		{
			section: "RFC 9111 §3.2 fields of a 304",
			rule:    "each field of a 304 replaces that of the stored response, but for those that are not stored and Content-Length",
			cases: []scenario{
				updated("one value for several", lines(minute, "X-New: 3"), "X-New: 3"),
				updated("several for one", lines(minute, "X-Old: a", "X-Old: b"), "X-Old: a, b"),
				updated("one that was not there", lines(minute, "X-More: 1"), "X-More: 1", "X-New: 1, 2"),
				updated("one that is not in the 304", lines(minute), "X-Old: stays", "X-New: 1, 2", "Content-Type: text/x-first"),
				updated("Cache-Control", lines("Cache-Control: max-age=1000, public"), "Cache-Control: max-age=1000, public"),
				updated("Expires", lines(minute, "Expires: "+expires), "Expires: "+expires),
				updated("Date", lines(minute, "Date: "+httpDate(-2)), "Date: "+httpDate(-2)),
				updated("Content-Length", lines(minute, "Content-Length: 999"), "Content-Encoding: x-own"),
				updated("Content-Length of none", lines(minute, "Content-Length: 0"), "Content-Encoding: x-own"),
				updated("Content-Encoding that is the same", lines(minute, "Content-Encoding: x-own"), "Content-Encoding: x-own"),
				updated("Connection", lines(minute, "Connection: X-Hop"), "!Keep-Alive"),
				updated("Content-Location", lines(minute, "Content-Location: /elsewhere"), "Content-Location: /elsewhere"),
				{name: "fields of a connection", steps: flow(
					get().answer(200, first...),
					get().answer(304, minute, `ETag: "a"`, "Connection: X-Hop", "X-Hop: 1", "Keep-Alive: timeout=1", "Proxy-Authenticate: x").gives(1),
					get().hit(1).lines("!X-Hop", "!Keep-Alive", "!Proxy-Authenticate"),
				)},
				{name: "no-cache with fields", steps: flow(
					get().answer(200, first...),
					get().answer(304, `Cache-Control: max-age=60, no-cache="x-old"`, `ETag: "a"`, "X-Old: new").gives(1),
					get().hit(1).lines("!X-Old"),
				)},
				{name: "Set-Cookie", in: safe, steps: flow(
					get().answer(200, first...),
					get().answer(304, minute, `ETag: "a"`, "Set-Cookie: a=b").gives(1),
					get().may(steps(1), 200, minute, `ETag: "b"`).lines("!Set-Cookie"),
				)},
			},
		},
		{
			section: "RFC 9111 §4.3.4 freshening",
			rule:    "a response that was validated counts by what the 304 says of it",
			cases: []scenario{
				{name: "fresh again", steps: flow(
					get().answer(200, first...),
					get().answer(304, "Cache-Control: max-age=1000", `ETag: "a"`).gives(1),
					get().hit(1).aged(0).says("hit; ttl=1000"),
				)},
				{name: "twice", steps: flow(
					get().answer(200, first...),
					get().answer(304, minute, "Age: 100", `ETag: "a"`).gives(1),
					get().answer(304, minute, `ETag: "a"`).gives(1),
					get().hit(1).aged(0),
				)},
				{name: "a weak validator", steps: flow(
					get().answer(200, minute, "Age: 100", `ETag: W/"a"`, "X-New: 1"),
					get().answer(304, minute, `ETag: W/"a"`, "X-New: 2").gives(1).lines("X-New: 2"),
					get().hit(1).lines("X-New: 2"),
				)},
				refused("no-store", "no-store"), refused("private", "private, max-age=60"), refused("no-cache", "no-cache, max-age=60"),
				refused("max-age=0", "max-age=0"),
				{name: "another strong validator", in: safe, steps: flow(
					get().answer(200, first...),
					// There may be an error instead, where a request can ask the origin only once.
					get().answer(304, minute, `ETag: "b"`).retried(200, minute, `ETag: "b"`).anyStatus().anyText().checked(isNot("body 1")),
					get().may(steps(2), 200, minute, `ETag: "b"`),
				)},
			},
		},
	}
}

// isNot looks at that what is stored is not used, nor the client told that it has it.
func isNot(body string) check {
	return func(t *testing.T, r *response) {
		t.Helper()
		if r.body == body || r.status == http.StatusNotModified {
			t.Errorf("the response is a %d, and its body is %q", r.status, r.body)
		}
	}
}
