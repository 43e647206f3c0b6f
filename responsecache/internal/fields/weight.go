package fields

import (
	"fmt"
	"strings"
)

// fullWeight is the weight 1, in thousandths: they are all that there can be.
const fullWeight = 1000

// weighted splits a member of a field of preferences into what is preferred and
// how much (RFC 9110 §12.4.2). The former comes in lower case and without white
// space around its semicolons, but for values of parameters, whose case may
// matter (RFC 9110 §5.6.6). The weight must come last.
func weighted(member string) (text string, weight int, ok bool) {
	parts := strings.Split(member, ";")
	weight = fullWeight
	for i, part := range parts {
		part = trim(part)
		name, value, _ := strings.Cut(part, "=")
		parts[i] = lower(part)
		switch {
		case i == 0:
		case lower(name) != "q":
			parts[i] = lower(name) + part[len(name):]
		case i < len(parts)-1:
			return "", 0, false
		default:
			if weight, ok = parseWeight(value); !ok {
				return "", 0, false
			}
			parts = parts[:i]
		}
	}
	return strings.Join(parts, ";"), weight, true
}

// parseWeight reads a qvalue, in thousandths.
func parseWeight(s string) (int, bool) {
	whole, fraction, _ := strings.Cut(s, ".")
	if whole != "0" && whole != "1" || len(fraction) > 3 || fraction != "" && !isDigits(fraction) {
		return 0, false
	}
	weight := 0
	for _, c := range []byte(whole + (fraction + "000")[:3]) {
		weight = weight*10 + int(c-'0')
	}
	return weight, weight <= fullWeight
}

// formatWeight returns the one spelling of a weight, of which 1 has none.
func formatWeight(weight int) string {
	switch weight {
	case fullWeight:
		return ""
	case 0:
		return ";q=0"
	}
	return ";q=0." + strings.TrimRight(fmt.Sprintf("%03d", weight), "0")
}
