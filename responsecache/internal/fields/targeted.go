package fields

import (
	"strconv"

	"github.com/dunglas/httpsfv"
)

// ParseTargeted reads the lines of a targeted field, such as CDN-Cache-Control,
// which is a Dictionary (RFC 9213 §2.1). If ok is false, the field is absent,
// empty or does not parse, and must be treated as if it were not there.
//
// A value of a type that a directive does not have is not made into one: a
// max-age of "60" or 60.0 is malformed, hence stale, and a private that is not a
// String concerns the whole response. Parameters are ignored.
func ParseTargeted(values []string) (d Directives, ok bool) {
	dict, err := httpsfv.UnmarshalDictionary(values)
	if err != nil || len(dict.Names()) == 0 {
		return Directives{}, false
	}
	for _, name := range dict.Names() {
		member, _ := dict.Get(name)
		item, _ := member.(httpsfv.Item) // an inner list leaves no value
		switch value := item.Value.(type) {
		case bool:
			if value {
				d.add(name, argument{}, true)
			}
		case int64:
			d.add(name, argument{text: strconv.FormatInt(value, 10), number: true}, false)
		case string:
			d.add(name, argument{text: value, list: true}, false)
		default:
			d.add(name, argument{}, false)
		}
	}
	return d, true
}
