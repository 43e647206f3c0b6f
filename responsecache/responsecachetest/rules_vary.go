package responsecachetest

import (
	"fmt"

	"github.com/herdless/herdless/responsecache"
)

// vary is about several responses of one URI (RFC 9111 §4.1).
func vary() []group {
	return []group{varyMatch(), varyMismatch(), varyStar(), varyChanges()}
}

// same is a scenario in which two requests have the same fields, as far as they
// count.
func same(name, vary string, one, other []string) scenario {
	return scenario{name: name, steps: flow(
		get(one...).answer(200, minute, vary),
		get(other...).hit(1),
	)}
}

// distinct is one in which they do not. Both responses are kept.
func distinct(name, vary string, one, other []string) scenario {
	return scenario{name: name, steps: flow(
		get(one...).answer(200, minute, vary),
		get(other...).answer(200, minute, vary),
		get(one...).hit(1),
		get(other...).hit(2),
	)}
}

// only returns the scenario for one profile.
func (c scenario) only(p *responsecache.Profile) scenario {
	c.in = p
	return c
}

func lines(list ...string) []string { return list }

func varyMatch() group {
	return group{
		section: "RFC 9111 §4.1 Vary matches",
		rule:    "fields match if one can be made of the other by adding or removing white space and combining lines",
		cases: []scenario{
			same("equal", "Vary: X-V", lines("X-V: 1"), lines("X-V: 1")),
			same("absent in both", "Vary: X-V", nil, nil),
			same("another field differs", "Vary: X-V", lines("X-V: 1", "X-Other: 1"), lines("X-V: 1", "X-Other: 2")),
			same("white space around commas", "Vary: Prefer", lines("Prefer: a, b,c"), lines("Prefer:  a ,b,\tc ")),
			same("two lines or one", "Vary: Prefer", lines("Prefer: a", "Prefer: b"), lines("Prefer: a, b")),
			same("white space around commas of any field", "Vary: X-V", lines("X-V: a, b,c"), lines("X-V:  a ,b,\tc ")).only(conformance),
			same("two lines or one of any field", "Vary: X-V", lines("X-V: a", "X-V: b"), lines("X-V: a, b")).only(conformance),
			same("name in upper case", "Vary: X-SELECT", lines("X-Select: 1"), lines("X-Select: 1")),
			same("name in lower case", "vary: x-select", lines("X-Select: 1"), lines("X-Select: 1")),
			same("several fields", "Vary: X-V, X-W", lines("X-V: 1", "X-W: 2"), lines("X-W: 2", "X-V: 1")),
			same("a field named twice", "Vary: X-V, x-v", lines("X-V: 1"), lines("X-V: 1")),
			same("empty members", "Vary: , X-V,", lines("X-V: 1"), lines("X-V: 1")),
			same("nothing named", "Vary:", lines("X-V: 1"), lines("X-V: 2")),
			same("Accept", "Vary: Accept", lines("Accept: text/html, */*;q=0.1"), lines("Accept: text/html,*/*;q=0.1")),
			same("User-Agent", "Vary: User-Agent", lines("User-Agent: x"), lines("User-Agent: x")),
		},
	}
}

func varyMismatch() group {
	var many []*step
	for i := range 12 {
		many = append(many, get(fmt.Sprintf("X-V: %d", i)).answer(200, minute, "Vary: X-V"))
	}
	for i := range 12 {
		many = append(many, get(fmt.Sprintf("X-V: %d", i)).hit(i+1))
	}
	return group{
		section: "RFC 9111 §4.1 Vary does not match",
		rule:    "a response is not used for a request whose fields that it varies on are others; each variant is stored on its own",
		cases: []scenario{
			distinct("another value", "Vary: X-V", lines("X-V: 1"), lines("X-V: 2")),
			distinct("case of the value", "Vary: X-V", lines("X-V: a"), lines("X-V: A")),
			distinct("absent", "Vary: X-V", lines("X-V: 1"), nil),
			distinct("present", "Vary: X-V", nil, lines("X-V: 1")),
			distinct("empty", "Vary: X-V", nil, lines("X-V:")),
			distinct("order of lines", "Vary: X-V", lines("X-V: a", "X-V: b"), lines("X-V: b", "X-V: a")),
			distinct("one more", "Vary: X-V", lines("X-V: a"), lines("X-V: a, b")),
			distinct("white space that counts", "Vary: X-V", lines(`X-V: "a, b"`), lines(`X-V: "a,b"`)),
			distinct("white space in a field that may be no list", "Vary: X-V", lines("X-V: (a, b)"), lines("X-V: (a,b)")).only(safe),
			distinct("two lines of a field that may be no list", "Vary: X-V", lines("X-V: a", "X-V: b"), lines("X-V: a, b")).only(safe),
			distinct("the second of two fields", "Vary: X-V, X-W", lines("X-V: 1", "X-W: 1"), lines("X-V: 1", "X-W: 2")),
			distinct("values changed about", "Vary: X-V, X-W", lines("X-V: 1", "X-W: 2"), lines("X-V: 2", "X-W: 1")),
			distinct("a value that looks like two", "Vary: X-V, X-W", lines("X-V: 1", "X-W: 2"), lines("X-V: 1\tX-W: 2", "X-W:")),
			distinct("Accept-Language", "Vary: Accept-Language", lines("Accept-Language: de"), lines("Accept-Language: en")),
			{name: "Vary on two lines", steps: flow(
				get("X-V: 1", "X-W: 1").answer(200, minute, "Vary: X-V", "Vary: X-W"),
				get("X-V: 1", "X-W: 2").answer(200, minute, "Vary: X-V", "Vary: X-W"),
				get("X-V: 1", "X-W: 1").hit(1),
			)},
			{name: "a dozen variants", steps: many},
			{name: "404 is a variant, too", steps: flow(
				get("X-V: 1").answer(200, minute, "Vary: X-V"),
				get("X-V: 2").answer(404, minute, "Vary: X-V"),
				get("X-V: 2").hit(2),
				get("X-V: 1").hit(1),
			)},
			{name: "variants with lifetimes of their own", steps: flow(
				get("X-V: 1").answer(200, minute, "Vary: X-V"),
				get("X-V: 2").answer(200, minute, "Age: 100", "Vary: X-V", `ETag: "a"`),
				get("X-V: 1").hit(1),
				get("X-V: 2").answer(200, minute, "Vary: X-V"),
				get("X-V: 2").hit(4),
			)},
			{name: "each is validated by its own validator", steps: flow(
				get("X-V: 1").answer(200, minute, "Age: 100", "Vary: X-V", `ETag: "one"`),
				get("X-V: 2").answer(200, minute, "Age: 100", "Vary: X-V", `ETag: "two"`),
				get("X-V: 1").answer(304, minute, "Vary: X-V", `ETag: "one"`).saw(`If-None-Match: "one"`, "X-V: 1").gives(1),
				get("X-V: 2").answer(304, minute, "Vary: X-V", `ETag: "two"`).saw(`If-None-Match: "two"`, "X-V: 2").gives(2),
				get("X-V: 1").hit(1),
				get("X-V: 2").hit(2),
			)},
		},
	}
}

