package responsecache

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// directives are the directives of all Cache-Control fields of a message, by
// lower-case name, with their arguments as written but unquoted (RFC 9111 §5.2).
type directives map[string]string

// parseCacheControl reads all Cache-Control fields of h. Of a directive that is
// given twice, the first counts, except for durations: two that disagree make
// the response stale (RFC 9111 §4.2.1), and here that is the invalid "-".
func parseCacheControl(h http.Header) directives {
	d := directives{}
	for _, field := range h.Values("Cache-Control") {
		for field != "" {
			var name, arg string
			name, arg, field = nextDirective(field)
			if name == "" {
				continue
			}
			if strings.ContainsFunc(name, isNotTchar) {
				name, arg = "no-store", "" // such as "private; max-age=60": who knows
			}
			if old, ok := d[name]; ok && old != arg {
				arg = "-"
			}
			d[name] = arg
		}
	}
	return d
}

// nextDirective splits the first directive off a Cache-Control field. Commas
// and equals signs inside a quoted string are part of it.
func nextDirective(field string) (name, arg, rest string) {
	end := strings.IndexAny(field, ",=")
	switch {
	case end < 0:
		return token(field), "", ""
	case end == 0:
		return "", "", field[1:]
	}
	name = token(field[:end])
	if field[end] == ',' {
		return name, "", field[end+1:]
	}
	value := field[end+1:]
	if !strings.HasPrefix(value, `"`) {
		arg, rest, _ = strings.Cut(value, ",")
		if arg = strings.TrimRight(arg, " \t"); strings.ContainsAny(field[end-1:end]+arg, " \t") {
			arg = "-" // white space around the equals sign is not in the grammar
		}
		return name, arg, rest
	}
	var unquoted strings.Builder
	for i := 1; i < len(value); i++ {
		switch value[i] {
		case '\\':
			if i++; i < len(value) {
				unquoted.WriteByte(value[i])
			}
		case '"':
			_, rest, _ = strings.Cut(value[i+1:], ",")
			return name, unquoted.String(), rest
		default:
			unquoted.WriteByte(value[i])
		}
	}
	// No closing quote: what comes after it may be a directive or a part of the
	// string. Storing nothing is right in both cases.
	return "no-store", "", ""
}

func isNotTchar(r rune) bool {
	return r > '~' || r <= ' ' || strings.ContainsRune("\"(),/:;<=>?@[\\]{}", r)
}

func token(s string) string { return strings.ToLower(strings.TrimSpace(s)) }

func (d directives) has(name string) bool {
	_, ok := d[name]
	return ok
}

// seconds returns a delta-seconds argument, and whether the directive is there.
// A malformed one is zero: stale (RFC 9111 §4.2.1).
func (d directives) seconds(name string) (time.Duration, bool) {
	arg, ok := d[name]
	if !ok {
		return 0, false
	}
	for _, c := range []byte(arg) {
		if c < '0' || c > '9' {
			return 0, true
		}
	}
	n, err := strconv.ParseUint(arg, 10, 64)
	switch {
	case arg == "":
		return 0, true
	case err != nil || n > math.MaxInt32: // too large to count: RFC 9111 §1.2.2
		n = math.MaxInt32
	}
	return time.Duration(n) * time.Second, true
}
