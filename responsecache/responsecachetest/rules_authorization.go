package responsecachetest

// authorization is about requests with credentials (RFC 9111 §3.5).
func authorization() []group {
	stored := func(directives string) []*step {
		return flow(
			get("Authorization: Basic YTpi").answer(200, "Cache-Control: "+directives),
			get("Authorization: Basic Yzpk").hit(1),
			get().hit(1),
		)
	}
	notStored := func(directives string) []*step {
		return flow(
			get("Authorization: Basic YTpi").answer(200, "Cache-Control: "+directives),
			get("Authorization: Basic Yzpk").answer(200, "Cache-Control: "+directives),
			get().answer(200, "Cache-Control: "+directives),
		)
	}
	return []group{
		{
			section: "RFC 9111 §3.5 Authorization",
			rule:    "the response to a request with Authorization is not used for another request unless it has public, s-maxage or must-revalidate",
			cases: []scenario{
				{name: "max-age", steps: notStored("max-age=60")},
				{name: "proxy-revalidate", steps: notStored("max-age=60, proxy-revalidate")},
				{name: "immutable", steps: notStored("max-age=60, immutable")},
				{name: "public as an argument", steps: notStored(`max-age=60, ext="public"`)},
				{name: "private", steps: notStored("max-age=60, public, private")},
				{name: "no-store", steps: notStored("s-maxage=60, no-store")},
				{name: "public", steps: stored("public, max-age=60")},
				{name: "s-maxage", steps: stored("s-maxage=60")},
				{name: "must-revalidate", steps: stored("max-age=60, must-revalidate")},
				{name: "in upper case", steps: stored("PUBLIC, max-age=60")},
				{name: "Expires", steps: flow(
					get("Authorization: Basic YTpi").answer(200, "Expires: "+httpDate(3600)),
					get().answer(200, "Expires: "+httpDate(3600)),
				)},
				{name: "public where only CDN-Cache-Control counts", steps: flow(
					get("Authorization: Basic YTpi").answer(200, "Cache-Control: public", "CDN-Cache-Control: max-age=60"),
					get("Authorization: Basic Yzpk").answer(200, "Cache-Control: public", "CDN-Cache-Control: max-age=60"),
				)},
				{name: "what others have brought stays", steps: flow(
					get().answer(200, "Cache-Control: public, max-age=60"),
					get("Authorization: Basic YTpi").hit(1),
				)},
				{name: "what is refused replaces nothing", steps: flow(
					get().answer(200, "Cache-Control: public, max-age=60"),
					get("Authorization: Basic YTpi", "Cache-Control: no-cache").answer(200, minute),
					get().may(steps(1), 200, minute),
				)},
			},
		},
		{
			section: "Safe: credentials",
			rule:    "Safe: requests with a Cookie or Authorization share only what is declared public",
			profile: safe,
			cases: []scenario{
				{name: "Cookie, max-age", steps: flow(
					get("Cookie: id=1").answer(200, minute),
					get("Cookie: id=2").answer(200, minute),
					get().answer(200, minute),
				)},
				{name: "Cookie, must-revalidate", steps: flow(
					get("Cookie: id=1").answer(200, "Cache-Control: max-age=60, must-revalidate"),
					get("Cookie: id=2").answer(200, minute),
				)},
				{name: "Cookie after others", steps: flow(
					get().answer(200, minute),
					get("Cookie: id=1").answer(200, minute),
					get().hit(1),
				)},
				{name: "Authorization after others", steps: flow(
					get().answer(200, minute),
					get("Authorization: Basic YTpi").answer(200, minute),
					get().hit(1),
				)},
				{name: "Cookie after others, public", steps: flow(
					get().answer(200, "Cache-Control: public, max-age=60"),
					get("Cookie: id=1").hit(1),
				)},
				{name: "Cookie after others, s-maxage", steps: flow(
					get().answer(200, "Cache-Control: s-maxage=60"),
					get("Cookie: id=1").hit(1),
				)},
				{name: "Cookie that the response varies on", steps: flow(
					get("Cookie: id=1").answer(200, minute, "Vary: Cookie"),
					get("Cookie: id=2").answer(200, minute, "Vary: Cookie"),
				)},
			},
		},
		{
			section: "Conformance: Cookie",
			rule:    "Conformance: Cookie is a field like any other, that counts if the response varies on it",
			profile: conformance,
			cases: []scenario{
				{name: "max-age", steps: flow(
					get("Cookie: id=1").answer(200, minute),
					get("Cookie: id=2").hit(1),
					get().hit(1),
				)},
				{name: "after others", steps: flow(get().answer(200, minute), get("Cookie: id=1").hit(1))},
				{name: "Vary: Cookie", steps: flow(
					get("Cookie: id=1").answer(200, minute, "Vary: Cookie"),
					get("Cookie: id=2").answer(200, minute, "Vary: Cookie"),
					get("Cookie: id=1").hit(1),
					get().answer(200, minute, "Vary: Cookie"),
				)},
			},
		},
	}
}
