package fields

import (
	"slices"

	"github.com/dunglas/httpsfv"
)

// A field may have 32 groups of 32 characters at least (RFC 9875 §2). What is
// above these bounds is ignored.
const (
	maxGroups      = 128
	maxGroupLength = 256
)

// ParseGroups reads the lines of Cache-Groups or Cache-Group-Invalidation, which
// are Lists of Strings (RFC 9875 §2, §3), and returns each group once, in order.
// It is nil if any of the field is something else. Parameters are ignored.
func ParseGroups(values []string) []string {
	list, err := httpsfv.UnmarshalList(values)
	if err != nil {
		return nil
	}
	var groups []string
	for _, member := range list {
		item, _ := member.(httpsfv.Item) // an inner list leaves no value
		group, ok := item.Value.(string)
		if !ok {
			return nil
		}
		if len(groups) < maxGroups && len(group) <= maxGroupLength && !slices.Contains(groups, group) {
			groups = append(groups, group)
		}
	}
	return groups
}
