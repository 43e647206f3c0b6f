package fields

import (
	"strings"
	"unicode/utf8"
)

// decodeForm decodes a name or a value of application/x-www-form-urlencoded as
// the URL standard does: a percent sign that encodes nothing stays, and what is
// not UTF-8 becomes U+FFFD. [net/url.QueryUnescape] fails on the former and
// leaves the latter.
func decodeForm(s string) string {
	if strings.ContainsAny(s, "%+") {
		b := make([]byte, 0, len(s))
		for i := 0; i < len(s); i++ {
			c := s[i]
			switch {
			case c == '+':
				c = ' '
			case c == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
				c = unhex(s[i+1])<<4 | unhex(s[i+2])
				i += 2
			}
			b = append(b, c)
		}
		s = string(b)
	}
	if utf8.ValidString(s) {
		return s
	}
	return replaceInvalid(s)
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}

// replaceInvalid puts one U+FFFD in the place of the longest beginning of a
// character, as the Encoding standard does. Go's conversions put one for each
// byte, and [strings.ToValidUTF8] one for all of them.
func replaceInvalid(s string) string {
	var b strings.Builder
	for s != "" {
		r, size := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && size == 1 {
			size = invalidPrefix(s)
		}
		b.WriteRune(r)
		s = s[size:]
	}
	return b.String()
}

// invalidPrefix returns how many bytes of s, which does not begin with a
// character, begin one, and 1 if none do. It is the table 3-7 of Unicode.
func invalidPrefix(s string) int {
	low, high, more := byte(0x80), byte(0xBF), 0
	switch c := s[0]; {
	case c >= 0xC2 && c <= 0xDF:
		more = 1
	case c >= 0xE0 && c <= 0xEF:
		more = 2
	case c >= 0xF0 && c <= 0xF4:
		more = 3
	}
	switch s[0] { // no overlong forms, no surrogates, nothing above U+10FFFF
	case 0xE0:
		low = 0xA0
	case 0xED:
		high = 0x9F
	case 0xF0:
		low = 0x90
	case 0xF4:
		high = 0x8F
	}
	n := 1
	for n <= more && n < len(s) && s[n] >= low && s[n] <= high {
		low, high = 0x80, 0xBF
		n++
	}
	return n
}
