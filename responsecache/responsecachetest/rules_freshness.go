package responsecachetest

import "strings"

// lifetimes is about the lifetime that Cache-Control states (RFC 9111 §4.2.1).
func lifetimes() []group {
	const past, future = -3600, 3600
	return []group{
		{
			section: "RFC 9111 §4.2.1 precedence",
			rule:    "of s-maxage, max-age and Expires the first that is there is the lifetime",
			cases: []scenario{
				{name: "max-age", steps: reused(200, minute)},
				{name: "s-maxage", steps: reused(200, "Cache-Control: s-maxage=60")},
				{name: "s-maxage over max-age, more", steps: reused(200, "Cache-Control: max-age=0, s-maxage=60")},
				{name: "s-maxage over max-age, less", steps: notReused(200, "Cache-Control: max-age=60, s-maxage=0")},
				{name: "s-maxage over Expires, more", steps: reused(200, "Cache-Control: s-maxage=60", "Expires: "+httpDate(past))},
				{name: "s-maxage over Expires, less", steps: notReused(200, "Cache-Control: s-maxage=0", "Expires: "+httpDate(future))},
				{name: "max-age over Expires, more", steps: reused(200, minute, "Expires: "+httpDate(past))},
				{name: "max-age over an invalid Expires", steps: reused(200, minute, "Expires: 0")},
				{name: "max-age over Expires, less", steps: notReused(200, "Cache-Control: max-age=0", "Expires: "+httpDate(future))},
				{name: "Expires", steps: reused(200, "Expires: "+httpDate(future))},
				{name: "Expires beside other directives", steps: reused(200, "Cache-Control: public, immutable", "Expires: "+httpDate(future))},
				{name: "nothing", steps: notReused(200)},
				{name: "public alone", steps: notReused(200, "Cache-Control: public")},
			},
		},
		{
			section: "RFC 9111 §5.2.2.1 max-age",
			rule:    "an argument that is valid is the lifetime, however it is written",
			cases: []scenario{
				{name: "in upper case", steps: reused(200, "Cache-Control: MAX-AGE=60")},
				{name: "quoted", steps: reused(200, `Cache-Control: max-age="60"`)},
				{name: "leading zeros", steps: reused(200, "Cache-Control: max-age=0060")},
				{name: "on a second line", steps: reused(200, "Cache-Control: public", "Cache-Control: max-age=60")},
				{name: "twice the same", steps: reused(200, "Cache-Control: max-age=60, max-age=60")},
				{name: "behind a quoted comma", steps: reused(200, `Cache-Control: ext="a, b", max-age=60`)},
				{name: "zero", steps: notReused(200, "Cache-Control: max-age=0")},
				{name: "zeros", steps: notReused(200, "Cache-Control: max-age=000")},
				{name: "twice, first zero", steps: notReused(200, "Cache-Control: max-age=0, max-age=60")},
				{name: "on two lines, first zero", steps: notReused(200, "Cache-Control: max-age=0", minute)},
				{name: "as a part of a name", steps: notReused(200, "Cache-Control: x-max-age=60")},
				{name: "in a quoted string", steps: notReused(200, `Cache-Control: ext="max-age=60"`)},
				{name: "in a quoted list", steps: notReused(200, `Cache-Control: ext="a, max-age=60, b"`)},
				{name: "with no-cache", steps: notReused(200, "Cache-Control: max-age=60, no-cache")},
			},
		},
		{
			section: "RFC 9111 §1.2.2 large numbers",
			rule:    "a number of seconds that is too large is 2³¹, or the largest that there is",
			cases:   numbers(reused, "2147483647", "2147483648", "4294967295", "4294967296", "9223372036854775807", "9223372036854775808", "18446744073709551676", "99999999999", strings.Repeat("9", 200)),
		},
		{
			section: "RFC 9111 §4.2.1 invalid lifetimes",
			rule:    "a response with an invalid lifetime is to be taken for stale",
			cases:   numbers(notReused, "", "-1", "-60", "60.5", "60.0", "6O", "60s", "+60", "0x60", "1 000", "1_000", "1e3", "'60'", `"60`, `60"`, "sixty", "60;foo", "\"60\" \"60\""),
		},
		{
			section: "RFC 9111 §5.2 white space",
			rule:    "there is no white space around the equals sign",
			cases: []scenario{
				{name: "around", steps: notReused(200, "Cache-Control: max-age = 60")},
				{name: "before", steps: notReused(200, "Cache-Control: max-age =60")},
				{name: "behind", steps: notReused(200, "Cache-Control: max-age= 60")},
				{name: "of the list", steps: reused(200, "Cache-Control:   public ,\tmax-age=60\t, x ")},
			},
		},
		{
			section: "RFC 9111 §4.2.1 without an argument",
			rule:    "a lifetime without an argument is invalid",
			cases: []scenario{
				{name: "max-age", steps: notReused(200, "Cache-Control: max-age")},
				{name: "s-maxage", steps: notReused(200, "Cache-Control: max-age=60, s-maxage")},
			},
		},
	}
}

