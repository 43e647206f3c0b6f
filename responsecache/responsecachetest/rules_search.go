package responsecachetest

// noVarySearch is about queries that are different and mean the same
// (draft-ietf-httpbis-no-vary-search).
func noVarySearch() []group {
	same := func(name, rule, one, other string) scenario {
		return scenario{name: name, steps: flow(
			get().at(one).answer(200, minute, "No-Vary-Search: "+rule),
			get().at(other).hit(1),
			get().at(one).hit(1),
		)}
	}
	distinct := func(name, rule, one, other string) scenario {
		return scenario{name: name, steps: flow(
			get().at(one).answer(200, minute, "No-Vary-Search: "+rule),
			get().at(other).answer(200, minute, "No-Vary-Search: "+rule),
			get().at(one).hit(1),
			get().at(other).hit(2),
		)}
	}
	invalid := group{
		section: "No-Vary-Search §5.1 invalid fields",
		rule:    "a field that is invalid, or says nothing, lets all of the query count",
	}
	for _, rule := range []string{
		`params=()`, `key-order=?0`, `key-order="not a boolean"`, `params="not an inner list"`, `params=(not-a-string)`, `params=("a" 1)`, `params=?0`,
		`params=("a"), except=("x")`, `params=(), except=()`, `except="not an inner list"`, `except=(not-a-string)`, `except=?1`, `params=("a"`, `foo`, ``,
		`Params=("a")`, `params=("a"), key-order=1`, `params=a`, `params=1`,
	} {
		invalid.cases = append(invalid.cases, distinct(rule+".", rule, "?a=1&b=2", "?a=2&b=2"))
	}
	return []group{invalid, {
		section: "No-Vary-Search §4 params",
		rule:    "with params the parameters of those names do not count, and all others do",
		cases: []scenario{
			same("another value", `params=("a")`, "?a=1&b=2", "?a=2&b=2"),
			same("without it", `params=("a")`, "?a=1&b=2", "?b=2"),
			same("with it", `params=("a")`, "?b=2", "?a=1&b=2"),
			same("without a query", `params=("a")`, "?a=1", ""),
			same("an empty query", `params=("a")`, "", "?"),
			same("at another place", `params=("a")`, "?a=1&b=2", "?b=2&a=1"),
			same("several times", `params=("a")`, "?a=1&b=2&a=3", "?b=2"),
			same("two names", `params=("a" "c")`, "?a=1&b=2&c=3", "?b=2&c=4"),
			same("an encoded name", `params=("a")`, "?%61=1&b=2", "?b=2"),
			same("a name that is not ASCII", `params=("%C3%A9+%E6%B0%97")`, "?%C3%A9%20%E6%B0%97=1&b=2", "?b=2"),
			same("parameters of the field", `params=("a";x);y`, "?a=1", "?a=2"),
			same("unknown members", `foo=1, params=("a"), bar`, "?a=1", "?a=2"),
			distinct("another one", `params=("a")`, "?a=1&b=2", "?a=1&b=3"),
			distinct("case of the name", `params=("a")`, "?A=1", "?A=2"),
			distinct("order of the others", `params=("a")`, "?b=2&c=3", "?c=3&b=2"),
			distinct("an encoded ampersand", `params=("x")`, "?a=1%26b=2", "?a=1&b=2"),
			distinct("an encoded equals sign", `params=("x")`, "?a%3D1=2", "?a=1=2"),
			distinct("the path", `params=("a")`, "/one?a=1", "/two?a=1"),
			{name: "two lines", steps: flow(
				get().at("?a=1&b=1").answer(200, minute, `No-Vary-Search: params=("a")`, "No-Vary-Search: key-order"),
				get().at("?b=1&a=2").hit(1),
			)},
		},
	}, {
		section: "No-Vary-Search §5.1 params of an earlier draft",
		rule:    "params without a list lets no parameter count, but for those of except",
		cases: []scenario{
			same("all", "params", "?a=1&b=2", "?c=3"),
			same("all but", `params, except=("a")`, "?a=1&b=2", "?a=1"),
			distinct("all but one", `params, except=("a")`, "?a=1&b=2", "?a=2&b=2"),
		},
	}, {
		section: "No-Vary-Search §4 except",
		rule:    "with except only the parameters of those names count",
		cases: []scenario{
			same("others", `except=("a")`, "?a=1&b=2", "?c=3&a=1"),
			same("none", "except=()", "?a=1", "?b=2"),
			same("two", `except=("a" "b")`, "?a=1&x=1&b=2", "?a=1&b=2&x=2"),
			distinct("another value", `except=("a")`, "?a=1&b=2", "?a=2&b=2"),
			distinct("absent", `except=("a")`, "?a=1&b=2", "?b=2"),
			distinct("several times", `except=("a")`, "?a=1", "?a=1&a=1"),
			distinct("order", `except=("a" "b")`, "?a=1&b=2", "?b=2&a=1"),
		},
	}, {
		section: "No-Vary-Search §4 key-order",
		rule:    "with key-order the order of parameters with different names does not count",
		cases: []scenario{
			same("order", "key-order", "?b=2&a=1", "?a=1&b=2"),
			same("with params", `key-order, params=("x")`, "?b=2&x=1&a=1", "?a=1&b=2"),
			same("with except", `key-order, except=("a" "b")`, "?b=2&x=1&a=1", "?a=1&b=2"),
			same("with true", "key-order=?1", "?b=2&a=1", "?a=1&b=2"),
			distinct("another value", "key-order", "?b=2&a=1", "?a=1&b=3"),
			distinct("order of the same name", "key-order", "?a=1&a=2", "?a=2&a=1"),
			distinct("values changed about", "key-order", "?a=1&b=2", "?a=2&b=1"),
		},
	}, {
		section: "No-Vary-Search §6.1 equivalent queries",
		rule:    "with any rule, queries are compared as they are decoded",
		cases: []scenario{
			same("percent-encoding", "key-order", "?a=x", "?%61=%78"),
			same("not UTF-8", "key-order", "?a=%f6", "?a=%ef%bf%bd"),
			same("empty parts", "key-order", "?a=x&&&&", "?a=x"),
			same("no value", "key-order", "?a=", "?a"),
			same("plus", "key-order", "?a=%20", "?a=+"),
			same("no query", "key-order", "", "?"),
			distinct("encoded plus", "key-order", "?a=%2B", "?a=+"),
		},
	}, {
		section: "No-Vary-Search §7 caching",
		rule:    "what holds for a stored response holds for it under each equivalent URI",
		cases: []scenario{
			{name: "Vary", steps: flow(
				get("X-V: 1").at("?a=1").answer(200, minute, "Vary: X-V", `No-Vary-Search: params=("a")`),
				get("X-V: 2").at("?a=2").answer(200, minute, "Vary: X-V", `No-Vary-Search: params=("a")`),
				get("X-V: 1").at("?a=3").hit(1),
			)},
			{name: "validation", steps: flow(
				get().at("?a=1").answer(200, minute, "Age: 100", `ETag: "a"`, `No-Vary-Search: params=("a")`),
				get().at("?a=2").answer(304, minute, `ETag: "a"`, `No-Vary-Search: params=("a")`).saw(`If-None-Match: "a"`).gives(1),
				get().at("?a=3").hit(1),
			)},
			{name: "invalidation", steps: flow(
				get().at("?a=1").answer(200, minute, `No-Vary-Search: params=("a")`),
				ask("POST").at("?a=1").answer(200),
				get().at("?a=1").answer(200, minute),
			)},
			{name: "no-store", steps: flow(
				get().at("?a=1").answer(200, "Cache-Control: no-store", `No-Vary-Search: params=("a")`),
				get().at("?a=2").answer(200, minute, `No-Vary-Search: params=("a")`),
			)},
			{name: "the rule is gone", steps: flow(
				get().at("?a=1").answer(200, minute, `No-Vary-Search: params=("a")`),
				get("Cache-Control: no-cache").at("?a=2").answer(200, minute),
				get().at("?a=2").hit(2),
				get().at("?a=3").may(steps(1), 200, minute),
			)},
		},
	}}
}
