// Package fields reads the HTTP fields that a cache decides by. All of it is
// pure: nothing looks at a clock, keeps state or fails on hostile input, and all
// functions are safe for concurrent use. What cannot be understood is read in
// the way that caches less.
package fields

import "strings"

// lower changes only ASCII letters. strings.ToLower would also make one byte of
// every invalid one, and "k" of the Kelvin sign: different values would be same.
func lower(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return r >= 'A' && r <= 'Z' }) {
		return s
	}
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// trim takes optional white space away (RFC 9110 §5.6.3).
func trim(s string) string { return strings.Trim(s, " \t") }

// isToken reports a token (RFC 9110 §5.6.2).
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r > '~' || r <= ' ' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

// isDigits reports one or more digits.
func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
