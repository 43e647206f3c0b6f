package responsecachetest

import (
	"fmt"
	"net/http"
	"slices"
)

// storing is about which responses are stored (RFC 9111 §3), by their status.
func storing() []group {
	explicit := group{
		section: "RFC 9111 §3 any final status",
		rule:    "a response of any final status may be stored, whether the cache understands it or not, if it states its freshness",
	}
	silent := group{
		section: "RFC 9111 §3 no stated lifetime",
		rule:    "Safe: a response that says nothing of its lifetime is not stored",
		profile: safe,
	}
	for _, status := range statuses {
		explicit.cases = append(explicit.cases, scenario{name: fmt.Sprint(status), steps: reused(status, minute)})
		if slices.Contains(heuristicallyCacheable, status) || status == http.StatusFound || status == http.StatusInternalServerError {
			silent.cases = append(silent.cases, scenario{name: fmt.Sprint(status), steps: notReused(status, "Last-Modified: "+httpDate(-100_000))})
		}
	}
	return []group{explicit, silent, partial(), incomplete(), mustUnderstand(), methodsStored()}
}

// statuses are those that are registered, and the ends of each class.
var statuses = []int{
	200, 201, 202, 203, 204, 205, 207, 208, 226, 299,
	300, 301, 302, 303, 305, 306, 307, 308, 399,
	400, 401, 402, 403, 404, 405, 406, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423, 424, 425, 426, 428, 429, 431, 451, 499,
	500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511, 599,
}

// heuristicallyCacheable are the statuses that are so by RFC 9110 §15.1, but for
// 206.
var heuristicallyCacheable = []int{200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501}

func partial() group {
	return group{
		section: "RFC 9111 §3.3 partial responses",
		rule:    "a part is never used as if it were the whole, nor a 304 as a response of its own",
		cases: []scenario{
			{name: "206 to a request for a range", steps: flow(
				get("Range: bytes=0-3").answer(206, minute, "Content-Range: bytes 0-3/10").with("0123"),
				get().answer(200, minute).with("0123456789"),
			)},
			{name: "206 to a request for another range", steps: flow(
				get("Range: bytes=0-3").answer(206, minute, "Content-Range: bytes 0-3/10").with("0123"),
				get("Range: bytes=4-5").answer(206, minute, "Content-Range: bytes 4-5/10").with("45"),
			)},
			{name: "206 to a request for all", steps: flow(
				get().answer(206, minute, "Content-Range: bytes 0-3/10").with("0123"),
				get().answer(200, minute).with("0123456789"),
			)},
			{name: "multipart 206", steps: flow(
				get("Range: bytes=0-1,4-5").answer(206, minute, "Content-Type: multipart/byteranges; boundary=x").with("--x--"),
				get().answer(200, minute),
			)},
			{name: "416 to a request for a range", steps: flow(
				get("Range: bytes=100-").answer(416, minute, "Content-Range: bytes */10"),
				get().answer(200, minute),
			)},
			{name: "304 to a client's condition", steps: flow(
				get(`If-None-Match: "a"`).answer(304, minute, `ETag: "a"`),
				get().answer(200, minute, `ETag: "a"`),
			)},
			{name: "304 out of nothing", steps: flow(
				get().answer(304, minute, `ETag: "a"`),
				get().answer(200, minute, `ETag: "a"`),
			)},
		},
	}
}

func incomplete() group {
	return group{
		section: "RFC 9111 §3.3 incomplete responses",
		rule:    "a response that did not come to its end is not used for any other request",
		cases: []scenario{
			{name: "the body breaks off", steps: flow(
				get().answer(200, minute).ends(breaks).aborts(),
				get().answer(200, minute),
				get().may(steps(2), 200, minute),
			)},
			{name: "a long body breaks off", steps: flow(
				get().answer(200, minute).with(text(20_000)).ends(breaks).aborts(),
				get().answer(200, minute),
				get().may(steps(2), 200, minute),
			)},
			{name: "no header at all", steps: flow(
				get().fails().aborts(),
				get().answer(200, minute),
				get().may(steps(2), 200, minute),
			)},
		},
	}
}

func mustUnderstand() group {
	g := group{
		section: "RFC 9111 §5.2.2.3 must-understand",
		rule:    "with must-understand, a response is stored if its status is understood, whatever no-store says, and else not",
	}
	for _, status := range []int{200, 203, 204, 301, 302, 307, 308, 404, 410} {
		g.cases = append(g.cases, scenario{name: fmt.Sprintf("%d with no-store", status), steps: reused(status, "Cache-Control: max-age=60, no-store, must-understand")})
	}
	for _, status := range []int{299, 399, 499, 599} {
		g.cases = append(
			g.cases,
			scenario{name: fmt.Sprintf("%d with no-store", status), steps: notReused(status, "Cache-Control: max-age=60, no-store, must-understand")},
			scenario{name: fmt.Sprintf("%d without no-store", status), steps: notReused(status, "Cache-Control: max-age=60, must-understand")},
		)
	}
	g.cases = append(
		g.cases,
		scenario{name: "200 without no-store", steps: reused(200, "Cache-Control: max-age=60, must-understand")},
		scenario{name: "in the order that comes naturally", steps: reused(200, "Cache-Control: must-understand, no-store, max-age=60")},
		scenario{name: "it does not override private", steps: notReused(200, "Cache-Control: max-age=60, private, no-store, must-understand")},
		scenario{name: "without a lifetime", in: safe, steps: notReused(200, "Cache-Control: no-store, must-understand")},
	)
	return g
}

func methodsStored() group {
	g := group{
		section: "RFC 9111 §3 methods",
		rule:    "what answers a method for which caching is not defined is not used for another request",
	}
	for _, method := range []string{"PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FOO", "get"} {
		g.cases = append(g.cases, scenario{name: method, steps: flow(
			ask(method).answer(200, minute),
			ask(method).answer(200, minute),
			get().answer(200, minute),
		)})
	}
	g.cases = append(g.cases, scenario{name: "PUT with a Content-Location", steps: flow(
		ask("PUT").answer(200, minute, "Content-Location: {path}"),
		get().answer(200, minute),
	)})
	return g
}
