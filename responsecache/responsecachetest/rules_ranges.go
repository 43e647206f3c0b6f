package responsecachetest

import (
	"io"
	"mime"
	"mime/multipart"
	"strings"
	"testing"
)

const digits = "0123456789"

// ranges is about parts of stored responses (RFC 9110 §14).
func ranges() []group {
	stored := []string{"Cache-Control: max-age=60, public", `ETag: "a"`, "Vary: Accept", "Expires: " + httpDate(3600), "Content-Location: /elsewhere", "Content-Type: text/x-own"}
	part := func(name, asked, want, contentRange string) scenario {
		return scenario{name: name, steps: flow(
			get().answer(200, stored...).with(digits),
			get("Range: "+asked).hit(1).code(206).text(want).says("hit").
				lines("Content-Range: bytes "+contentRange+"/10", "Content-Type: text/x-own").checked(hasItsLength),
			get().hit(1),
		)}
	}
	unsatisfiable := func(name, asked string) scenario {
		return scenario{name: name, steps: flow(
			get().answer(200, stored...).with(digits),
			get("Range: "+asked).hit(1).code(416).anyText().lines("Content-Range: bytes */10").checked(isNotTheBody),
			get().hit(1),
		)}
	}
	whole := func(name string, request ...string) scenario {
		return scenario{name: name, steps: flow(
			get().answer(200, stored...).with(digits),
			get(request...).hit(1).lines("!Content-Range"),
		)}
	}
	multi := func(name, asked string, parts ...string) scenario {
		return scenario{name: name, steps: flow(
			get().answer(200, stored...).with(digits),
			get("Range: "+asked).hit(1).code(206).anyText().lines("!Content-Range").checked(hasParts(parts)).checked(hasItsLength),
		)}
	}
	long := text(600_000)
	return []group{
		{
			section: "RFC 9110 §14.1.2 ranges",
			rule:    "a range of a stored response is answered by a 206 with that part, its Content-Range, and the fields that the 200 would have",
			cases: []scenario{
				part("first", "bytes=0-3", "0123", "0-3"),
				part("middle", "bytes=4-6", "456", "4-6"),
				part("last", "bytes=7-9", "789", "7-9"),
				part("one byte", "bytes=0-0", "0", "0-0"),
				part("the last byte", "bytes=9-9", "9", "9-9"),
				part("all", "bytes=0-9", digits, "0-9"),
				part("suffix", "bytes=-3", "789", "7-9"),
				part("suffix that is longer", "bytes=-100", digits, "0-9"),
				part("open", "bytes=7-", "789", "7-9"),
				part("open from the beginning", "bytes=0-", digits, "0-9"),
				part("beyond the end", "bytes=5-100", "56789", "5-9"),
				part("beyond every number", "bytes=8-99999999999999999999", "89", "8-9"),
				part("suffix of every number", "bytes=-99999999999999999999", digits, "0-9"),
				part("name of the unit in another case", "Bytes=0-3", "0123", "0-3"),
				{name: "of a long body", steps: flow(
					get().answer(200, stored...).with(long),
					get("Range: bytes=299999-400000").hit(1).code(206).text(long[299_999:400_001]).lines("Content-Range: bytes 299999-400000/600000"),
					get("Range: bytes=-5").hit(1).code(206).text(long[599_995:]),
				)},
				{name: "of a variant", steps: flow(
					get("X-V: 1").answer(200, minute, "Vary: X-V").with(digits),
					get("X-V: 2", "Range: bytes=0-3").answer(200, minute, "Vary: X-V").with("abcdefghij").anyStatus().anyText(),
					get("X-V: 1", "Range: bytes=0-3").hit(1).code(206).text("0123"),
				)},
			},
		},
		{
			section: "RFC 9110 §15.5.17 unsatisfiable ranges",
			rule:    "a range that begins behind the end is answered by a 416 that says how long the response is",
			cases: []scenario{
				unsatisfiable("at the end", "bytes=10-"),
				unsatisfiable("behind it", "bytes=100-200"),
				unsatisfiable("suffix of none", "bytes=-0"),
				unsatisfiable("beyond every number", "bytes=99999999999999999999-"),
				unsatisfiable("several", "bytes=10-, 20-30"),
			},
		},
		{
			section: "RFC 9110 §14.2 ranges to be ignored",
			rule:    "a Range that is invalid, or in another unit, or for a response that is no 200 is ignored",
			cases: []scenario{
				whole("last before first", "Range: bytes=5-2"),
				whole("no number", "Range: bytes=a-b"),
				whole("no equals sign", "Range: bytes 0-3"),
				whole("nothing", "Range: bytes="),
				whole("hyphen", "Range: bytes=-"),
				whole("another unit", "Range: items=0-3"),
				whole("one of two is invalid", "Range: bytes=0-1,x"),
				whole("negative", "Range: bytes=0--3"),
				{name: "404", steps: flow(get().answer(404, minute).with(digits), get("Range: bytes=0-3").hit(1).lines("!Content-Range"))},
				{name: "301", steps: flow(get().answer(301, minute, "Location: /x").with(digits), get("Range: bytes=0-3").hit(1).lines("!Content-Range"))},
			},
		},
		{
			section: "RFC 9110 §15.3.7.2 several ranges",
			rule:    "several ranges are answered by multipart/byteranges, each with its Content-Range",
			cases: []scenario{
				multi("two", "bytes=0-1,4-5", "0-1 01", "4-5 45"),
				multi("white space", "bytes=0-1 ,  4-5", "0-1 01", "4-5 45"),
				multi("suffix", "bytes=0-0,-1", "0-0 0", "9-9 9"),
				multi("in the order asked for", "bytes=6-7,1-2", "6-7 67", "1-2 12"),
				{name: "one can be satisfied", steps: flow(
					get().answer(200, stored...).with(digits),
					get("Range: bytes=0-3,20-30").hit(1).code(206).anyText().checked(contains("0123")),
				)},
			},
		},
		{
			section: "RFC 9111 §3.3 a range first",
			rule:    "a request for a part never leaves only a part for those who want the whole",
			cases: []scenario{
				{name: "the origin sends all", steps: flow(
					get("Range: bytes=0-3").answer(200, stored...).with(digits).anyStatus().anyText(),
					get().may(steps(1), 200, stored...).with(digits),
					get("Range: bytes=0-3").hit(1, 2).code(206).text("0123"),
				)},
				{name: "the origin sends a part", steps: flow(
					get("Range: bytes=0-3").answer(206, minute, "Content-Range: bytes 0-3/10").with("0123"),
					get().answer(200, minute).with(digits),
					get("Range: bytes=4-").hit(2).code(206).text("456789"),
				)},
				{name: "it cannot be satisfied", steps: flow(
					get("Range: bytes=100-").answer(200, stored...).with(digits).anyStatus().anyText(),
					get().may(steps(1), 200, stored...).with(digits),
				)},
			},
		},
	}
}

