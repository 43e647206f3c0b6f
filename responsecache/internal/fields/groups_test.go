package fields_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/herdless/herdless/responsecache/internal/fields"
	"github.com/stretchr/testify/assert"
)

// RFC 9875 §2, §3.
func TestParseGroups(t *testing.T) {
	long := strings.Repeat("a", 256)
	tests := []struct {
		name   string
		values []string
		want   []string
	}{
		{"absent", nil, nil},
		{"empty", []string{""}, nil},
		{"one", []string{`"scripts"`}, []string{"scripts"}},
		{"list", []string{`"eurovision-results", "australia"`}, []string{"eurovision-results", "australia"}},
		{"lines", []string{`"a"`, `"b"`}, []string{"a", "b"}},
		{"case", []string{`"a", "A"`}, []string{"a", "A"}},
		{"repetition", []string{`"a", "b", "a"`}, []string{"a", "b"}},
		{"escapes", []string{`"\"\\"`}, []string{`"\`}},
		{"parameters", []string{`"a";x=1;y`}, []string{"a"}},
		{"empty group", []string{`""`}, []string{""}},
		{"256 bytes", []string{`"` + long + `", "b"`}, []string{long, "b"}},
		{"257 bytes", []string{`"a` + long + `", "b"`}, []string{"b"}},
		{"token", []string{`"a", b`}, nil},
		{"number", []string{`"a", 1`}, nil},
		{"inner list", []string{`"a", ("b")`}, nil},
		{"display string", []string{`"a", %"b"`}, nil},
		{"comma at the end", []string{`"a",`}, nil},
		{"no closing quote", []string{`"a", "b`}, nil},
		{"not ASCII", []string{`"é"`}, nil},
		{"one line is invalid", []string{`"a"`, "b c"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, fields.ParseGroups(tt.values))
		})
	}
	var many []string
	for i := range 200 {
		many = append(many, fmt.Sprintf(`"%032d"`, i))
	}
	got := fields.ParseGroups(many)
	assert.Len(t, got, 128)
	assert.Equal(t, strings.Trim(many[127], `"`), got[127])
}
