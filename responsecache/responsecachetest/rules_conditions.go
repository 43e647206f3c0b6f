package responsecachetest

import "time"

// conditions is about requests that are conditional, and what is stored for them
// (RFC 9111 §4.3.2).
func conditions() []group {
	modified := httpDate(-10_000)
	stored := []string{minute, `ETag: "a"`, "Last-Modified: " + modified}
	yes := func(name string, request ...string) scenario {
		return scenario{name: name, steps: flow(get().answer(200, stored...), get(request...).notModified(1), get().hit(1))}
	}
	no := func(name string, request ...string) scenario {
		return scenario{name: name, steps: flow(get().answer(200, stored...), get(request...).hit(1))}
	}
	return []group{
		{
			section: "RFC 9110 §13.1.2 If-None-Match",
			rule:    "the condition is false, which a 304 says, if a tag of the list is that of the response in weak comparison, or the list is *",
			cases: []scenario{
				yes("the same", `If-None-Match: "a"`),
				yes("weak", `If-None-Match: W/"a"`),
				yes("first of a list", `If-None-Match: "a", "b"`),
				yes("last of a list", `If-None-Match: "b",W/"c" ,  "a"`),
				yes("on a second line", `If-None-Match: "b"`, `If-None-Match: "a"`),
				yes("any", "If-None-Match: *"),
				yes("behind a tag with a comma", `If-None-Match: "b,", "a"`),
				no("another", `If-None-Match: "b"`),
				no("others", `If-None-Match: "b", W/"c"`),
				no("case", `If-None-Match: "A"`),
				no("case of the weak mark", `If-None-Match: w/"a"`),
				no("a part", `If-None-Match: "aa"`),
				no("empty", `If-None-Match: ""`),
				{name: "weak stored, weak asked", steps: flow(get().answer(200, minute, `ETag: W/"a"`), get(`If-None-Match: W/"a"`).notModified(1))},
				{name: "weak stored, strong asked", steps: flow(get().answer(200, minute, `ETag: W/"a"`), get(`If-None-Match: "a"`).notModified(1))},
				{name: "a tag with a comma", steps: flow(get().answer(200, minute, `ETag: "a,b"`), get(`If-None-Match: "x", "a,b"`).notModified(1))},
				{name: "a tag with a backslash", steps: flow(get().answer(200, minute, `ETag: "a\"`), get(`If-None-Match: "a\"`).notModified(1))},
				{name: "none stored", steps: flow(get().answer(200, minute), get(`If-None-Match: "a"`).hit(1))},
				{name: "of a 404", steps: flow(get().answer(404, minute, `ETag: "a"`), get(`If-None-Match: "a"`).hit(1))},
				{name: "of a 301", steps: flow(get().answer(301, minute, "Location: /x", `ETag: "a"`), get(`If-None-Match: "a"`).hit(1))},
				{name: "of a variant", steps: flow(
					get("X-V: 1").answer(200, minute, "Vary: X-V", `ETag: "a"`),
					get("X-V: 2", `If-None-Match: "a"`).answer(200, minute, "Vary: X-V", `ETag: "b"`),
					get("X-V: 2", `If-None-Match: "b"`).notModified(2),
					get("X-V: 2", `If-None-Match: "a"`).hit(2),
				)},
				{name: "HEAD", steps: flow(get().answer(200, stored...), ask("HEAD", `If-None-Match: "a"`).notModified(1))},
			},
		},
		{
			section: "RFC 9110 §13.1.3 If-Modified-Since",
			rule:    "the condition is false, which a 304 says, if Last-Modified, or else Date, is not later than the date; what is no date is ignored",
			cases: []scenario{
				yes("equal", "If-Modified-Since: "+modified),
				yes("later", "If-Modified-Since: "+httpDate(-5000)),
				yes("RFC 850", "If-Modified-Since: "+dateIn("Monday, 02-Jan-06 15:04:05 GMT", -5000)),
				yes("asctime", "If-Modified-Since: "+dateIn(time.ANSIC, -5000)),
				no("earlier", "If-Modified-Since: "+httpDate(-20_000)),
				no("not a date", "If-Modified-Since: yesterday"),
				no("a number", "If-Modified-Since: 9999999999"),
				no("another zone", "If-Modified-Since: "+dateIn("Mon, 02 Jan 2006 15:04:05 EST", -5000)),
				no("two dates", "If-Modified-Since: "+modified+", "+modified),
				{name: "later than Date", steps: flow(
					get().answer(200, "Cache-Control: max-age=3600", "Date: "+httpDate(-100)),
					get("If-Modified-Since: "+httpDate(-50)).notModified(1),
				)},
				{name: "earlier than Date", steps: flow(
					get().answer(200, "Cache-Control: max-age=3600", "Date: "+httpDate(-100)),
					get("If-Modified-Since: "+httpDate(-200)).hit(1),
				)},
				{name: "of a 404", steps: flow(
					get().answer(404, minute, "Last-Modified: "+modified),
					get("If-Modified-Since: "+modified).hit(1),
				)},
				{name: "HEAD", steps: flow(get().answer(200, stored...), ask("HEAD", "If-Modified-Since: "+modified).notModified(1))},
			},
		},
		{
			section: "RFC 9110 §13.2.2 precedence",
			rule:    "with If-None-Match, If-Modified-Since does not count",
			cases: []scenario{
				yes("the tag matches, the date does not", `If-None-Match: "a"`, "If-Modified-Since: "+httpDate(-20_000)),
				no("the date matches, the tag does not", `If-None-Match: "b"`, "If-Modified-Since: "+modified),
				yes("both match", `If-None-Match: "a"`, "If-Modified-Since: "+modified),
				no("neither matches", `If-None-Match: "b"`, "If-Modified-Since: "+httpDate(-20_000)),
			},
		},
		{
			section: "RFC 9111 §4.3.2 conditions for the origin",
			rule:    "a cache does not evaluate conditions that only apply to an origin, nor those of methods that it does not answer",
			cases: []scenario{
				{name: "If-Match", steps: flow(
					get().answer(200, stored...),
					get(`If-Match: "b"`).answer(412, "Cache-Control: no-store").saw(`If-Match: "b"`),
					get().hit(1),
				)},
				{name: "If-Match that matches", steps: flow(
					get().answer(200, stored...),
					get(`If-Match: "a"`).answer(200, minute, `ETag: "a"`).saw(`If-Match: "a"`),
				)},
				{name: "If-Unmodified-Since", steps: flow(
					get().answer(200, stored...),
					get("If-Unmodified-Since: "+httpDate(-20_000)).answer(412, "Cache-Control: no-store"),
					get().hit(1),
				)},
				{name: "412 that may be stored", steps: flow(
					get(`If-Match: "b"`).answer(412, minute),
					get().answer(200, minute),
				)},
				{name: "PUT with If-None-Match", steps: flow(
					get().answer(200, stored...),
					ask("PUT", "If-None-Match: *").answer(412).saw("If-None-Match: *"),
					get().hit(1),
				)},
				{name: "POST with If-Modified-Since", steps: flow(
					get().answer(200, stored...),
					ask("POST", "If-Modified-Since: "+modified).answer(200).saw("If-Modified-Since: "+modified),
				)},
			},
		},
	}
}