// ifRange is about ranges under a condition (RFC 9110 §13.1.5).
func ifRange() []group {
	modified, now := httpDate(-10_000), httpDate(-5)
	stored := []string{minute, `ETag: "a"`, "Last-Modified: " + modified}
	yes := func(name string, request ...string) scenario {
		return scenario{name: name, steps: flow(
			get().answer(200, stored...).with(digits),
			get(append(request, "Range: bytes=0-3")...).hit(1).code(206).text("0123").lines("Content-Range: bytes 0-3/10"),
		)}
	}
	no := func(name string, request ...string) scenario {
		return scenario{name: name, steps: flow(
			get().answer(200, stored...).with(digits),
			get(append(request, "Range: bytes=0-3")...).hit(1).lines("!Content-Range"),
		)}
	}
	return []group{
		{
			section: "RFC 9110 §13.1.5 If-Range",
			rule:    "the Range is ignored unless If-Range is the ETag, in strong comparison, or exactly Last-Modified",
			cases: []scenario{
				yes("the ETag", `If-Range: "a"`),
				yes("the date", "If-Range: "+modified),
				no("another ETag", `If-Range: "b"`),
				no("weak", `If-Range: W/"a"`),
				no("any", "If-Range: *"),
				no("a list", `If-Range: "b", "a"`),
				no("an earlier date", "If-Range: "+httpDate(-20_000)),
				no("a later date", "If-Range: "+httpDate(-5000)),
				no("no date", "If-Range: yesterday"),
				{name: "weak stored", steps: flow(
					get().answer(200, minute, `ETag: W/"a"`).with(digits),
					get(`If-Range: W/"a"`, "Range: bytes=0-3").hit(1).lines("!Content-Range"),
				)},
				{name: "a date that is no strong validator", steps: flow(
					get().answer(200, minute, "Last-Modified: "+now, "Date: "+now).with(digits),
					get("If-Range: "+now, "Range: bytes=0-3").hit(1).lines("!Content-Range"),
				)},
				{name: "without Range", steps: flow(
					get().answer(200, stored...).with(digits),
					get(`If-Range: "b"`).hit(1),
				)},
			},
		},
		{
			section: "RFC 9110 §13.2.2 Range and conditions",
			rule:    "Range counts only if the other conditions would give a 200",
			cases: []scenario{
				yes("If-None-Match does not match", `If-None-Match: "b"`),
				yes("If-Modified-Since is earlier", "If-Modified-Since: "+httpDate(-20_000)),
				{name: "If-None-Match matches", steps: flow(
					get().answer(200, stored...).with(digits),
					get(`If-None-Match: "a"`, "Range: bytes=0-3").notModified(1).lines("!Content-Range"),
				)},
				{name: "If-Modified-Since matches", steps: flow(
					get().answer(200, stored...).with(digits),
					get("If-Modified-Since: "+modified, "Range: bytes=100-").notModified(1).lines("!Content-Range"),
				)},
			},
		},
	}
}