func varyStar() group {
	return group{
		section: "RFC 9111 §4.1 Vary: *",
		rule:    `a Vary with a member "*" always fails to match`,
		cases: []scenario{
			{name: "alone", steps: notReused(200, minute, "Vary: *")},
			{name: "first of a list", steps: notReused(200, minute, "Vary: *, X-V")},
			{name: "last of a list", steps: notReused(200, minute, "Vary: X-V , *")},
			{name: "on a second line", steps: notReused(200, minute, "Vary: X-V", "Vary: *")},
			{name: "with public", steps: notReused(200, "Cache-Control: public, s-maxage=60", "Vary: *")},
		},
	}
}

func varyChanges() group {
	return group{
		section: "RFC 9111 §4.1 Vary changes",
		rule:    "each stored response counts by the fields that it names itself",
		cases: []scenario{
			{name: "more fields later", steps: flow(
				get("X-V: 1", "X-W: 1").answer(200, minute, "Vary: X-V"),
				get("X-V: 2", "X-W: 1").answer(200, minute, "Vary: X-V, X-W"),
				get("X-V: 2", "X-W: 2").answer(200, minute, "Vary: X-V, X-W"),
				get("X-V: 3", "X-W: 1").answer(200, minute, "Vary: X-V, X-W"),
				get("X-V: 3", "X-W: 1").hit(4),
			)},
			{name: "other fields later", steps: flow(
				get("X-V: 1", "X-W: 1").answer(200, minute, "Vary: X-V"),
				get("X-V: 2", "X-W: 1").answer(200, minute, "Vary: X-W"),
				get("X-V: 3", "X-W: 2").answer(200, minute, "Vary: X-W"),
				get("X-V: 3", "X-W: 2").hit(3),
			)},
			{name: "the first has none", steps: flow(
				get("X-V: 1", "Cache-Control: no-cache").answer(200, minute),
				get("X-V: 2", "Cache-Control: no-cache").answer(200, minute, "Vary: X-V"),
				get("X-V: 3").may(steps(1), 200, minute, "Vary: X-V"),
				get("X-V: 2").hit(2),
			)},
			{name: "a later one has none", steps: flow(
				get("X-V: 1").answer(200, minute, "Vary: X-V"),
				get("X-V: 2").answer(200, minute),
				get("X-V: 3").may(steps(2), 200, minute, "Vary: X-V"),
				get("X-V: 1").may(steps(1, 2), 200, minute, "Vary: X-V"),
			)},
			{name: "a later one varies on everything", steps: flow(
				get("X-V: 1").answer(200, minute, "Vary: X-V"),
				get("X-V: 2").answer(200, minute, "Vary: *"),
				get("X-V: 2").answer(200, minute, "Vary: *"),
			)},
			{name: "a 304 names more", steps: flow(
				get("X-V: 1", "X-W: 1").answer(200, minute, "Age: 100", "Vary: X-V", `ETag: "a"`),
				get("X-V: 1", "X-W: 1").answer(304, minute, "Vary: X-V, X-W", `ETag: "a"`).gives(1),
				get("X-V: 1", "X-W: 2").answer(200, minute, "Vary: X-V, X-W", `ETag: "b"`),
			)},
		},
	}
}