// conditionals304 is about the 304 that the cache answers itself.
func conditionals304() []group {
	all := []string{
		"Cache-Control: max-age=60, public", `ETag: "a"`, "Expires: " + httpDate(3600), "Content-Location: /elsewhere", "Vary: Accept",
		"Date: " + httpDate(-2), "Content-Type: text/x-own", "X-Other: 1",
	}
	return []group{{
		section: "RFC 9110 §15.4.5 fields of a 304",
		rule:    "a 304 has the Cache-Control, Content-Location, Date, ETag, Expires and Vary that the 200 would have, and no body",
		cases: []scenario{
			{name: "each", steps: flow(
				get().answer(200, all...),
				get(`If-None-Match: "a"`).notModified(1).says("hit; ttl=60").lines(
					"Cache-Control: max-age=60, public", `ETag: "a"`, "Expires: *", "Content-Location: /elsewhere", "Vary: Accept", "Date: *",
				),
				get().hit(1),
			)},
			{name: "HEAD", steps: flow(
				get().answer(200, all...),
				ask("HEAD", `If-None-Match: "a"`).notModified(1).says("hit"),
			)},
			{name: "on a connection that goes on", steps: flow(
				get().answer(200, all...),
				get(`If-None-Match: "a"`).notModified(1),
				get(`If-None-Match: "a"`).notModified(1),
				get().hit(1),
			)},
		},
	}}
}
