package responsecachetest

import "fmt"

// invalidation is about what unsafe requests remove (RFC 9111 §4.4).
func invalidation() []group {
	fresh := func(suffix string) *step { return get().at(suffix).answer(200, minute) }
	after := func(name, method string, status int, fields ...string) scenario {
		return scenario{name: name, steps: flow(fresh(""), ask(method).answer(status, fields...), fresh(""))}
	}
	kept := func(name, method string, status int, fields ...string) scenario {
		return scenario{name: name, steps: flow(fresh(""), ask(method).answer(status, fields...), get().hit(1))}
	}
	// other is about another URL, which the field names.
	other := func(name string, status int, field string) scenario {
		return scenario{name: name, steps: flow(fresh("/other"), ask("POST").answer(status, field), fresh("/other"))}
	}
	otherKept := func(name string, status int, field string) scenario {
		return scenario{name: name, steps: flow(fresh("/other"), ask("POST").answer(status, field), get().at("/other").hit(1))}
	}
	// foreign is about a URL of another origin, which is stored here, too.
	foreign := func(name, host, field string) scenario {
		return scenario{name: name, steps: flow(
			get("Host: "+host).at("/other").answer(200, minute),
			ask("POST").answer(201, field),
			get("Host: "+host).at("/other").hit(1),
		)}
	}
	target := group{
		section: "RFC 9111 §4.4 target URI",
		rule:    "a response without an error to an unsafe method, or one whose safety is unknown, invalidates the target URI",
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "FOO"} {
		for _, status := range []int{200, 204, 303} {
			target.cases = append(target.cases, after(fmt.Sprintf("%s %d", method, status), method, status))
		}
	}
	for _, status := range []int{201, 202, 205, 299, 300, 301, 302, 307, 308, 399} {
		target.cases = append(target.cases, after(fmt.Sprintf("POST %d", status), "POST", status))
	}
	target.cases = append(
		target.cases,
		after("not stored itself", "POST", 200, "Cache-Control: no-store"),
		scenario{name: "with content", steps: flow(fresh(""), ask("POST", "Content-Type: text/plain").sends("a=1").answer(200), fresh(""))},
		scenario{name: "with credentials", steps: flow(fresh(""), ask("POST", "Authorization: Basic YTpi", "Cookie: id=1").answer(200), fresh(""))},
		scenario{name: "with a query", steps: flow(fresh("?a=1"), ask("POST").at("?a=1").answer(200), fresh("?a=1"))},
		scenario{name: "early hints first", steps: flow(fresh(""), ask("POST").answer(200).early("Link: </a>"), fresh(""))},
		scenario{name: "all variants", steps: flow(
			get("X-V: 1").answer(200, minute, "Vary: X-V"),
			get("X-V: 2").answer(200, minute, "Vary: X-V"),
			ask("POST", "X-V: 3").answer(200),
			get("X-V: 1").answer(200, minute, "Vary: X-V"),
			get("X-V: 2").answer(200, minute, "Vary: X-V"),
		)},
		scenario{name: "for HEAD", steps: flow(fresh(""), ask("POST").answer(200), ask("HEAD").answer(200, minute))},
		scenario{name: "what may be used stale", steps: flow(
			get().answer(200, staleBy40(", stale-while-revalidate=1000, stale-if-error=1000")...),
			ask("POST").answer(200),
			get().answer(200, minute),
		)},
		scenario{name: "what max-stale permits", steps: flow(
			get().answer(200, staleBy40("")...),
			ask("POST").answer(200),
			get("Cache-Control: max-stale").answer(200, minute),
		)},
		scenario{name: "stored again afterwards", steps: flow(fresh(""), ask("POST").answer(200), fresh(""), get().hit(3))},
	)
	failed := group{
		section: "RFC 9111 §4.4 errors",
		rule:    "a response with an error invalidates nothing",
	}
	for _, status := range []int{400, 401, 403, 404, 405, 409, 412, 422, 428, 499, 500, 502, 503, 599} {
		failed.cases = append(failed.cases, kept(fmt.Sprintf("POST %d", status), "POST", status))
	}
	failed.cases = append(failed.cases,
		kept("PUT 403", "PUT", 403), kept("DELETE 404", "DELETE", 404),
		otherKept("Location of a 400", 400, "Location: {path}/other"),
		otherKept("Content-Location of a 500", 500, "Content-Location: {path}/other"))
	return []group{target, failed, {
		section: "RFC 9111 §4.4 Location and Content-Location",
		rule:    "the URIs of Location and Content-Location are invalidated as well if they are of the same origin",
		cases: []scenario{
			other("Location, path", 201, "Location: {path}/other"),
			other("Location, URL", 201, "Location: {origin}{path}/other"),
			other("Location of a 303", 303, "Location: {path}/other"),
			other("Location, relative", 201, "Location: {id}/other"),
			other("Location, dots", 201, "Location: ./x/../{id}/other"),
			other("Location, without a scheme", 201, "Location: //{host}{path}/other"),
			other("Content-Location, path", 200, "Content-Location: {path}/other"),
			other("Content-Location, URL", 200, "Content-Location: {origin}{path}/other"),
			other("with a fragment", 201, "Location: {path}/other#part"),
			{name: "a query", steps: flow(fresh("?a=1"), ask("POST").answer(200, "Content-Location: ?a=1"), fresh("?a=1"))},
			{name: "both", steps: flow(
				fresh("/one"), fresh("/two"), ask("POST").answer(201, "Location: {path}/one", "Content-Location: {path}/two"),
				fresh("/one"), fresh("/two"),
			)},
			{name: "no URI at all", steps: flow(fresh(""), ask("POST").answer(201, "Location: http://%zz\x80"), fresh(""))},
		},
	}, {
		section: "RFC 9111 §4.4 other origins",
		rule:    "a URI of another origin must not be invalidated",
		cases: []scenario{
			foreign("Location", "other.example", "Location: http://other.example{path}/other"),
			foreign("Location, https", "other.example", "Location: https://other.example{path}/other"),
			foreign("Content-Location", "other.example", "Content-Location: http://other.example{path}/other"),
			foreign("Content-Location, https", "other.example", "Content-Location: https://other.example{path}/other"),
			foreign("without a scheme", "other.example", "Location: //other.example{path}/other"),
			otherKept("another port", 201, "Location: http://127.0.0.1:1{path}/other"),
			otherKept("another host", 201, "Location: http://other.example{path}/other"),
			otherKept("another scheme", 201, "Location: ftp://{host}{path}/other"),
			otherKept("user and host", 201, "Location: http://{host}@other.example{path}/other"),
			{name: "the target URI on another host", steps: flow(
				get("Host: other.example").answer(200, minute),
				ask("POST").answer(200),
				get("Host: other.example").hit(1),
			)},
		},
	}, {
		section: "RFC 9111 §4.4 safe methods",
		rule:    "a safe method invalidates nothing",
		cases: []scenario{
			kept("OPTIONS", "OPTIONS", 200), kept("TRACE", "TRACE", 200),
			{name: "HEAD with Location", steps: flow(
				fresh("/other"), ask("HEAD").answer(200, "Location: {path}/other"), get().at("/other").hit(1),
			)},
			{name: "GET with Location", steps: flow(
				fresh("/other"), get().answer(302, "Location: {path}/other"), get().at("/other").hit(1),
			)},
			{name: "GET with Content-Location", steps: flow(
				fresh("/other"), get().answer(200, "Content-Location: {path}/other"), get().at("/other").hit(1),
			)},
		},
	}}
}