func hasItsLength(t *testing.T, r *response) {
	t.Helper()
	if length := r.header.Get("Content-Length"); length != "" && length != statusText(len(r.body)) {
		t.Errorf("Content-Length is %s, of a body of %d bytes", length, len(r.body))
	}
}

func isNotTheBody(t *testing.T, r *response) {
	t.Helper()
	if strings.Contains(r.body, digits) {
		t.Errorf("the body of the 416 is %q", r.body)
	}
}

func contains(part string) check {
	return func(t *testing.T, r *response) {
		t.Helper()
		if !strings.Contains(r.body, part) {
			t.Errorf("the body is %q, want %q in it", r.body, part)
		}
	}
}

// hasParts looks at the parts of multipart/byteranges, each written as its range,
// a blank and its body.
func hasParts(want []string) check {
	return func(t *testing.T, r *response) {
		t.Helper()
		media, params, err := mime.ParseMediaType(r.header.Get("Content-Type"))
		if err != nil || media != "multipart/byteranges" {
			t.Errorf("Content-Type is %q, want multipart/byteranges", r.header.Get("Content-Type"))
			return
		}
		parts := multipart.NewReader(strings.NewReader(r.body), params["boundary"])
		var got []string
		for {
			p, err := parts.NextPart()
			if err != nil {
				break
			}
			body, _ := io.ReadAll(p)
			at := strings.TrimSuffix(strings.TrimPrefix(p.Header.Get("Content-Range"), "bytes "), "/10")
			got = append(got, at+" "+string(body))
			if p.Header.Get("Content-Type") != "text/x-own" {
				t.Errorf("Content-Type of a part is %q", p.Header.Get("Content-Type"))
			}
		}
		if strings.Join(got, "; ") != strings.Join(want, "; ") {
			t.Errorf("the parts are %q, want %q", got, want)
		}
	}
}
