package fields

import (
	"math"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Directives are the cache directives of a message (RFC 9111 §5.2), with every
// occurrence of each. The zero value has none. Names are not case-sensitive.
type Directives struct {
	byName map[string][]argument // by lower-case name
}

// argument is what an occurrence of a directive has for a value. What has none,
// or a malformed one, can be read as nothing.
type argument struct {
	text   string // unquoted
	number bool   // text may be read as delta-seconds
	list   bool   // text may be read as field names
}

// ParseCacheControl reads the lines of a Cache-Control field.
//
// A line that cannot be divided into directives for certain may have said
// anything, so the result then has no-store, and no must-understand, which would
// take that back (RFC 9111 §5.2.2.3).
func ParseCacheControl(values []string) Directives {
	var d Directives
	suspicious := false
	for _, line := range values {
		for line != "" {
			var name string
			var arg argument
			var bare, ok bool
			name, arg, bare, line, ok = nextDirective(line)
			if isToken(name) {
				d.add(name, arg, bare)
			}
			suspicious = suspicious || !ok
		}
	}
	if suspicious {
		d.add("no-store", argument{}, true)
		delete(d.byName, "must-understand")
	}
	return d
}

// nextDirective splits the first directive off a line. It is bare if it has no
// argument at all. If ok is false, nobody can tell what the line means.
func nextDirective(line string) (name string, arg argument, bare bool, rest string, ok bool) {
	end := strings.IndexAny(line, ",=")
	if end < 0 || line[end] == ',' {
		name, rest, _ = strings.Cut(line, ",")
		name = trim(name)
		return lower(name), argument{}, true, rest, name == "" || isToken(name)
	}
	name = trim(line[:end])
	ok = isToken(name) // not, for one, in "private; max-age=60"
	spaced := end > 0 && (line[end-1] == ' ' || line[end-1] == '\t')
	value := line[end+1:]
	var text string
	if strings.HasPrefix(value, `"`) {
		var closed bool
		if text, value, closed = unquote(value); !closed {
			// What comes next may be a directive or a part of the string.
			return lower(name), argument{}, false, "", false
		}
		var garbage string
		garbage, rest, _ = strings.Cut(value, ",")
		spaced = spaced || trim(garbage) != ""
		ok = ok && !strings.Contains(garbage, `"`)
	} else {
		text, rest, _ = strings.Cut(value, ",")
		text = strings.TrimRight(text, " \t")
		spaced = spaced || strings.ContainsAny(text, " \t")
		ok = ok && !strings.Contains(text, `"`) // where does the string begin?
	}
	// White space around the equals sign is not in the grammar.
	return lower(name), argument{text, !spaced, !spaced}, false, rest, ok
}

// unquote reads the quoted-string that s begins with (RFC 9110 §5.6.4).
func unquote(s string) (text, rest string, ok bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}

// add keeps an occurrence of a directive. The two that allow more than there
// would be without them must not have an argument (RFC 9111 §5.2), and do not
// count with one.
func (d *Directives) add(name string, arg argument, bare bool) {
	if !bare && (name == "public" || name == "must-understand") {
		return
	}
	if d.byName == nil {
		d.byName = map[string][]argument{}
	}
	d.byName[name] = append(d.byName[name], arg)
}

// Has reports whether the directive is there, with or without an argument.
func (d Directives) Has(name string) bool { return len(d.byName[lower(name)]) > 0 }

// Seconds returns the delta-seconds of a directive, and whether it is there. It
// is zero, which is stale, if it is malformed or two disagree (RFC 9111 §4.2.1),
// and at most 2³¹-1 seconds (RFC 9111 §1.3).
func (d Directives) Seconds(name string) (time.Duration, bool) {
	args := d.byName[lower(name)]
	var first time.Duration
	for i, arg := range args {
		n, ok := deltaSeconds(arg)
		if !ok || i > 0 && n != first {
			return 0, true
		}
		first = n
	}
	return first, len(args) > 0
}

func deltaSeconds(arg argument) (time.Duration, bool) {
	if !arg.number || !isDigits(arg.text) {
		return 0, false
	}
	n := int64(0)
	for i := range len(arg.text) {
		n = min(n*10+int64(arg.text[i]-'0'), math.MaxInt32)
	}
	return time.Duration(n) * time.Second, true
}

// Fields returns the field names that a qualified no-cache or private lists, in
// their canonical form, sorted (RFC 9111 §5.2.2.4, §5.2.2.7). It is nil if the
// directive is not there or not qualified.
func (d Directives) Fields(name string) []string {
	var names []string
	for _, arg := range d.byName[lower(name)] {
		before := len(names)
		for field := range strings.SplitSeq(arg.text, ",") {
			if field = trim(field); field == "" {
				continue
			}
			if !arg.list || !isToken(field) {
				return nil
			}
			names = append(names, http.CanonicalHeaderKey(field))
		}
		if len(names) == before {
			return nil // without names it concerns the whole response
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Qualified reports whether the directive is there and every occurrence of it
// lists at least one field name and nothing else. Otherwise it concerns the whole
// response.
func (d Directives) Qualified(name string) bool { return len(d.Fields(name)) > 0 }
