package responsecachetest

// requestDirectives is about what a client says in Cache-Control (RFC 9111
// §5.2.1).
func requestDirectives() []group {
	old := []string{"Cache-Control: max-age=3600", "Age: 100", `ETag: "a"`}
	used := func(name, directives string, stored ...string) scenario {
		return scenario{name: name, steps: flow(get().answer(200, stored...), get("Cache-Control: "+directives).hit(1))}
	}
	unused := func(name, directives string, stored ...string) scenario {
		return scenario{name: name, steps: flow(get().answer(200, stored...), get("Cache-Control: "+directives).answer(200, minute), get().hit(2))}
	}
	return []group{
		{
			section: "RFC 9111 §5.2.1.4 no-cache",
			rule:    "with no-cache a client gets nothing from the store that was not validated; what it gets is stored",
			cases: []scenario{
				unused("alone", "no-cache", minute),
				unused("in upper case", "NO-CACHE", minute),
				unused("among others", "max-age=60, no-cache", minute),
				unused("beside max-stale", "no-cache, max-stale", minute),
				unused("where stale ones may be used", "no-cache", staleBy40(", stale-while-revalidate=1000")...),
				{name: "a miss", steps: flow(get("Cache-Control: no-cache").answer(200, minute), get().hit(1))},
				{name: "validated", steps: flow(
					get().answer(200, old...),
					get("Cache-Control: no-cache").answer(304, minute, `ETag: "a"`).saw(`If-None-Match: "a"`).gives(1),
					get().hit(1).aged(0),
				)},
				{name: "each time", steps: flow(
					get().answer(200, minute),
					get("Cache-Control: no-cache").answer(200, minute),
					get("Cache-Control: no-cache").answer(200, minute),
					get().hit(3),
				)},
				{name: "in a quoted string", steps: flow(get().answer(200, minute), get(`Cache-Control: ext="no-cache"`).hit(1))},
				{name: "passed on", steps: flow(get("Cache-Control: no-cache").answer(200, minute).saw("Cache-Control: no-cache"))},
			},
		},
		{
			section: "RFC 9111 §5.2.1.5 no-store",
			rule:    "what answers a request with no-store is not stored",
			cases: []scenario{
				{name: "a miss", steps: flow(get("Cache-Control: no-store").answer(200, minute), get().answer(200, minute))},
				{name: "with public", steps: flow(
					get("Cache-Control: max-age=0, No-Store").answer(200, "Cache-Control: public, s-maxage=60"),
					get().answer(200, minute),
				)},
				{name: "with something stored", steps: flow(
					get().answer(200, minute),
					get("Cache-Control: no-store").may(steps(1), 200, minute),
					get().hit(1),
				)},
				{name: "stale", steps: flow(
					get().answer(200, minute, "Age: 100"),
					get("Cache-Control: no-store").answer(200, minute),
					get().answer(200, minute),
				)},
			},
		},
		{
			section: "RFC 9111 §5.2.1.1 max-age",
			rule:    "a client with max-age gets nothing that is older",
			cases: []scenario{
				unused("zero", "max-age=0", minute),
				unused("younger than what is stored", "max-age=10", old...),
				unused("younger, where stale ones may be used", "max-age=10", staleBy40(", stale-while-revalidate=1000")...),
				used("older than what is stored", "max-age=1000", old...),
				used("larger than its lifetime", "max-age=100000", minute),
				{name: "validated", steps: flow(
					get().answer(200, old...),
					get("Cache-Control: max-age=10").answer(304, minute, `ETag: "a"`).saw(`If-None-Match: "a"`).gives(1),
				)},
				{name: "a miss", steps: flow(get("Cache-Control: max-age=0").answer(200, minute), get().hit(1))},
			},
		},
		{
			section: "RFC 9111 §5.2.1.3 min-fresh",
			rule:    "a client with min-fresh gets nothing that is stale sooner",
			cases: []scenario{
				used("less than what is left", "min-fresh=20", minute),
				used("zero", "min-fresh=0", minute),
				unused("more than what is left", "min-fresh=61", minute),
				unused("more than what is left of a long lifetime", "min-fresh=3550", old...),
				used("less than what is left of a long lifetime", "min-fresh=3000", old...),
			},
		},
		{
			section: "RFC 9111 §5.2.1.2 max-stale",
			rule:    "a client with max-stale gets what has been stale for no longer, unless the response forbids that",
			cases: []scenario{
				used("longer than it is", "max-stale=1000", staleBy40("")...),
				used("without a number", "max-stale", staleBy40("")...),
				used("while fresh", "max-stale=10", minute),
				unused("shorter than it is", "max-stale=10", staleBy40("")...),
				unused("zero", "max-stale=0", staleBy40("")...),
				unused("must-revalidate", "max-stale", staleBy40(", must-revalidate")...),
				unused("must-revalidate, with a number", "max-stale=1000", staleBy40(", must-revalidate")...),
				unused("proxy-revalidate", "max-stale", staleBy40(", proxy-revalidate")...),
				unused("s-maxage", "max-stale", staleBy40(", s-maxage=60")...),
				unused("no-cache", "max-stale", staleBy40(", no-cache")...),
				{name: "its age and ttl", steps: flow(
					get().answer(200, staleBy40("")...),
					get("Cache-Control: max-stale").hit(1).aged(100).says("hit; ttl=-40"),
				)},
			},
		},
		{
			section: "RFC 9111 §5.2.1.7 only-if-cached",
			rule:    "a client with only-if-cached gets what is stored, or a 504",
			cases: []scenario{
				used("a hit", "only-if-cached", minute),
				{name: "a miss", steps: flow(
					get("Cache-Control: only-if-cached").code(504),
					get().answer(200, minute),
					get("Cache-Control: only-if-cached").hit(2),
				)},
				{name: "another variant", steps: flow(
					get("X-V: 1").answer(200, minute, "Vary: X-V"),
					get("X-V: 2", "Cache-Control: only-if-cached").code(504),
				)},
				{name: "stale", steps: flow(
					get().answer(200, staleBy40("")...),
					get("Cache-Control: only-if-cached").code(504),
				)},
				{name: "stale, with max-stale", steps: flow(
					get().answer(200, staleBy40("")...),
					get("Cache-Control: only-if-cached, max-stale").hit(1),
				)},
				{name: "no-cache in the response", steps: flow(
					get().answer(200, "Cache-Control: max-age=60, no-cache", `ETag: "a"`),
					get("Cache-Control: only-if-cached").code(504),
				)},
				{name: "HEAD", steps: flow(
					ask("HEAD", "Cache-Control: only-if-cached").code(504),
					get().answer(200, minute),
					ask("HEAD", "Cache-Control: only-if-cached").hit(2),
				)},
				{name: "older than max-age", steps: flow(
					get().answer(200, old...),
					get("Cache-Control: only-if-cached, max-age=10").code(504),
				)},
			},
		},
		{
			section: "RFC 9111 §5.4 Pragma",
			rule:    "Pragma: no-cache is as Cache-Control: no-cache in a request that has no Cache-Control",
			cases: []scenario{
				{name: "alone", steps: flow(get().answer(200, minute), get("Pragma: no-cache").answer(200, minute), get().hit(2))},
				{name: "with Cache-Control", steps: flow(get().answer(200, minute), get("Pragma: no-cache", "Cache-Control: max-age=1000").hit(1))},
				{name: "something else", steps: flow(get().answer(200, minute), get("Pragma: foo").hit(1))},
			},
		},
		{
			section: "RFC 9111 §5.2.3 unknown request directives",
			rule:    "directives that are not known are ignored",
			cases: []scenario{
				used("a name", "foo", minute), used("with an argument", `foo="no-cache, no-store"`, minute), used("of responses", "private, must-revalidate", minute),
				used("no-transform", "no-transform", minute),
			},
		},
	}
}

// interim is about informational responses (RFC 9110 §15.2).
func interim() []group {
	return []group{{
		section: "RFC 9110 §15.2 informational responses",
		rule:    "an informational response is passed on at once, and not taken for the final one",
		cases: []scenario{
			{name: "103 is not stored", steps: flow(
				get().answer(200, minute).early("Link: </style.css>; rel=preload").lines("!Link"),
				get().hit(1).lines("!Link"),
			)},
			{name: "103 says nothing of the final response", steps: flow(
				get().answer(200, "Cache-Control: no-store").early("Link: </a>", minute),
				get().answer(200, "Cache-Control: no-store"),
			)},
			{name: "103 before what is not stored", steps: flow(
				get().answer(500).early("Link: </a>"),
				get().answer(200, minute),
			)},
			{name: "103 before a 304", steps: flow(
				get().answer(200, minute, "Age: 100", `ETag: "a"`),
				get().answer(304, minute, `ETag: "a"`).early("Link: </a>").gives(1),
				get().hit(1),
			)},
			{name: "103 to POST", steps: flow(ask("POST").answer(200).early("Link: </a>"))},
			{name: "103 to HEAD", steps: flow(ask("HEAD").answer(200, minute).early("Link: </a>"))},
		},
	}}
}
