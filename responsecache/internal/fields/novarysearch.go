package fields

import (
	"cmp"
	"net/url"
	"slices"
	"strings"

	"github.com/dunglas/httpsfv"
)

// NoVarySearch is what a No-Vary-Search field says about the query of a URL
// (draft-ietf-httpbis-no-vary-search). The zero value says nothing: all of the
// query counts, byte for byte.
type NoVarySearch struct {
	anyOrder bool     // the order of parameters with different names does not count
	except   bool     // only names count; otherwise, all but names
	names    []string // decoded, sorted, each once
}

// ParseNoVarySearch reads the lines of a No-Vary-Search field. If ok is false,
// the field is absent or invalid or says nothing, and n is the zero value.
//
// The draft once had params=?1, with or without except, for what is only except
// now. Both are understood: what a server means by them is the same.
func ParseNoVarySearch(values []string) (n NoVarySearch, ok bool) {
	dict, err := httpsfv.UnmarshalDictionary(values)
	if err != nil {
		return NoVarySearch{}, false
	}
	if member, found := dict.Get("key-order"); found {
		if n.anyOrder, ok = boolean(member); !ok {
			return NoVarySearch{}, false
		}
	}
	params, hasParams := dict.Get("params")
	except, hasExcept := dict.Get("except")
	all, isBool := boolean(params)
	switch {
	case hasExcept && (!hasParams || isBool && all):
		n.except = true
		n.names, ok = parseKeys(except)
	case hasExcept:
		ok = false
	case isBool:
		n.except, ok = all, true
	case hasParams:
		n.names, ok = parseKeys(params)
	default:
		ok = true
	}
	if !ok || n.isDefault() {
		return NoVarySearch{}, false
	}
	return n, true
}

func boolean(member httpsfv.Member) (value, ok bool) {
	item, _ := member.(httpsfv.Item)
	value, ok = item.Value.(bool)
	return value, ok
}

// parseKeys reads an inner list of strings, each in the encoding of a query
// (§5.3 of the draft).
func parseKeys(member httpsfv.Member) ([]string, bool) {
	list, ok := member.(httpsfv.InnerList)
	if !ok {
		return nil, false
	}
	var names []string
	for _, item := range list.Items {
		s, ok := item.Value.(string)
		if !ok {
			return nil, false
		}
		names = append(names, decodeForm(s))
	}
	slices.Sort(names)
	return slices.Compact(names), true
}

func (n NoVarySearch) isDefault() bool { return !n.anyOrder && !n.except && len(n.names) == 0 }

// String returns the rule as a field value that [ParseNoVarySearch] reads. Two
// rules that say the same have the same one; that of the zero value is empty.
func (n NoVarySearch) String() string {
	var members []string
	if n.anyOrder {
		members = append(members, "key-order")
	}
	var quoted []string
	for _, name := range n.names {
		quoted = append(quoted, `"`+url.QueryEscape(name)+`"`)
	}
	switch list := "=(" + strings.Join(quoted, " ") + ")"; {
	case n.except:
		members = append(members, "except"+list)
	case len(n.names) > 0:
		members = append(members, "params"+list)
	}
	return strings.Join(members, ", ")
}

// Canonical returns what of a query counts, in one form: two queries have the
// same if and only if they are equivalent (§6 of the draft). It is a query
// itself. Forms of different rules have nothing to do with one another.
func (n NoVarySearch) Canonical(rawQuery string) string {
	if n.isDefault() {
		return rawQuery
	}
	type pair struct{ key, value string }
	var pairs []pair
	for part := range strings.SplitSeq(rawQuery, "&") {
		if part == "" {
			continue
		}
		key, value, _ := strings.Cut(part, "=")
		key = decodeForm(key)
		if _, named := slices.BinarySearch(n.names, key); named == n.except {
			pairs = append(pairs, pair{key, decodeForm(value)})
		}
	}
	if n.anyOrder {
		// The draft sorts by UTF-16 code units. Any order of the keys will do:
		// values of the same key stay in the order that they have.
		slices.SortStableFunc(pairs, func(a, b pair) int { return cmp.Compare(a.key, b.key) })
	}
	var b strings.Builder
	for i, p := range pairs {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(url.QueryEscape(p.key) + "=" + url.QueryEscape(p.value))
	}
	return b.String()
}
