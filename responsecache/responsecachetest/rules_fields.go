package responsecachetest

import "strings"

// fieldsStored is about which fields are stored with a response (RFC 9111 §3.1).
// That all others are is looked at in every scenario.
func fieldsStored() []group {
	return []group{
		{
			section: "RFC 9111 §3.1 all fields",
			rule:    "all fields of a response are stored, those that are not known, too: each with its lines in their order",
			cases: []scenario{
				{name: "unknown", steps: reused(200, minute, "X-Unknown: some, value; of=any \"kind\"")},
				{name: "several lines", steps: reused(200, minute, "X-Multi: two", "X-Multi: one", "X-Multi: two")},
				{name: "empty", steps: reused(200, minute, "X-Empty:")},
				{name: "not ASCII", steps: reused(200, minute, "X-Text: gr\xfc\xdfe")},
				{name: "long", steps: reused(200, minute, "X-Long: "+strings.Repeat("0123456789", 800))},
				{name: "in lower case", steps: reused(200, "cache-control: max-age=60", "x-lower: 1", "etag: \"a\"")},
				{name: "of the representation", steps: reused(200, minute, "Content-Language: de", "Content-Type: application/octet-stream", "Content-Location: /elsewhere", "Last-Modified: "+httpDate(-3600))},
				{name: "Content-Encoding", steps: reused(200, minute, "Content-Encoding: x-own")},
				{name: "policies", steps: reused(200, minute, "Content-Security-Policy: default-src 'self'", "Link: </a>; rel=preload", "Link: </b>; rel=preload", "Warning: 199 - \"x\"")},
				{name: "Location", steps: reused(301, minute, "Location: /elsewhere")},
				{name: "WWW-Authenticate", steps: reused(401, minute, "WWW-Authenticate: Basic realm=\"x\"")},
				{name: "Cache-Control as it is", steps: reused(200, "Cache-Control: max-age=60, stale-while-revalidate=5, x-own=\"a, b\"", "Cache-Control: public")},
				{name: "Date", steps: reused(200, minute, "Date: "+httpDate(-5))},
				{name: "Content-Length is that of the body", steps: flow(get().answer(200, minute), get().hit(1).withLength())},
				{name: "a long body", steps: flow(get().answer(200, minute).with(text(600_000)), get().hit(1).withLength())},
				{name: "an empty body", steps: flow(get().answer(200, minute).with(""), get().hit(1).withLength())},
				{name: "bytes of any kind", steps: flow(get().answer(200, minute).with("\x00\xff\r\n\r\n\x80"), get().hit(1).withLength())},
			},
		},
		{
			section: "RFC 9111 §3.1 fields of a connection",
			rule:    "Connection and the fields that it names, and others that are for one connection or proxy, are not stored",
			cases: []scenario{
				notStored("Connection", "Connection: X-Hop", "X-Hop: 1"),
				notStored("Connection with several", "Connection: x-hop, X-Other", "X-Hop: 1", "X-Other: 2"),
				notStored("Connection on two lines", "Connection: X-Hop", "Connection: X-Other", "X-Hop: 1", "X-Other: 2"),
				notStored("Keep-Alive", "Keep-Alive: timeout=5"),
				notStored("Proxy-Connection", "Proxy-Connection: keep-alive"),
				notStored("Proxy-Authenticate", "Proxy-Authenticate: Basic realm=\"x\""),
				notStored("Proxy-Authentication-Info", "Proxy-Authentication-Info: x=1"),
				notStored("Proxy-Authorization", "Proxy-Authorization: Basic x"),
				notStored("TE", "TE: trailers"),
				notStored("Upgrade", "Upgrade: foo"),
				{name: "a trailer is not a header", steps: flow(
					get().answer(200, minute, "Trailer: X-Trailer").ends(trails),
					get().may(steps(1), 200, minute).lines("!X-Trailer", "!Trailer"),
				)},
			},
		},
		{
			section: "RFC 9111 §5.2.2.4 no-cache with fields",
			rule:    "the fields that no-cache names are not used again without validation; the rest of the response may be",
			cases: []scenario{
				withoutFields("one", `no-cache="x-a"`, "X-A: 1"),
				withoutFields("several", `no-cache="X-A, x-b"`, "X-A: 1", "X-B: 2", "X-B: 3"),
				withoutFields("two directives", `no-cache="X-A", no-cache="x-b"`, "X-A: 1", "X-B: 2"),
				withoutFields("one that is not there", `no-cache="X-C"`),
				{name: "without fields as well", steps: notReused(200, `Cache-Control: max-age=60, no-cache, no-cache="x-a"`, "X-A: 1")},
				{name: "an empty list", steps: notReused(200, `Cache-Control: max-age=60, no-cache=""`)},
			},
		},
		{
			section: "RFC 9111 §5.2.2.7 private with fields",
			rule:    "a shared cache does not store the fields that private names; it may store the rest of the response",
			cases: []scenario{
				withoutFields("one", `private="x-a"`, "X-A: 1"),
				withoutFields("several", `private="X-A, x-b"`, "X-A: 1", "X-B: 2", "X-B: 3"),
				withoutFields("with no-cache", `private="X-A", no-cache="x-b"`, "X-A: 1", "X-B: 2"),
			},
		},
		{
			section: "RFC 9111 §4 Age",
			rule:    "a response from the store has an Age, in place of the one that it came with",
			cases: []scenario{
				{name: "none before", steps: flow(get().answer(200, minute), get().hit(1).aged(0))},
				{name: "one before", steps: flow(get().answer(200, "Cache-Control: max-age=1000", "Age: 100"), get().hit(1).aged(100))},
				{name: "by Date", steps: flow(get().answer(200, "Cache-Control: max-age=1000", "Age: 100", "Date: "+httpDate(-100)), get().hit(1).aged(100))},
				{name: "304", steps: flow(get().answer(200, "Cache-Control: max-age=1000", "Age: 100", `ETag: "a"`), get(`If-None-Match: "a"`).notModified(1).aged(100))},
			},
		},
	}
}

func notStored(name string, lines ...string) scenario {
	return withoutFields(name, "max-age=60", lines...)
}

// withoutFields is a scenario in which none of the fields is used again.
func withoutFields(name, directives string, lines ...string) scenario {
	hit := get().hit(1)
	for _, line := range lines {
		field, _, _ := strings.Cut(line, ":")
		hit.lines("!" + field)
	}
	answer := append([]string{minute, "Cache-Control: " + directives, "X-Rest: stays"}, lines...)
	return scenario{name: name, steps: flow(get().answer(200, answer...), hit)}
}

func (s *step) withLength() *step {
	s.length = true
	return s
}

// text returns n bytes that are worth compressing.
func text(n int) string {
	return strings.Repeat("All work and no play makes Jack a dull boy. ", n/44+1)[:n]
}
