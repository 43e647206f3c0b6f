package fields_test

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/herdless/herdless/responsecache/internal/fields"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// draft-ietf-httpbis-no-vary-search §5.1, §5.2.
func TestParseNoVarySearch(t *testing.T) {
	tests := []struct{ name, field, want string }{
		{"params", `params=("a")`, `params=("a")`},
		{"except", `except=("x")`, `except=("x")`},
		{"except nothing", `except=()`, `except=()`},
		{"key-order", `key-order`, `key-order`},
		{"key-order=?1", `key-order=?1`, `key-order`},
		{"both", `except=("x"), key-order`, `key-order, except=("x")`},
		{"order and repetition", `params=("b" "a" "b")`, `params=("a" "b")`},
		{"spelling", `params=("%61+%20b")`, `params=("a++b")`},
		{"not ASCII", `params=("%C3%A9+%E6%B0%97")`, `params=("%C3%A9+%E6%B0%97")`},
		{"not UTF-8", `params=("%ff")`, `params=("%EF%BF%BD")`},
		{"quotes", `params=("\"%5C")`, `params=("%22%5C")`},
		{"unknown keys", `foo=1, params=("a")`, `params=("a")`},
		{"parameters of items", `params=("a";x);y`, `params=("a")`},
		{"the last one counts", `params=1, params=("a")`, `params=("a")`},
		{"of an earlier draft", `params`, `except=()`},
		{"of an earlier draft, with except", `params=?1, except=("x")`, `except=("x")`},
		{"absent", ``, ``},
		{"params=()", `params=()`, ``},
		{"key-order=?0", `key-order=?0`, ``},
		{"params=?0", `params=?0`, ``},
		{"not a boolean", `key-order="not a boolean"`, ``},
		{"one is invalid", `params=("a"), key-order=1`, ``},
		{"params is a string", `params="not an inner list"`, ``},
		{"params has a token", `params=(not-a-string)`, ``},
		{"params=?0 with except", `params=?0, except=("x")`, ``},
		{"params and except", `params=("a"), except=("x")`, ``},
		{"both empty", `params=(), except=()`, ``},
		{"except is a string", `except="not an inner list"`, ``},
		{"except has a token", `except=(not-a-string)`, ``},
		{"except is a boolean", `except=?1`, ``},
		{"not a dictionary", `params=("a"`, ``},
		{"upper case", `Params=("a")`, ``},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, ok := fields.ParseNoVarySearch([]string{tt.field})
			assert.Equal(t, tt.want != "", ok)
			assert.Equal(t, tt.want, n.String())
			again, ok := fields.ParseNoVarySearch([]string{n.String()})
			assert.Equal(t, tt.want != "", ok)
			assert.Equal(t, n, again)
		})
	}
	n, ok := fields.ParseNoVarySearch([]string{"key-order", `params=("a")`})
	assert.True(t, ok)
	assert.Equal(t, `key-order, params=("a")`, n.String(), "lines are one")
}

// draft-ietf-httpbis-no-vary-search §6.
func TestCanonicalQuery(t *testing.T) {
	tests := []struct{ name, rule, query, want string }{
		{"no rule", "", "b=%61&a&&", "b=%61&a&&"},
		{"ignored", `params=("utm" "x y")`, "a=1&utm=2&x+y=3&x%20y&%75tm&b=2", "a=1&b=2"},
		{"all ignored", `except=()`, "a=1&utm=2", ""},
		{"only one counts", `except=("id")`, "utm=2&id=1&Id=3&%69d=4", "id=1&id=4"},
		{"order", "key-order", "b=2&a=3&b=1&a=1", "a=3&a=1&b=2&b=1"},
		{"order counts otherwise", `params=("x")`, "b=2&a=3", "b=2&a=3"},
		{"null", "key-order", "", ""},
		{"percent-encoding", "key-order", "%61=%78", "a=x"},
		{"raw UTF-8", "key-order", "a=é", "a=%C3%A9"},
		{"not UTF-8", "key-order", "a=%f6", "a=%EF%BF%BD"},
		{"part of a character", "key-order", "a=%E2%82&b=%F0%9F%92x", "a=%EF%BF%BD&b=%EF%BF%BDx"},
		{"no part of a character", "key-order", "a=%E2%28%A1&b=%ED%A0%80&c=%C0%80", "a=%EF%BF%BD%28%EF%BF%BD&b=%EF%BF%BD%EF%BF%BD%EF%BF%BD&c=%EF%BF%BD%EF%BF%BD"},
		{"overlong and too high", "key-order", "a=%E0%80%80&b=%F0%80%80%80&c=%F4%90%80%80", "a=" + strings.Repeat("%EF%BF%BD", 3) + "&b=" + strings.Repeat("%EF%BF%BD", 4) + "&c=" + strings.Repeat("%EF%BF%BD", 4)},
		{"BOM stays", "key-order", "a=%EF%BB%BFx", "a=%EF%BB%BFx"},
		{"empty parts", "key-order", "a=x&&&&", "a=x"},
		{"no value", "key-order", "a", "a="},
		{"no name", "key-order", "=&=1", "=&=1"},
		{"space", "key-order", "a=%20&b=+", "a=+&b=+"},
		{"plus", "key-order", "a=%2B", "a=%2B"},
		{"equals sign in a value", "key-order", "a=b=c", "a=b%3Dc"},
		{"ampersand in a value", "key-order", "a=%26", "a=%26"},
		{"semicolon is no separator", "key-order", "a;b=1", "a%3Bb=1"},
		{"percent sign that encodes nothing", "key-order", "a=%&b=%4&c=%zz&d=%+1", "a=%25&b=%254&c=%25zz&d=%25+1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, ok := fields.ParseNoVarySearch([]string{tt.rule})
			require.Equal(t, tt.rule != "", ok)
			assert.Equal(t, tt.want, n.Canonical(tt.query))
		})
	}
}

