package responsecachetest

// head is about HEAD (RFC 9111 §4.3.5, RFC 9110 §9.3.2).
func head() []group {
	tagged := []string{minute, `ETag: "a"`}
	return []group{
		{
			section: "RFC 9110 §9.3.2 HEAD from the store",
			rule:    "a stored response to GET answers HEAD, with its header and without its body",
			cases: []scenario{
				{name: "200", steps: flow(
					get().answer(200, minute, `ETag: "a"`, "X-Other: 1"),
					ask("HEAD").hit(1).withLength().says("hit"),
					get().hit(1),
				)},
				{name: "404", steps: flow(get().answer(404, minute), ask("HEAD").hit(1).withLength())},
				{name: "204", steps: flow(get().answer(204, minute), ask("HEAD").hit(1))},
				{name: "a long body", steps: flow(get().answer(200, minute).with(text(600_000)), ask("HEAD").hit(1).withLength())},
				{name: "a variant", steps: flow(
					get("X-V: 1").answer(200, minute, "Vary: X-V"),
					ask("HEAD", "X-V: 1").hit(1),
					ask("HEAD", "X-V: 2").answer(200, minute, "Vary: X-V"),
				)},
				{name: "a range does not count", steps: flow(get().answer(200, minute), ask("HEAD", "Range: bytes=0-3").hit(1).code(200).withLength())},
				{name: "stale", steps: flow(
					get().answer(200, minute, "Age: 100"),
					ask("HEAD").answer(200, minute),
				)},
			},
		},
		{
			section: "RFC 9110 §9.3.2 HEAD and then GET",
			rule:    "what answered HEAD has no body, and does not answer GET",
			cases: []scenario{
				{name: "with Content-Length", steps: flow(
					ask("HEAD").answer(200, minute, "Content-Length: 6"),
					get().may(steps(1), 200, minute),
				)},
				{name: "without", steps: flow(
					ask("HEAD").answer(200, minute),
					get().may(steps(1), 200, minute),
				)},
				{name: "a body of none", steps: flow(
					ask("HEAD").answer(200, minute, "Content-Length: 0").with(""),
					get().may(nil, 200, minute).text("body 2"),
				)},
				{name: "then both from the store", steps: flow(
					ask("HEAD").answer(200, minute),
					get("Cache-Control: no-cache").answer(200, minute),
					get().hit(2),
					ask("HEAD").hit(2).withLength(),
				)},
			},
		},
		{
			section: "RFC 9111 §4.3.5 freshening by HEAD",
			rule:    "a HEAD that was asked of the origin updates the stored response if the validators are the same, and makes it stale if not",
			cases: []scenario{
				{name: "the same", steps: flow(
					get().answer(200, append(tagged, "X-New: 1")...),
					ask("HEAD", "Cache-Control: no-cache").answer(200, append(tagged, "X-New: 2")...).with("body 1"),
					get().hit(1).lines("X-New: 2"),
				)},
				{name: "another ETag", steps: flow(
					get().answer(200, tagged...),
					ask("HEAD", "Cache-Control: no-cache").answer(200, minute, `ETag: "b"`).with("body 1"),
					get().answer(200, minute, `ETag: "b"`),
				)},
				{name: "another Last-Modified", steps: flow(
					get().answer(200, minute, "Last-Modified: "+httpDate(-5000)),
					ask("HEAD", "Cache-Control: no-cache").answer(200, minute, "Last-Modified: "+httpDate(-100)).with("body 1"),
					get().answer(200, minute),
				)},
				{name: "another Content-Length", steps: flow(
					get().answer(200, tagged...),
					ask("HEAD", "Cache-Control: no-cache").answer(200, tagged...).with("longer than it was"),
					get().answer(200, minute),
				)},
			},
		},
	}
}
