package responsecachetest

import (
	"bytes"
	"compress/gzip"
	"io"
	"time"

	"github.com/herdless/herdless/responsecache"
)

// compression is about routes whose responses are stored once, and served in
// several content codings (RFC 9110 §8.4).
func compression() []group {
	page := text(20_000)
	first := func(lines ...string) *step { return get(lines...).answer(200, `ETag: "a"`).with(page).anyText() }
	coded := func(coding string) *step { return get("Accept-Encoding: "+coding).hit(1).in(coding, page) }
	in := func(name, accept, coding string) scenario {
		return scenario{name: name, steps: flow(first().in("", page), get("Accept-Encoding: "+accept).hit(1).in(coding, page))}
	}
	return []group{
		{
			section: "Policy Compress",
			rule:    "one run of the handler, which is asked for no coding, serves every coding",
			policy:  compressed,
			cases: []scenario{
				{name: "all", steps: flow(
					first("Accept-Encoding: gzip").saw("!Accept-Encoding").in("any", page),
					coded("br"), coded("zstd"), coded("gzip"), coded("br"), coded("identity"),
					get().hit(1).in("", page).withLength(),
				)},
				{name: "the first is coded, too, or whole", steps: flow(
					first("Accept-Encoding: br").in("any", page),
					coded("br"),
				)},
				{name: "Vary", steps: flow(
					first().lines("Vary: Accept-Encoding"),
					get().hit(1).lines("Vary: Accept-Encoding"),
					coded("gzip").lines("Vary: Accept-Encoding"),
					coded("identity").lines("Vary: Accept-Encoding"),
				)},
				{name: "variants of the handler", steps: flow(
					get("X-V: 1").answer(200, "Vary: X-V").with(page).anyText(),
					get("X-V: 2", "Accept-Encoding: gzip").answer(200, "Vary: X-V").with(page+"2").anyText(),
					get("X-V: 1", "Accept-Encoding: gzip").hit(1).in("gzip", page),
					get("X-V: 2", "Accept-Encoding: zstd").hit(2).in("zstd", page+"2"),
				)},
				{name: "HEAD", steps: flow(
					first(),
					ask("HEAD", "Accept-Encoding: gzip").hit(1).lines("Vary: Accept-Encoding").checked(isEmpty),
					ask("HEAD").hit(1).lines("!Content-Encoding").withLength(),
				)},
			},
		},
		{
			section: "RFC 9110 §12.5.3 Accept-Encoding",
			rule:    "a response is in a coding that the client accepts, the one that it likes best",
			policy:  compressed,
			cases: []scenario{
				in("gzip", "gzip", "gzip"), in("br", "br", "br"), in("zstd", "zstd", "zstd"),
				in("in upper case", "GZIP", "gzip"), in("the old name", "x-gzip", "gzip"),
				in("weights", "gzip;q=1.0, br;q=0.5, zstd;q=0.1", "gzip"),
				in("weights the other way round", "gzip;q=0.1, br;q=0.5, zstd;q=1.0", "zstd"),
				in("not one", "gzip;q=0, br", "br"),
				in("none of them", "gzip;q=0, br;q=0, zstd;q=0", ""),
				in("none at all", "*;q=0, identity", ""),
				in("others", "deflate, compress", ""),
				in("identity", "identity", ""),
				in("identity preferred", "identity;q=1, gzip;q=0.5", ""),
				in("identity refused", "identity;q=0, gzip", "gzip"),
				in("any but one", "br;q=0, zstd;q=0, *", "gzip"),
				in("empty", "", ""),
				in("any", "*", "any"),
			},
		},
		{
			section: "RFC 9110 §8.8.3.3 ETag of a coding",
			rule:    "representations in different codings have different strong ETags, and each answers a condition by its own",
			policy:  compressed,
			cases: []scenario{
				{name: "all different", steps: flow(
					first(),
					coded("gzip").lines(`!ETag: "a"`),
					coded("br").lines(`!ETag: "a"`, "!ETag: {etag 2}"),
					coded("zstd").lines(`!ETag: "a"`, "!ETag: {etag 2}", "!ETag: {etag 3}"),
					get().hit(1).lines(`ETag: "a"`),
				)},
				{name: "gzip", steps: flow(
					first(),
					coded("gzip"),
					get("Accept-Encoding: gzip", "If-None-Match: {etag 2}").notModified(1).lines("Vary: Accept-Encoding", "ETag: {etag 2}"),
					get("Accept-Encoding: br", "If-None-Match: {etag 2}").hit(1).code(200).in("br", page),
				)},
				{name: "br", steps: flow(
					first(),
					coded("br"),
					get("Accept-Encoding: br", `If-None-Match: "x", {etag 2}`).notModified(1).lines("ETag: {etag 2}"),
				)},
				{name: "identity", steps: flow(first(), get(`If-None-Match: "a"`).notModified(1).lines("Vary: Accept-Encoding"))},
				{name: "another coding's", steps: flow(
					first(),
					get("Accept-Encoding: gzip", `If-None-Match: "a"`).hit(1).code(200).in("gzip", page),
				)},
			},
		},
		{
			section: "Policy Compress, what is left alone",
			rule:    "what has a coding already, must not be transformed, or gains nothing is left as it is",
			policy:  compressed,
			cases: []scenario{
				{name: "Content-Encoding", steps: flow(
					get("Accept-Encoding: gzip").answer(200, "Content-Encoding: gzip").with(gzipped(page)),
					get("Accept-Encoding: gzip").hit(1).lines("Content-Encoding: gzip"),
				)},
				{name: "another Content-Encoding", steps: flow(
					get("Accept-Encoding: gzip, x-own").answer(200, "Content-Encoding: x-own").with(page),
					get("Accept-Encoding: gzip, x-own").hit(1).lines("Content-Encoding: x-own"),
				)},
				{name: "no-transform", steps: flow(
					get("Accept-Encoding: gzip").answer(200, "Cache-Control: no-transform").with(page),
					get("Accept-Encoding: gzip").hit(1).lines("!Content-Encoding"),
				)},
				{name: "an image", steps: flow(
					get("Accept-Encoding: gzip").answer(200, "Content-Type: image/png").with(page),
					get("Accept-Encoding: gzip").hit(1).lines("!Content-Encoding"),
				)},
				{name: "nothing", steps: flow(get("Accept-Encoding: gzip").answer(204), get("Accept-Encoding: gzip").answer(204))},
				{name: "not stored", steps: flow(
					get("Accept-Encoding: gzip").answer(200, "Cache-Control: no-store").with(page).in("any", page),
					get("Accept-Encoding: gzip").answer(200, "Cache-Control: no-store").with(page).in("any", page),
				)},
			},
		},
		{
			section: "RFC 9110 §14.1.2 ranges of a coding",
			rule:    "a range is answered from the body without a coding",
			policy:  compressed,
			cases: []scenario{
				{name: "with gzip", steps: flow(
					first(),
					get("Accept-Encoding: gzip", "Range: bytes=0-99").hit(1).code(206).text(page[:100]).lines("!Content-Encoding", "Content-Range: bytes 0-99/20000"),
				)},
				{name: "after gzip", steps: flow(
					first(), coded("gzip"),
					get("Accept-Encoding: gzip", "Range: bytes=19990-").hit(1).code(206).text(page[19_990:]).lines("!Content-Encoding"),
				)},
			},
		},
	}
}

var compressed = &responsecache.Policy{TTL: time.Minute, Compress: true}

func gzipped(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, s)
	_ = w.Close()
	return b.String()
}
