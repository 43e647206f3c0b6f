package responsecachetest

// targeted is about fields with directives for some caches only (RFC 9213).
func targeted() []group {
	const cdn, own, other = "CDN-Cache-Control: ", "Herdless-Cache-Control: ", "Cache-Control: "
	expires := "Expires: " + httpDate(3600)
	return []group{
		{
			section: "RFC 9213 §2.2 precedence",
			rule:    "the first targeted field of the list that is valid decides, and Cache-Control and Expires are then ignored",
			cases: []scenario{
				{name: "CDN over no-store", steps: reused(200, cdn+"max-age=60", other+"no-store")},
				{name: "CDN over private", steps: reused(200, cdn+"max-age=60", other+"private")},
				{name: "CDN over no-cache", steps: reused(200, cdn+"max-age=60", other+"no-cache")},
				{name: "CDN over max-age=0", steps: reused(200, cdn+"max-age=60", other+"max-age=0, s-maxage=0")},
				{name: "CDN over Expires", steps: reused(200, cdn+"max-age=60", "Expires: 0")},
				{name: "CDN alone", steps: reused(200, cdn+"max-age=60")},
				{name: "CDN no-store", steps: notReused(200, cdn+"no-store", minute)},
				{name: "CDN private", steps: notReused(200, cdn+"private, max-age=60", other+"public, max-age=60")},
				{name: "CDN max-age=0", steps: notReused(200, cdn+"max-age=0", minute)},
				{name: "CDN no-cache", steps: flow(
					get().answer(200, cdn+"no-cache, max-age=60", minute, `ETag: "a"`),
					get().answer(304, cdn+"no-cache, max-age=60", minute, `ETag: "a"`).saw(`If-None-Match: "a"`).gives(1),
					get().answer(304, cdn+"no-cache, max-age=60", minute, `ETag: "a"`).gives(1),
				)},
				{name: "CDN none over max-age", steps: notReused(200, cdn+"none", minute)},
				{name: "CDN none over Expires", steps: notReused(200, cdn+"none", expires)},
				{name: "CDN none over no-store, with a heuristic", in: conformance, steps: reused(200, cdn+"none", other+"no-store", "Last-Modified: "+httpDate(-100_000))},
				{name: "CDN without s-maxage", steps: notReused(200, cdn+"max-age=0", other+"s-maxage=60")},
				{name: "own over CDN, more", steps: reused(200, own+"max-age=60", cdn+"no-store", other+"no-store")},
				{name: "own over CDN, less", steps: notReused(200, own+"no-store", cdn+"max-age=60", minute)},
				{name: "own over Cache-Control", steps: reused(200, own+"max-age=60", other+"private", "Expires: 0")},
				{name: "own in lower case", steps: reused(200, "herdless-cache-control: max-age=60", other+"no-store")},
				{name: "lifetimes", steps: flow(
					get().answer(200, own+"max-age=3600", cdn+"max-age=600", minute, expires),
					get().hit(1).says("hit; ttl=3600"),
				)},
				{name: "of another cache", steps: reused(200, "Other-Cache-Control: no-store", "Surrogate-Control: no-store", minute)},
				{name: "of another cache, more", steps: notReused(200, "Other-Cache-Control: max-age=60")},
			},
		},
		{
			section: "RFC 9213 §2.1 invalid fields",
			rule:    "a targeted field that is empty or no Dictionary is ignored, as if it were not there",
			cases: []scenario{
				{name: "empty", steps: reused(200, cdn, minute)},
				{name: "empty, over no-store", steps: notReused(200, cdn, other+"no-store")},
				{name: "own empty", steps: reused(200, own, cdn+"max-age=60", other+"no-store")},
				{name: "own invalid", steps: reused(200, own+"max-age=", cdn+"max-age=60", other+"no-store")},
				{name: "own invalid, less", steps: notReused(200, own+"max-age=", cdn+"no-store", minute)},
				{name: "both invalid", steps: reused(200, own+"&", cdn+"&", minute)},
				ignored("no value", "max-age="), ignored("comma at the end", "max-age=60,"), ignored("two commas", "max-age=60,, public"),
				ignored("upper case", "Max-Age=60"), ignored("no comma", "max-age=60 public"), ignored("open string", `private="x-a`),
				ignored("blanks around the equals sign", "max-age = 60"), ignored("semicolon at the end", "max-age=60;"), ignored("a number that is too long", "max-age=9999999999999999"),
				ignored("not ASCII", "max-age=60, ext=\"\xff\""), ignored("a list", `"a", "b"`),
				{name: "one line of two is invalid", steps: reused(200, cdn+"no-store", cdn+"&", minute)},
			},
		},
		{
			section: "RFC 9213 §2.1 types",
			rule:    "a value of another type than the directive has is not made into one, and the field counts all the same",
			cases: []scenario{
				{name: "String", steps: notReused(200, cdn+`max-age="60"`, minute)},
				{name: "Decimal", steps: notReused(200, cdn+"max-age=60.0", minute)},
				{name: "Token", steps: notReused(200, cdn+"max-age=a60", minute)},
				{name: "Boolean", steps: notReused(200, cdn+"max-age", minute)},
				{name: "Inner List", steps: notReused(200, cdn+"max-age=(60)", minute)},
				{name: "negative", steps: notReused(200, cdn+"max-age=-60", minute)},
				{name: "String for private is fields", steps: flow(
					get().answer(200, cdn+`max-age=60, private="x-a"`, "X-A: 1"),
					get().hit(1).lines("!X-A"),
				)},
				{name: "large", steps: reused(200, cdn+"max-age=999999999999999", other+"no-store")},
			},
		},
		{
			section: "RFC 9213 §2.1 Dictionary",
			rule:    "members that are not known, and parameters, are ignored; of members with the same name the last counts",
			cases: []scenario{
				{name: "unknown members", steps: reused(200, cdn+`foo=1.5, max-age=60, bar=("a" b);c, baz=:YQ==:`, other+"no-store")},
				{name: "parameters", steps: reused(200, cdn+`max-age=60;foo;bar="no-store"`, other+"no-store")},
				{name: "parameters of no-store", steps: notReused(200, cdn+"max-age=60, no-store;foo", minute)},
				{name: "two lines", steps: reused(200, cdn+"public", cdn+"max-age=60", other+"no-store")},
				{name: "two lines, less", steps: notReused(200, cdn+"max-age=60", cdn+"no-store", minute)},
				{name: "twice, more", steps: reused(200, cdn+"max-age=0, max-age=60")},
				{name: "twice, less", steps: notReused(200, cdn+"max-age=60, max-age=0")},
				{name: "true as it is written", steps: notReused(200, cdn+"max-age=60, no-store=?1", minute)},
			},
		},
		{
			section: "RFC 9213 §2.2 directives",
			rule:    "the directives of a targeted field mean what they do in Cache-Control",
			cases: []scenario{
				{name: "s-maxage", steps: reused(200, cdn+"s-maxage=60, max-age=0")},
				{name: "stale-while-revalidate", steps: flow(
					get().answer(200, cdn+"max-age=60, stale-while-revalidate=1000", other+"no-store", "Age: 100"),
					get().hit(1).refreshed(200, cdn+"max-age=60"),
					get().hit(2).eventually(),
				)},
				{name: "stale-if-error", steps: flow(
					get().answer(200, cdn+"max-age=60, stale-if-error=1000", "Age: 100"),
					get().answer(503).gives(1),
				)},
				{name: "stale-while-revalidate in Cache-Control only", steps: notReused(200, cdn+"max-age=60", other+"stale-while-revalidate=1000", "Age: 100")},
				{name: "must-revalidate", steps: notReused(200, cdn+"max-age=60, stale-while-revalidate=1000, must-revalidate", "Age: 100")},
				{name: "must-revalidate in Cache-Control only", steps: flow(
					get().answer(200, cdn+"max-age=60, stale-while-revalidate=1000", other+"must-revalidate", "Age: 100"),
					get().hit(1).refreshed(200, minute),
				)},
				{name: "public, for Authorization", steps: flow(
					get("Authorization: Basic YTpi").answer(200, cdn+"public, max-age=60", other+"private"),
					get("Authorization: Basic Yzpk").hit(1),
				)},
				{name: "304 with one", steps: flow(
					get().answer(200, cdn+"max-age=60", "Age: 100", `ETag: "a"`),
					get().answer(304, cdn+"max-age=3600", other+"no-store", `ETag: "a"`).gives(1),
					get().hit(1).says("hit; ttl=3600"),
				)},
			},
		},
		{
			section: "responsecache: the own targeted field",
			rule:    "Herdless-Cache-Control is for this cache alone, and taken off on the way out",
			cases: []scenario{
				{name: "off", steps: flow(
					get().answer(200, own+"max-age=60", other+"no-store").lines("!Herdless-Cache-Control", "Cache-Control: no-store"),
					get().hit(1).lines("!Herdless-Cache-Control", "Cache-Control: no-store"),
				)},
				{name: "off what is not stored", steps: flow(get().answer(200, own+"no-store").lines("!Herdless-Cache-Control"))},
				{name: "off what is passed on", steps: flow(ask("POST").answer(200, own+"no-store").lines("!Herdless-Cache-Control"))},
			},
		},
	}
}

// ignored is a targeted field that does not count.
func ignored(name, value string) scenario {
	return scenario{name: name, steps: flow(
		get().answer(200, "CDN-Cache-Control: "+value, minute),
		get().hit(1),
	)}
}
