package responsecachetest

// directives is about what Cache-Control says of storing, however it says so
// (RFC 9111 §3, §5.2.2).
func directives() []group {
	return []group{
		{
			section: "RFC 9111 §5.2.2.5 no-store",
			rule:    "a response with no-store is not used for any other request",
			cases: []scenario{
				{name: "alone", steps: notReused(200, "Cache-Control: no-store")},
				{name: "before max-age", steps: notReused(200, "Cache-Control: no-store, max-age=60")},
				{name: "behind s-maxage", steps: notReused(200, "Cache-Control: s-maxage=60, no-store")},
				{name: "with public", steps: notReused(200, "Cache-Control: public, max-age=60, no-store")},
				{name: "with Expires", steps: notReused(200, "Cache-Control: no-store", "Expires: "+httpDate(3600))},
				{name: "in upper case", steps: notReused(200, "Cache-Control: max-age=60, NO-STORE")},
				{name: "on a second line", steps: notReused(200, minute, "Cache-Control: no-store")},
				{name: "behind a quoted string", steps: notReused(200, `Cache-Control: ext="a, b", no-store, max-age=60`)},
				{name: "without blanks", steps: notReused(200, "Cache-Control: max-age=60,no-store")},
				{name: "of 404", steps: notReused(404, "Cache-Control: no-store, max-age=60")},
				{name: "with a validator", steps: flow(
					get().answer(200, "Cache-Control: no-store, max-age=60", `ETag: "a"`),
					get().answer(200, "Cache-Control: no-store, max-age=60", `ETag: "a"`).saw("!If-None-Match"),
				)},
				{name: "as the name of a field", steps: reused(200, "X-Cache-Control: no-store", minute)},
				{name: "in a quoted string", steps: reused(200, `Cache-Control: ext="a, no-store, b", max-age=60`)},
				{name: "behind an escaped quote", steps: reused(200, `Cache-Control: ext="a\", no-store, b", max-age=60`)},
				{name: "as a part of a name", steps: reused(200, "Cache-Control: no-store-really, x-no-store, max-age=60")},
			},
		},
		{
			section: "RFC 9111 §5.2.2.7 private",
			rule:    "a shared cache does not store a response with private",
			cases: []scenario{
				{name: "alone", steps: notReused(200, "Cache-Control: private")},
				{name: "with max-age", steps: notReused(200, "Cache-Control: private, max-age=60")},
				{name: "with s-maxage", steps: notReused(200, "Cache-Control: private, s-maxage=60")},
				{name: "with public", steps: notReused(200, "Cache-Control: public, private, max-age=60")},
				{name: "on a second line", steps: notReused(200, minute, "Cache-Control: Private")},
				{name: "with an empty list of fields", steps: notReused(200, `Cache-Control: private="", max-age=60`)},
				{name: "with and without fields", steps: notReused(200, `Cache-Control: private="x-a", private, max-age=60`, "X-A: 1")},
				{name: "in a quoted string", steps: reused(200, `Cache-Control: ext="private", max-age=60`)},
				{name: "where nobody can tell", steps: notReused(200, `Cache-Control: ext="max-age=60, private`, minute)},
			},
		},
		{
			section: "RFC 9111 §5.2.2.4 no-cache",
			rule:    "a response with no-cache is not used without successful validation",
			cases: []scenario{
				{name: "without a validator", steps: notReused(200, "Cache-Control: no-cache, max-age=60")},
				{name: "in upper case", steps: notReused(200, "Cache-Control: max-age=60, NO-CACHE")},
				{name: "with Expires", steps: notReused(200, "Cache-Control: no-cache", "Expires: "+httpDate(3600))},
				{name: "validated for each use", steps: flow(
					get().answer(200, "Cache-Control: no-cache, max-age=60", `ETag: "a"`),
					get().answer(304, "Cache-Control: no-cache, max-age=60", `ETag: "a"`).saw(`If-None-Match: "a"`).gives(1),
					get().answer(304, "Cache-Control: no-cache, max-age=60", `ETag: "a"`).saw(`If-None-Match: "a"`).gives(1),
				)},
				{name: "validation that fails", steps: flow(
					get().answer(200, "Cache-Control: no-cache", `ETag: "a"`),
					get().answer(503).saw(`If-None-Match: "a"`),
				)},
			},
		},
		{
			section: "RFC 9111 §5.2.3 unknown directives",
			rule:    "directives that are not known are ignored",
			cases: []scenario{
				{name: "a name", steps: reused(200, "Cache-Control: foo, max-age=60")},
				{name: "with a token", steps: reused(200, "Cache-Control: foo=bar, max-age=60")},
				{name: "with a quoted string", steps: reused(200, `Cache-Control: foo="bar, max-age=0", max-age=60`)},
				{name: "with an empty string", steps: reused(200, `Cache-Control: foo="", max-age=60`)},
				{name: "immutable", steps: reused(200, "Cache-Control: max-age=60, immutable")},
				{name: "no-transform", steps: reused(200, "Cache-Control: max-age=60, no-transform")},
				{name: "of requests", steps: reused(200, "Cache-Control: max-age=60, min-fresh=1000, only-if-cached, max-stale")},
				{name: "Pragma in a response", steps: reused(200, minute, "Pragma: no-cache")},
				{name: "empty members", steps: reused(200, "Cache-Control: ,, max-age=60 ,,")},
				{name: "private for a community", steps: notReused(200, `Cache-Control: private, community="UCI", max-age=60`)},
			},
		},
		{
			section: "RFC 9111 §7.3 Set-Cookie",
			rule:    "Safe: a response that sets a cookie is never stored. Conformance: it is if it states its lifetime, as Set-Cookie does not inhibit caching",
			cases: []scenario{
				{name: "with max-age", in: safe, steps: notReused(200, minute, "Set-Cookie: a=b")},
				{name: "with public", in: safe, steps: notReused(200, "Cache-Control: public, s-maxage=60", "Set-Cookie: a=b")},
				{name: "in lower case", in: safe, steps: notReused(200, minute, "set-cookie: a=b")},
				{name: "with max-age", in: conformance, steps: reused(200, minute, "Set-Cookie: a=b", "Set-Cookie: c=d")},
				{name: "without a lifetime", in: conformance, steps: notReused(200, "Last-Modified: "+httpDate(-100_000), "Set-Cookie: a=b")},
				{name: "with private", in: conformance, steps: notReused(200, "Cache-Control: private, max-age=60", "Set-Cookie: a=b")},
				{name: "named by no-cache", in: conformance, steps: flow(
					get().answer(200, `Cache-Control: max-age=60, no-cache="Set-Cookie"`, "Set-Cookie: a=b"),
					get().hit(1).lines("!Set-Cookie"),
				)},
				{name: "named by private", in: conformance, steps: flow(
					get().answer(200, `Cache-Control: max-age=60, private="set-cookie"`, "Set-Cookie: a=b"),
					get().hit(1).lines("!Set-Cookie"),
				)},
			},
		},
	}
}