func numbers(outcome func(int, ...string) []*step, list ...string) []scenario {
	var cases []scenario
	for _, n := range list {
		name := n
		if len(name) > 30 {
			name = name[:30]
		}
		cases = append(
			cases,
			scenario{name: "max-age=" + name, steps: outcome(200, "Cache-Control: max-age="+n)},
			scenario{name: "s-maxage=" + name, steps: outcome(200, "Cache-Control: s-maxage="+n)},
		)
	}
	return cases
}

// heuristics is about lifetimes that nobody has stated (RFC 9111 §4.2.2).
func heuristics() []group {
	modified := "Last-Modified: " + httpDate(-10_000)
	g := group{
		section: "RFC 9111 §4.2.2 heuristics",
		rule:    "Conformance: a response that states no lifetime, has Last-Modified, and is heuristically cacheable by its status or public is fresh for a tenth of the time since then",
		profile: conformance,
		cases: []scenario{
			{name: "a tenth", steps: flow(get().answer(200, modified), get().hit(1).says("hit; ttl=1000"))},
			{name: "public makes 302 cacheable", steps: reused(302, modified, "Cache-Control: public")},
			{name: "302 without public", steps: notReused(302, modified)},
			{name: "303 without public", steps: notReused(303, modified)},
			{name: "307 without public", steps: notReused(307, modified)},
			{name: "400 without public", steps: notReused(400, modified)},
			{name: "403 without public", steps: notReused(403, modified)},
			{name: "500 without public", steps: notReused(500, modified)},
			{name: "503 without public", steps: notReused(503, modified)},
			{name: "599 without public", steps: notReused(599, modified)},
			{name: "206", steps: notReused(206, modified, "Content-Range: bytes 0-5/10")},
			{name: "not with max-age", steps: notReused(200, modified, "Cache-Control: max-age=0")},
			{name: "not with s-maxage", steps: notReused(200, modified, "Cache-Control: s-maxage=0")},
			{name: "not with Expires", steps: notReused(200, modified, "Expires: "+httpDate(-60))},
			{name: "not with an invalid Expires", steps: notReused(200, modified, "Expires: 0")},
			{name: "not with an invalid max-age", steps: notReused(200, modified, "Cache-Control: max-age=x")},
			{name: "not with no-cache", steps: notReused(200, modified, "Cache-Control: no-cache")},
			{name: "not with no-store", steps: notReused(200, modified, "Cache-Control: no-store")},
			{name: "not with private", steps: notReused(200, modified, "Cache-Control: private")},
			{name: "not without Last-Modified", steps: notReused(200)},
			{name: "Last-Modified to come", steps: notReused(200, "Last-Modified: "+httpDate(10_000))},
			{name: "Last-Modified invalid", steps: notReused(200, "Last-Modified: yesterday")},
			{name: "older than that", steps: notReused(200, modified, "Age: 5000")},
			{name: "younger than that", steps: flow(get().answer(200, modified, "Age: 100"), get().hit(1).aged(100))},
			{name: "with a query", steps: flow(get().at("?a").answer(200, modified), get().at("?a").hit(1))},
		},
	}
	for _, status := range heuristicallyCacheable {
		g.cases = append(g.cases, scenario{name: "status " + statusText(status), steps: reused(status, modified)})
	}
	return []group{g}
}
