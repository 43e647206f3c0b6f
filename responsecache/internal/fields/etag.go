package fields

import "strings"

// SuffixETag returns the entity tag of a representation after a content coding
// was applied to it, which makes it another one (RFC 9110 §8.8.3.3): "abc" with
// gzip is "abc-gzip". What is not a quoted tag is returned as it is.
func SuffixETag(etag, coding string) string {
	if _, _, ok := splitETag(etag); !ok || coding == "" {
		return etag
	}
	return etag[:len(etag)-1] + "-" + coding + `"`
}

// StripETagSuffix takes away what [SuffixETag] added. A tag without it is
// returned as it is.
func StripETagSuffix(etag, coding string) string {
	if _, _, ok := splitETag(etag); !ok || coding == "" {
		return etag
	}
	if before, found := strings.CutSuffix(etag, "-"+coding+`"`); found {
		return before + `"`
	}
	return etag
}

// splitETag returns the opaque-tag of an entity tag, with its quotes, and
// whether the tag is weak (RFC 9110 §8.8.3). White space in it is let pass: it
// was allowed once.
func splitETag(etag string) (opaque string, weak, ok bool) {
	opaque, weak = strings.CutPrefix(etag, "W/")
	if len(opaque) < 2 || opaque[0] != '"' {
		return "", false, false
	}
	return opaque, weak, strings.IndexByte(opaque[1:], '"') == len(opaque)-2
}
