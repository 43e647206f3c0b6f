package clientip

import (
	"net/netip"
	"strings"
)

// lastNode takes the last element off a list of Forwarded elements (RFC 7239,
// section 4), and returns the address in its parameter "for".
//
// It reads from the right: what a client has put to the left of what the proxies
// appended, such as a quote that is never closed, cannot reach into that.
func lastNode(list string) (addr netip.Addr, rest string, more, ok bool) {
	comma := lastUnquoted(list, ',')
	element := list[comma+1:]
	for {
		semicolon := lastUnquoted(element, ';')
		name, value, found := strings.Cut(element[semicolon+1:], "=")
		if found && strings.EqualFold(strings.Trim(name, " \t"), "for") {
			if ok {
				return addr, "", false, false // twice: which one?
			}
			if addr, ok = node(strings.Trim(value, " \t")); !ok {
				return addr, "", false, false
			}
		}
		if semicolon < 0 {
			return addr, list[:max(comma, 0)], comma >= 0, ok
		}
		element = element[:semicolon]
	}
}

// lastUnquoted returns where c stands last outside of quotes, or -1.
func lastUnquoted(s string, c byte) int {
	quoted := false
	for i := len(s) - 1; i >= 0; i-- {
		switch {
		case s[i] == '"' && !escaped(s[:i]):
			quoted = !quoted
		case s[i] == c && !quoted:
			return i
		}
	}
	return -1
}

// escaped reports whether what comes after s, in quotes, is escaped (RFC 9110, section 5.6.4): the
// host that a client asks for may have quotes. In what a proxy has appended there is no backslash
// before the quote that opens, so that what stands to the left of it has no say.
func escaped(s string) bool { return (len(s)-len(strings.TrimRight(s, `\`)))%2 > 0 }

// node returns the address of a node identifier (RFC 7239, section 6), if it is one
// with an address.
func node(value string) (netip.Addr, bool) {
	if strings.HasPrefix(value, `"`) {
		if len(value) < 2 || !strings.HasSuffix(value, `"`) {
			return netip.Addr{}, false
		}
		value = value[1 : len(value)-1]
	}
	addr, ok := parse(value) // nothing with a quote or a backslash is one
	// IPv6 stands in brackets there, or its last part could be a port.
	if ok && strings.Count(value, ":") > 1 && !strings.HasPrefix(value, "[") {
		return netip.Addr{}, false
	}
	return addr, ok
}