// post is about responses to POST (RFC 9110 §9.3.3).
func post() []group {
	self := "Content-Location: {path}"
	refused := func(name string, status int, fields ...string) scenario {
		return scenario{name: name, steps: flow(ask("POST").answer(status, fields...), get().answer(200, minute))}
	}
	return []group{{
		section: "RFC 9110 §9.3.3 POST stored for GET",
		rule:    "the response to a POST answers a later GET or HEAD if it states its lifetime, and its Content-Location is the target URI",
		cases: []scenario{
			{name: "path", steps: flow(ask("POST").sends("a=1").answer(200, minute, self), get().hit(1))},
			{name: "URL", steps: flow(ask("POST").answer(200, minute, "Content-Location: {origin}{path}"), get().hit(1))},
			{name: "Expires", steps: flow(ask("POST").answer(200, "Expires: "+httpDate(3600), self), get().hit(1))},
			{name: "HEAD", steps: flow(ask("POST").answer(200, minute, self), ask("HEAD").hit(1).withLength())},
			{name: "in the place of another", steps: flow(
				get().answer(200, minute), ask("POST").answer(200, minute, self), get().hit(2),
			)},
			{name: "it varies", steps: flow(
				ask("POST", "X-V: 1").answer(200, minute, self, "Vary: X-V"),
				get("X-V: 2").answer(200, minute, "Vary: X-V"),
			)},
		},
	}, {
		section: "RFC 9110 §9.3.3 POST not stored",
		rule:    "otherwise it does not",
		cases: []scenario{
			refused("no Content-Location", 200, minute),
			refused("another Content-Location", 200, minute, "Content-Location: {path}/other"),
			refused("of another origin", 200, minute, "Content-Location: http://other.example{path}"),
			refused("another query", 200, minute, "Content-Location: {path}?a"),
			refused("no lifetime", 200, self),
			refused("no lifetime but a date", 200, self, "Last-Modified: "+httpDate(-10_000)),
			refused("max-age=0", 200, "Cache-Control: max-age=0", self),
			refused("no-store", 200, "Cache-Control: no-store, max-age=60", self),
			refused("private", 200, "Cache-Control: private, max-age=60", self),
			{name: "Authorization", steps: flow(
				ask("POST", "Authorization: Basic YTpi").answer(200, minute, self), get().answer(200, minute),
			)},
			{name: "the request says no-store", steps: flow(
				ask("POST", "Cache-Control: no-store").answer(200, minute, self), get().answer(200, minute),
			)},
		},
	}, {
		section: "RFC 9110 §9.3.3 POST not answered",
		rule:    "a POST is never answered from the store",
		cases: []scenario{
			{name: "by a POST", steps: flow(ask("POST").answer(200, minute, self), ask("POST").answer(200, minute, self))},
			{name: "by a GET", steps: flow(get().answer(200, minute), ask("POST").answer(200))},
			{name: "with only-if-cached", steps: flow(get().answer(200, minute), ask("POST", "Cache-Control: only-if-cached").may(nil, 200).anyStatus().anyText())},
			{name: "with a condition", steps: flow(
				get().answer(200, minute, `ETag: "a"`), ask("POST", `If-None-Match: "a"`).answer(200).saw(`If-None-Match: "a"`),
			)},
		},
	}}
}
