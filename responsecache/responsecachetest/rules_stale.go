package responsecachetest

// staleBy40 is a response with a lifetime of 60 seconds, and an age of 100.
func staleBy40(directives string) []string {
	return []string{"Cache-Control: max-age=60" + directives, "Age: 100", `ETag: "a"`}
}

// stale is about responses that are used stale while new ones are made (RFC 9111
// §4.2.4, RFC 5861 §3).
func stale() []group {
	const window = ", stale-while-revalidate=1000"
	return []group{
		{
			section: "RFC 5861 §3 stale-while-revalidate",
			rule:    "within the window a stale response is used, and made anew in the background",
			cases: []scenario{
				{name: "a new response", steps: flow(
					get().answer(200, staleBy40(window)...),
					get().hit(1).refreshed(200, minute).aged(100).says("hit; ttl=-40"),
					get().hit(2).eventually(),
				)},
				{name: "without a validator", steps: flow(
					get().answer(200, "Cache-Control: max-age=60"+window, "Age: 100"),
					get().hit(1).refreshed(200, minute),
					get().hit(2).eventually(),
				)},
				{name: "validation", steps: flow(
					get().answer(200, staleBy40(window)...),
					get().hit(1).refreshed(304, minute, `ETag: "a"`).saw(`If-None-Match: "a"`),
					get().hit(1).eventually().aged(0).lines(minute),
				)},
				{name: "a client's condition is not the cache's", steps: flow(
					get().answer(200, staleBy40(window)...),
					get(`If-None-Match: "x"`).hit(1).refreshed(200, minute, `ETag: "b"`).saw(`If-None-Match: "a"`),
					get().hit(2).eventually(),
				)},
				{name: "304 to the client", steps: flow(
					get().answer(200, staleBy40(window)...),
					get(`If-None-Match: "a"`).notModified(1).refreshed(200, minute, `ETag: "b"`),
					get().hit(2).eventually(),
				)},
				{name: "a range", steps: flow(
					get().answer(200, staleBy40(window)...),
					get("Range: bytes=0-3").hit(1).code(206).text("body").refreshed(200, minute).saw("!Range"),
					get().hit(2).eventually(),
				)},
				{name: "a variant", steps: flow(
					get("X-V: 1").answer(200, append(staleBy40(window), "Vary: X-V")...),
					get("X-V: 1").hit(1).refreshed(200, minute, "Vary: X-V").saw("X-V: 1"),
					get("X-V: 1").hit(2).eventually(),
					get("X-V: 2").answer(200, minute, "Vary: X-V"),
				)},
				{name: "a refresh that fails", steps: flow(
					get().answer(200, staleBy40(window)...),
					get().hit(1).refreshed(503),
					get().hit(1).eventually(),
				)},
				{name: "quoted", steps: flow(
					get().answer(200, staleBy40(`, stale-while-revalidate="1000"`)...),
					get().hit(1).refreshed(200, minute),
				)},
				{name: "on a second line", steps: flow(
					get().answer(200, append(staleBy40(""), "Cache-Control: Stale-While-Revalidate=1000")...),
					get().hit(1).refreshed(200, minute),
				)},
				{name: "with Expires", steps: flow(
					get().answer(200, "Expires: "+httpDate(60), "Age: 100", "Cache-Control: stale-while-revalidate=1000"),
					get().hit(1).refreshed(200, minute),
				)},
			},
		},
		{
			section: "RFC 5861 §3 outside of the window",
			rule:    "after the window, and without one, a stale response is not used",
			cases: []scenario{
				{name: "after it", steps: notReused(200, staleBy40(", stale-while-revalidate=10")...)},
				{name: "zero", steps: notReused(200, staleBy40(", stale-while-revalidate=0")...)},
				{name: "invalid", steps: notReused(200, staleBy40(", stale-while-revalidate=long")...)},
				{name: "without a number", steps: notReused(200, staleBy40(", stale-while-revalidate")...)},
				{name: "none", steps: notReused(200, staleBy40("")...)},
				{name: "in a quoted string", steps: notReused(200, staleBy40(`, ext="stale-while-revalidate=1000"`)...)},
				{name: "stale-if-error without an error", steps: notReused(200, staleBy40(", stale-if-error=1000")...)},
			},
		},
		{
			section: "RFC 9111 §4.2.4 forbidden",
			rule:    "a stale response is not used if must-revalidate, proxy-revalidate, s-maxage or no-cache forbids it",
			cases: []scenario{
				{name: "must-revalidate", steps: notReused(200, staleBy40(window+", must-revalidate")...)},
				{name: "proxy-revalidate", steps: notReused(200, staleBy40(window+", proxy-revalidate")...)},
				{name: "s-maxage", steps: notReused(200, staleBy40(window+", s-maxage=60")...)},
				{name: "no-cache", steps: notReused(200, staleBy40(window+", no-cache")...)},
				{name: "no-cache, young", steps: notReused(200, "Cache-Control: max-age=60, no-cache"+window)},
				{name: "in upper case", steps: notReused(200, staleBy40(window+", MUST-REVALIDATE")...)},
				{name: "must-revalidate while fresh", steps: reused(200, "Cache-Control: max-age=60, must-revalidate"+window)},
				{name: "proxy-revalidate while fresh", steps: reused(200, "Cache-Control: max-age=60, proxy-revalidate")},
			},
		},
	}
}

