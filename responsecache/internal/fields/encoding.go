package fields

import "strings"

const identity = "identity"

// Negotiate chooses a content coding by the lines of Accept-Encoding (RFC 9110
// §12.5.3): that of offered which the client likes best, and of two that it likes
// the same the earlier one; or "identity", which is not preferred to a coding
// unless the client says so. If ok is false, the client accepts nothing of it,
// and the coding is "identity" because a server may still send that.
func Negotiate(values, offered []string) (coding string, ok bool) {
	weights := codingWeights(values)
	others, hasOthers := weights["*"]
	coding, best := identity, 0
	for _, offer := range offered {
		weight, listed := weights[codingName(offer)]
		if !listed {
			weight = others
		}
		if weight > best && codingName(offer) != identity {
			coding, best = offer, weight
		}
	}
	weight, listed := weights[identity]
	switch {
	case best > 0 && (!listed || weight <= best):
		return coding, true
	case listed:
		return identity, weight > 0
	}
	return identity, !hasOthers || others > 0
}

// codingWeights returns what the client said of each coding. Of one that it
// names twice, the lower weight counts: it may be sent without it.
func codingWeights(values []string) map[string]int {
	weights := map[string]int{}
	for _, value := range values {
		for member := range strings.SplitSeq(value, ",") {
			text, weight, ok := weighted(trim(member))
			if !ok || !isToken(text) {
				continue
			}
			name := codingName(text)
			if old, known := weights[name]; !known || weight < old {
				weights[name] = weight
			}
		}
	}
	return weights
}

// codingName returns the one name of a coding (RFC 9110 §8.4.1).
func codingName(s string) string {
	switch s = lower(s); s {
	case "x-gzip":
		return "gzip"
	case "x-compress":
		return "compress"
	}
	return s
}
