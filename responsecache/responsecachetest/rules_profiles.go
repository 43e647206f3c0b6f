package responsecachetest

// profiles is about where the two profiles differ: each case is there for both.
func profiles() []group {
	modified := "Last-Modified: " + httpDate(-100_000)
	both := func(name string, inSafe, inConformance []*step) []scenario {
		return []scenario{{name: name, in: safe, steps: inSafe}, {name: name, in: conformance, steps: inConformance}}
	}
	var cases []scenario
	for _, pair := range [][]scenario{
		both(
			"no lifetime, Last-Modified",
			notReused(200, modified),
			reused(200, modified),
		),
		both(
			"public, no lifetime, Last-Modified",
			notReused(302, modified, "Cache-Control: public"),
			reused(302, modified, "Cache-Control: public"),
		),
		both(
			"no lifetime, ETag",
			flow(get().answer(200, `ETag: "a"`), get().answer(200, `ETag: "b"`).saw("!If-None-Match")),
			flow(get().answer(200, `ETag: "a"`), get().answer(304, `ETag: "a"`).saw(`If-None-Match: "a"`).gives(1)),
		),
		both(
			"Set-Cookie and a lifetime",
			notReused(200, minute, "Set-Cookie: a=b"),
			reused(200, minute, "Set-Cookie: a=b"),
		),
		both(
			"Cookie in the request",
			flow(get("Cookie: id=1").answer(200, minute), get("Cookie: id=1").answer(200, minute)),
			flow(get("Cookie: id=1").answer(200, minute), get("Cookie: id=2").hit(1)),
		),
		both(
			"Cookie in a later request",
			flow(get().answer(200, minute), get("Cookie: id=1").answer(200, minute)),
			flow(get().answer(200, minute), get("Cookie: id=1").hit(1)),
		),
		both(
			"503 for what is stale",
			flow(get().answer(200, staleBy40("")...), get().answer(503)),
			flow(get().answer(200, staleBy40("")...), get().answer(503).gives(1)),
		),
		both(
			"panic for what is stale",
			flow(get().answer(200, staleBy40("")...), get().fails().aborts()),
			flow(get().answer(200, staleBy40("")...), get().fails().gives(1)),
		),
		both(
			"503 for what must be revalidated",
			flow(get().answer(200, staleBy40(", must-revalidate")...), get().answer(503)),
			flow(get().answer(200, staleBy40(", must-revalidate")...), get().answer(503)),
		),
		both(
			"503 for what has a window",
			flow(get().answer(200, staleBy40(", stale-if-error=1000")...), get().answer(503).gives(1)),
			flow(get().answer(200, staleBy40(", stale-if-error=1000")...), get().answer(503).gives(1)),
		),
	} {
		cases = append(cases, pair...)
	}
	return []group{{
		section: "Profiles",
		rule:    "Safe leaves out what goes wrong where handlers are not written with a shared cache in mind; Conformance does what RFC 9111 permits",
		cases:   cases,
	}}
}
