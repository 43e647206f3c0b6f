package fields

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
)

// Members returns the members of a list of names, such as Vary, in lower case
// and without the empty ones (RFC 9110 §5.6.1).
func Members(values []string) []string {
	var list []string
	for _, value := range values {
		for member := range strings.SplitSeq(value, ",") {
			if member = trim(member); member != "" {
				list = append(list, lower(member))
			}
		}
	}
	return list
}

// Selecting returns a request field in the form in which it is compared with
// that of another request (RFC 9111 §4.1). present is false if the request has no
// such field, which is not the same as an empty one.
//
// Of fields that are known to be lists the lines are one, as Combine makes them for the
// handler, and there is no white space around members. Of others each line counts as it is:
// "like Gecko)" after a comma is no member. With anyForm all are taken for lists, as RFC 9111
// allows it. Without, what a handler may tell apart is told apart, or a client could have it
// make the page that others get: one that looks at the first member finds nothing if that is
// empty, and one that looks for "de" does not find "DE".
//
// Accept-Charset and Accept-Encoding are put in order of preference, in one spelling, if all
// of the field can be read and nothing in it is quoted; with anyForm Accept and
// Accept-Language, too. Without, there are servers, gin's content negotiation for one, to
// which the sender's order matters.
func Selecting(h http.Header, name string, anyForm bool) (value string, present bool) {
	lines := h.Values(name)
	if len(lines) == 0 {
		return "", false
	}
	name = lower(name)
	if !anyForm && !slices.Contains(lists, name) {
		return strings.Join(lines, "\n"), true // which is in no line
	}
	value = strings.Join(lines, ",")
	if strings.Contains(value, `"`) {
		return value, true // commas may be inside of a string
	}
	members := strings.Split(value, ",")
	for i, member := range members {
		members[i] = trim(member)
	}
	if !anyForm && slices.Contains(members, "") {
		return value, true
	}
	switch name {
	case "accept", "accept-language":
		if !anyForm {
			break
		}
		fallthrough
	case "accept-charset", "accept-encoding":
		if preferences, ok := spelled(value, name); ok {
			return preferences, true
		}
	}
	return strings.Join(members, ","), true
}

// Combine puts the lines of fields that are known to be lists into one (RFC 9110 §5.3):
// requests that are the same for Selecting are so for a handler that looks at the first line.
func Combine(h http.Header) {
	for _, name := range lists {
		name = http.CanonicalHeaderKey(name)
		if lines := h[name]; len(lines) > 1 {
			h[name] = []string{strings.Join(lines, ", ")}
		}
	}
}

// lists are request fields whose members mean the same with and without white space
// around them, on one line or several.
var lists = []string{
	"accept", "accept-charset", "accept-encoding", "accept-language", "access-control-request-headers", "cache-control", "prefer", "te",
}

// spelled returns the members of a field of preferences in one spelling and in their order.
// What cannot be read here never comes out as what could have been.
func spelled(value, name string) (string, bool) {
	type preference struct {
		text   string
		weight int
	}
	var list []preference
	for member := range strings.SplitSeq(value, ",") {
		if member = trim(member); member == "" {
			continue
		}
		text, weight, ok := weighted(member)
		if !ok || !isRange(text, name == "accept") {
			return "", false
		}
		list = append(list, preference{text, weight})
	}
	slices.SortStableFunc(list, func(a, b preference) int {
		return cmp.Or(cmp.Compare(b.weight, a.weight), cmp.Compare(a.text, b.text))
	})
	var b strings.Builder
	for i, p := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(p.text + formatWeight(p.weight))
	}
	return b.String(), true
}

// isRange reports what may stand before a weight, without white space: a token,
// or for Accept a media range, which may have parameters (RFC 9110 §12.5.1).
func isRange(text string, media bool) bool {
	if !media {
		return isToken(text)
	}
	typ, params, hasParams := strings.Cut(text, ";")
	main, sub, _ := strings.Cut(typ, "/")
	if !isToken(main) || !isToken(sub) {
		return false
	}
	for hasParams {
		var param string
		param, params, hasParams = strings.Cut(params, ";")
		name, value, _ := strings.Cut(param, "=")
		if !isToken(name) || !isToken(value) {
			return false
		}
	}
	return true
}