// staleOnError is about responses that are used stale because no new one can be
// made (RFC 5861 §4).
func staleOnError() []group {
	const window = ", stale-if-error=1000"
	on := func(status int, directives string) []*step {
		return flow(get().answer(200, staleBy40(directives)...), get().answer(status, "Cache-Control: no-store").gives(1).aged(100))
	}
	passed := func(status int, directives string) []*step {
		return flow(get().answer(200, staleBy40(directives)...), get().answer(status, "Cache-Control: no-store"))
	}
	return []group{
		{
			section: "RFC 5861 §4 stale-if-error",
			rule:    "within the window a stale response is used if the origin answers 502, 503 or 504, or fails before its header",
			cases: []scenario{
				{name: "502", steps: on(502, window)},
				{name: "503", steps: on(503, window)},
				{name: "504", steps: on(504, window)},
				{name: "panic", steps: flow(get().answer(200, staleBy40(window)...), get().fails().gives(1))},
				{name: "without a validator", steps: flow(
					get().answer(200, "Cache-Control: max-age=60"+window, "Age: 100"),
					get().answer(503).gives(1),
				)},
				{name: "a 404 that was stored", steps: flow(
					get().answer(404, staleBy40(window)...),
					get().answer(503).gives(1),
				)},
				{name: "a variant", steps: flow(
					get("X-V: 1").answer(200, append(staleBy40(window), "Vary: X-V")...),
					get("X-V: 2").answer(503),
					get("X-V: 1").answer(503).gives(1),
				)},
				{name: "a range", steps: flow(
					get().answer(200, staleBy40(window)...),
					get("Range: bytes=0-3").answer(503).gives(1).code(206).text("body"),
				)},
				{name: "the error is not stored in its place", steps: flow(
					get().answer(200, staleBy40(window)...),
					get().answer(503, minute).gives(1),
					get("Cache-Control: max-age=0").may(steps(1), 200, minute),
				)},
			},
		},
		{
			section: "RFC 5861 §4 no stale-if-error",
			rule:    "other responses are passed on, and so are errors after the window or if a stale response is forbidden",
			cases: []scenario{
				{name: "404", steps: passed(404, window)},
				{name: "410", steps: passed(410, window)},
				{name: "500", steps: passed(500, window)},
				{name: "501", steps: passed(501, window)},
				{name: "302", steps: passed(302, window)},
				{name: "must-revalidate", steps: passed(503, window+", must-revalidate")},
				{name: "proxy-revalidate", steps: passed(503, window+", proxy-revalidate")},
				{name: "s-maxage", steps: passed(503, window+", s-maxage=60")},
				{name: "no-cache", steps: passed(503, window+", no-cache")},
				{name: "panic with must-revalidate", steps: flow(
					get().answer(200, staleBy40(window+", must-revalidate")...),
					get().fails().aborts(),
				)},
				{name: "after it", in: safe, steps: passed(503, ", stale-if-error=10")},
				{name: "none", in: safe, steps: passed(503, "")},
				{name: "zero", in: safe, steps: passed(503, ", stale-if-error=0")},
				{name: "the client wants no-cache", steps: flow(
					get().answer(200, staleBy40(window)...),
					get("Cache-Control: no-cache").answer(503, "Cache-Control: no-store"),
				)},
				{name: "nothing stored", steps: flow(get().answer(503, "Cache-Control: stale-if-error=1000"))},
				{name: "an error in the middle", steps: flow(
					get().answer(200, staleBy40(window)...),
					get().answer(200, minute).ends(breaks).aborts(),
				)},
			},
		},
	}
}