type pair struct{ key, value string }

// spellings are ways to write what they are decoded to. None can become part of
// the one before it.
var spellings = map[string]string{
	"x": "x", "%78": "x", "y": "y", "": "", "+": " ", "%20": " ", "%26": "&", "%3D": "=", "%2B": "+", "%": "%", "%25": "%",
	"é": "é", "%C3%A9": "é", "%ff": "\uFFFD", "%EF%BF%BD": "\uFFFD", "\U0001F4A9": "\U0001F4A9", "%EF%BF%BC": "\uFFFC",
}

// Two queries have the same canonical form if and only if the draft says that
// they are equivalent, by the words of its §6.
func TestCanonicalFormsAreThoseOfEquivalence(t *testing.T) {
	written := make([]string, 0, len(spellings))
	for s := range spellings {
		written = append(written, s)
	}
	slices.Sort(written)
	piece := rapid.SampledFrom(written)
	rapid.Check(t, func(t *rapid.T) {
		rule := rapid.SampledFrom(rules).Draw(t, "rule")
		n, ok := fields.ParseNoVarySearch([]string{rule.field})
		require.True(t, ok)
		var forms []string
		var models [][]pair
		for range 12 {
			var parts []string
			var pairs []pair
			for range rapid.IntRange(0, 3).Draw(t, "parts") {
				key, value := piece.Draw(t, "key"), piece.Draw(t, "value")
				switch {
				case value != "" || rapid.Bool().Draw(t, "equals sign"):
					parts = append(parts, key+"="+value)
				case key == "":
					parts = append(parts, "")
					continue
				default:
					parts = append(parts, key)
				}
				pairs = append(pairs, pair{spellings[key], spellings[value]})
			}
			forms = append(forms, n.Canonical(strings.Join(parts, "&")))
			models = append(models, rule.whatCounts(pairs))
		}
		for i := range forms {
			for j := range forms {
				assert.Equal(t, slices.Equal(models[i], models[j]), forms[i] == forms[j], "%q and %q", forms[i], forms[j])
			}
		}
	})
}

type rule struct {
	field            string
	anyOrder, except bool
	names            []string
}

var rules = []rule{
	{`key-order`, true, false, nil},
	{`params=("x")`, false, false, []string{"x"}},
	{`key-order, params=("%C3%A9" "%ff")`, true, false, []string{"é", "\uFFFD"}},
	{`except=("x" "+")`, false, true, []string{"x", " "}},
	{`key-order, except=("x" "y" "")`, true, true, []string{"x", "y", ""}},
	{`except=()`, false, true, nil},
}

func (r rule) whatCounts(pairs []pair) []pair {
	pairs = slices.DeleteFunc(pairs, func(p pair) bool { return slices.Contains(r.names, p.key) != r.except })
	if r.anyOrder {
		slices.SortStableFunc(pairs, func(a, b pair) int {
			return slices.Compare(utf16.Encode([]rune(a.key)), utf16.Encode([]rune(b.key)))
		})
	}
	return pairs
}

func TestNoVarySearchRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.SliceOfN(rapid.StringMatching(`([ !#-\[\]-~]|%[0-9a-fA-F]{2})*`), 1, 4).Draw(t, "names")
		field := rapid.SampledFrom([]string{"", "key-order, "}).Draw(t, "order") +
			rapid.SampledFrom([]string{"params", "except"}).Draw(t, "kind") + `=("` + strings.Join(raw, `" "`) + `")`
		n, ok := fields.ParseNoVarySearch([]string{field})
		require.True(t, ok)
		again, ok := fields.ParseNoVarySearch([]string{n.String()})
		require.True(t, ok)
		assert.Equal(t, n, again)
	})
}
