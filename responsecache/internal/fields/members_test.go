package fields_test

import (
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/herdless/herdless/responsecache/internal/fields"
	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"
)

// RFC 9110 §5.6.1.
func TestMembers(t *testing.T) {
	assert.Nil(t, fields.Members(nil))
	assert.Nil(t, fields.Members([]string{"", " , \t,"}))
	assert.Equal(t, []string{"accept", "x-a", "*"}, fields.Members([]string{" Accept,,\tX-A\t", "*"}))
	assert.Equal(t, []string{"\u212a\xff"}, fields.Members([]string{"\u212a\xff"}), "only ASCII has a lower case here")
}

// RFC 9111 §4.1.
func TestSelecting(t *testing.T) {
	tests := []struct {
		name, field string
		values      []string
		want        string
	}{
		{"empty", "X", []string{""}, ""},
		{"as it is", "X", []string{"A;q=1"}, "A;q=1"},
		{"white space around members", "X", []string{" a b ,\tc\t"}, "a b,c"},
		{"lines", "X", []string{"a, b", "c"}, "a,b,c"},
		{"empty members", "X", []string{"a,,b"}, "a,,b"},
		{"order", "X", []string{"b, a"}, "b,a"},
		{"quoted", "X", []string{`a , "b , c"`, "d"}, `a , "b , c",d`},
		{"case", "Accept-Encoding", []string{"GZIP, Br"}, "br,gzip"},
		{"order of preference", "Accept-Encoding", []string{"deflate;q=0.1, gzip;q=0.9,*;q=0", "br"}, "br,gzip;q=0.9,deflate;q=0.1,*;q=0"},
		{"spellings of a weight", "Accept-Language", []string{"a;q=1, b ; Q=1.000, c;q=0.50, d;q=0.500, e;q=0.000, f;q=0., g;q=0.05"}, "a,b,c;q=0.5,d;q=0.5,g;q=0.05,e;q=0,f;q=0"},
		{"empty members of preferences", "Accept-Charset", []string{", utf-8,,", ""}, "utf-8"},
		{"no preferences", "Accept-Encoding", []string{","}, ""},
		{"media ranges", "Accept", []string{"*/*;q=0.8, Text/HTML, text/*"}, "text/*,text/html,*/*;q=0.8"},
		{"media ranges with parameters", "Accept", []string{"Text/HTML; Level=A ;q=0.7, text/html;level=1"}, "text/html;level=1,text/html;level=A;q=0.7"},
		{"media range without a slash", "Accept", []string{"B, a"}, "B,a"},
		{"parameter without a value", "Accept", []string{"b/b;x, a/a"}, "b/b;x,a/a"},
		{"parameter after the weight", "Accept", []string{"b/b;q=0.5;x=1, a/a"}, "b/b;q=0.5;x=1,a/a"},
		{"two weights", "Accept", []string{"b/b;q=0.5;q=0.6, a/a"}, "b/b;q=0.5;q=0.6,a/a"},
		{"weight above 1", "Accept-Encoding", []string{"b;q=1.001, a"}, "b;q=1.001,a"},
		{"weight too long", "Accept-Encoding", []string{"b;q=0.1234, a"}, "b;q=0.1234,a"},
		{"weight without a number", "Accept-Encoding", []string{"b;q=, a"}, "b;q=,a"},
		{"weight with white space", "Accept-Encoding", []string{"b;q =0.5, a"}, "b;q =0.5,a"},
		{"parameter of a coding", "Accept-Encoding", []string{"b;x=1, a"}, "b;x=1,a"},
		{"two words", "Accept-Encoding", []string{"b c, A"}, "b c,A"},
		{"quoted preferences", "Accept", []string{`b/b;x="1", a/a`}, `b/b;x="1", a/a`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, present := fields.Selecting(http.Header{tt.field: tt.values}, strings.ToLower(tt.field), true)
			assert.True(t, present)
			assert.Equal(t, tt.want, got)
		})
	}
	_, present := fields.Selecting(http.Header{}, "X", false)
	assert.False(t, present, "absent is not empty")
}

// Preferences are the same in any order, any spelling and any lines.
func TestPreferencesHaveOneForm(t *testing.T) {
	weights := [][]string{{"", ";q=1", "; Q=1.0"}, {";q=0.5", " ;q=0.50", ";\tq=0.500"}, {";q=0", ";q=0.00"}}
	rapid.Check(t, func(t *rapid.T) {
		var a, b []string
		for range rapid.IntRange(0, 6).Draw(t, "members") {
			name := rapid.SampledFrom([]string{"gzip", "br", "*"}).Draw(t, "name")
			spellings := rapid.SampledFrom(weights).Draw(t, "weight")
			a = append(a, name+rapid.SampledFrom(spellings).Draw(t, "a"))
			b = append(b, strings.ToUpper(name)+rapid.SampledFrom(spellings).Draw(t, "b"))
		}
		random := rand.New(rand.NewPCG(1, rapid.Uint64().Draw(t, "seed")))
		random.Shuffle(len(b), func(i, j int) { b[i], b[j] = b[j], b[i] })
		one, _ := fields.Selecting(http.Header{"Accept-Encoding": {strings.Join(a, ", ")}}, "Accept-Encoding", true)
		other, _ := fields.Selecting(http.Header{"Accept-Encoding": append(b, "")}, "Accept-Encoding", true)
		assert.Equal(t, one, other)
	})
}

func TestSelectingKeepsWhatMayMatter(t *testing.T) {
	for name, want := range map[string]string{
		"Accept":          "text/html;q=0.50,a/b",
		"Accept-Language": "DE;q=0.500,en;q=1",
		"Accept-Encoding": "gzip,br;q=0.5",
		"Accept-Charset":  "utf-8,ascii;q=0.5",
	} {
		h := http.Header{
			"Accept": {"text/html;q=0.50, a/b"}, "Accept-Language": {"DE;q=0.500, en;q=1"},
			"Accept-Encoding": {"br;q=0.50, gzip"}, "Accept-Charset": {"ascii;q=0.5, UTF-8"},
		}
		got, _ := fields.Selecting(h, name, false)
		assert.Equal(t, want, got, name)
	}
}

// Only of what is known to be a list white space and lines do not count. Empty members do,
// since a handler may look at the first one only.
func TestSelectingTakesNothingForAList(t *testing.T) {
	tests := []struct {
		name, field string
		values      []string
		want        string
	}{
		{"white space", "User-Agent", []string{"A (KHTML, like B)"}, "A (KHTML, like B)"},
		{"none", "User-Agent", []string{"A (KHTML,like B)"}, "A (KHTML,like B)"},
		{"lines", "X", []string{"a", "b"}, "a\nb"},
		{"one line", "X", []string{"a,b"}, "a,b"},
		{"a list", "Prefer", []string{"a , b"}, "a,b"},
		{"a list on lines", "Prefer", []string{"a , b", "c"}, "a,b,c"},
		{"an empty line before", "Accept-Language", []string{"", "de,en;q=0.5"}, ",de,en;q=0.5"},
		{"an empty member before", "Accept-Language", []string{",de,en;q=0.5"}, ",de,en;q=0.5"},
		{"an empty member behind", "Accept", []string{"text/html;q=0.50 , "}, "text/html;q=0.50 , "},
		{"nothing", "Accept", []string{""}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, present := fields.Selecting(http.Header{tt.field: tt.values}, tt.field, false)
			assert.True(t, present)
			assert.Equal(t, tt.want, got)
		})
	}
}
