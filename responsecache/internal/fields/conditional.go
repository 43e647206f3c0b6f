package fields

import (
	"net/http"
	"strings"
	"time"
)

// NotModified reports whether a request with conditions has what the response
// would give it: whether a 304 answers it (RFC 9110 §13.1.2, §13.1.3, RFC 9111
// §4.3.2). It does not look at the method or the status. now is for [ParseDate].
func NotModified(request, response http.Header, now time.Time) bool {
	if lines := request.Values("If-None-Match"); len(lines) > 0 {
		return anyETagMatches(strings.Join(lines, ","), only(response, "ETag"))
	}
	since, ok := ParseDate(only(request, "If-Modified-Since"), now)
	if !ok {
		return false
	}
	name := "Last-Modified"
	if len(response.Values(name)) == 0 {
		name = "Date"
	}
	modified, ok := ParseDate(only(response, name), now)
	return ok && !modified.After(since)
}

// IfRange reports whether a Range of the request may be honoured, as far as
// If-Range tells (RFC 9110 §13.1.5). now is for [ParseDate].
func IfRange(request, response http.Header, now time.Time) bool {
	if len(request.Values("If-Range")) == 0 {
		return true
	}
	validator := only(request, "If-Range")
	if opaque, weak, ok := splitETag(validator); ok {
		current, currentWeak, ok := splitETag(only(response, "ETag"))
		return ok && !weak && !currentWeak && opaque == current
	}
	wanted, ok := ParseDate(validator, now)
	if !ok {
		return false
	}
	modified, ok := ParseDate(only(response, "Last-Modified"), now)
	if !ok || !modified.Equal(wanted) {
		return false
	}
	// Within a second there may have been two modifications, so the date is a
	// strong validator only if that second was over (RFC 9110 §8.8.2.2).
	date, ok := ParseDate(only(response, "Date"), now)
	return ok && date.Sub(modified) >= time.Second
}

// only returns the value of a field that can have only one line, or nothing if
// it has more.
func only(h http.Header, name string) string {
	if values := h.Values(name); len(values) == 1 {
		return trim(values[0])
	}
	return ""
}

// anyETagMatches compares weakly (RFC 9110 §8.8.3.2). Tags without quotes, which
// some origins send and clients send back, must be the same byte for byte.
func anyETagMatches(list, etag string) bool {
	if trim(list) == "*" {
		return true // there is a response, so there is a representation
	}
	current, _, valid := splitETag(etag)
	for list != "" {
		var member string
		if member, list = nextETag(list); member == "" {
			continue
		}
		opaque, _, ok := splitETag(member)
		if member == etag || ok && valid && opaque == current {
			return true
		}
	}
	return false
}

// nextETag splits the first member off a list of entity tags. Commas inside of a
// quoted tag are part of it; unlike in a quoted-string, there are no escapes.
func nextETag(list string) (member, rest string) {
	list = strings.TrimLeft(list, " \t")
	end := 0
	if opaque := strings.TrimPrefix(list, "W/"); strings.HasPrefix(opaque, `"`) {
		start := len(list) - len(opaque) + 1
		end = start + strings.IndexByte(list[start:], '"') + 1 // start if not closed
	}
	if comma := strings.IndexByte(list[end:], ','); comma >= 0 {
		return trim(list[:end+comma]), list[end+comma+1:]
	}
	return trim(list), ""
}
