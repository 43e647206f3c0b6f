package fields_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/herdless/herdless/responsecache/internal/fields"
	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"
)

// RFC 9111 §5.2, §4.2.1, §1.3.
func TestSeconds(t *testing.T) {
	tests := []struct {
		name   string
		values []string
		want   int
		absent bool
	}{
		{"absent", nil, 0, true},
		{"only another", []string{"public, x-max-age=5, max-agex=5"}, 0, true},
		{"token", []string{"max-age=60"}, 60, false},
		{"quoted-string", []string{`max-age="60"`}, 60, false},
		{"quoted-string with escapes", []string{`max-age="\6\0"`}, 60, false},
		{"any case", []string{"MAX-Age=60"}, 60, false},
		{"between others", []string{" ,, public ,\tmax-age=60 , foo"}, 60, false},
		{"leading zeros", []string{"max-age=0000000000000000000000060"}, 60, false},
		{"greatest", []string{"max-age=2147483647"}, math.MaxInt32, false},
		{"overflow", []string{"max-age=99999999999999999999999999"}, math.MaxInt32, false},
		{"two that agree", []string{`max-age=60, max-age="060"`}, 60, false},
		{"two that disagree", []string{"max-age=60, max-age=30"}, 0, false},
		{"two that disagree in lines", []string{"max-age=30", "max-age=60"}, 0, false},
		{"a malformed second", []string{"max-age=60, max-age"}, 0, false},
		{"a malformed first", []string{"max-age=x, max-age=60"}, 0, false},
		{"no argument", []string{"max-age"}, 0, false},
		{"empty argument", []string{"max-age="}, 0, false},
		{"empty string", []string{`max-age=""`}, 0, false},
		{"letter", []string{"max-age=6O"}, 0, false},
		{"minus", []string{"max-age=-60"}, 0, false},
		{"plus", []string{"max-age=+60"}, 0, false},
		{"decimal", []string{"max-age=60.0"}, 0, false},
		{"single quotes", []string{"max-age='60'"}, 0, false},
		{"space before the equals sign", []string{"max-age =60"}, 0, false},
		{"space after the equals sign", []string{"max-age= 60"}, 0, false},
		{"space before a string", []string{`max-age= "60"`}, 0, false},
		{"space in a string", []string{`max-age="60 "`}, 0, false},
		{"garbage", []string{"max-age=60 x"}, 0, false},
		{"garbage after a string", []string{`max-age="60"0`}, 0, false},
		{"semicolon", []string{"max-age=60; public"}, 0, false},
		{"not ASCII", []string{"max-age=٦٠"}, 0, false},
		{"in a string of another", []string{`foo="max-age=60, private", max-age=10`}, 10, false},
		{"after an escaped quote", []string{`foo="\", max-age=60, \\", max-age=10`}, 10, false},
		{"overflow against the greatest", []string{"max-age=2147483647, max-age=9999999999"}, math.MaxInt32, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := fields.ParseCacheControl(tt.values)
			got, ok := d.Seconds("Max-Age")
			assert.Equal(t, time.Duration(tt.want)*time.Second, got)
			assert.Equal(t, !tt.absent, ok)
			assert.Equal(t, !tt.absent, d.Has("max-age"))
		})
	}
}

// RFC 9111 §5.2: what has no certain meaning must not be stored.
func TestSuspiciousLines(t *testing.T) {
	tests := []struct {
		name, value string
		suspicious  bool
	}{
		{"fine", "public, max-age=60", false},
		{"unknown directives", `foo, bar=1, baz="q, w", x_y.z!`, false},
		{"empty members", ", ,,\t, public", false},
		{"malformed arguments", "max-age=x, s-maxage= 1, foo=a b", false},
		{"semicolon", "private; max-age=60", true},
		{"two words", "private max-age=60", true},
		{"no closing quote", `foo="max-age=60, private`, true},
		{"escaped closing quote", `foo="max-age=60\"`, true},
		{"ends in a backslash", `foo="max-age=60\`, true},
		{"no name", "=private", true},
		{"quoted name", `"private"`, true},
		{"quote in a token", `foo=a", max-age=60, bar=", baz="`, true},
		{"quote after a string", `foo="a"b", max-age=60`, true},
		{"control character", "pri\x00vate", true},
		{"not ASCII", "prıvate", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := fields.ParseCacheControl([]string{"must-understand", tt.value, "x"})
			assert.Equal(t, tt.suspicious, d.Has("no-store"))
			assert.Equal(t, !tt.suspicious, d.Has("must-understand"), "it would take no-store back")
			assert.True(t, d.Has("x"), "other lines are read")
		})
	}
}

// RFC 9111 §5.2.2.4, §5.2.2.7.
func TestQualifiedDirectives(t *testing.T) {
	tests := []struct {
		name, value string
		want        []string
		absent      bool
	}{
		{"absent", "public", nil, true},
		{"unqualified", "private", nil, false},
		{"one", `private="x-a"`, []string{"X-A"}, false},
		{"list", `private=" set-cookie,, B ,"`, []string{"B", "Set-Cookie"}, false},
		{"token", "private=set-cookie", []string{"Set-Cookie"}, false},
		{"twice", `private="b, a", private="c, A"`, []string{"A", "B", "C"}, false},
		{"once unqualified", `private="a", private`, nil, false},
		{"first unqualified", `private, private="a"`, nil, false},
		{"empty", `private=""`, nil, false},
		{"nothing in the list", `private=" , "`, nil, false},
		{"no argument", "private=", nil, false},
		{"not a name", `private="a b"`, nil, false},
		{"one is not a name", `private="a, b:c"`, nil, false},
		{"garbage", `private="a"b`, nil, false},
		{"white space", `private ="a"`, nil, false},
		{"no closing quote", `private="a`, nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := fields.ParseCacheControl([]string{tt.value})
			assert.Equal(t, tt.want, d.Fields("Private"))
			assert.Equal(t, tt.want != nil, d.Qualified("Private"))
			assert.Equal(t, !tt.absent, d.Has("private"))
		})
	}
}

// RFC 9111 §5.2: these have no argument, and would allow more.
func TestWideningDirectivesHaveNoArgument(t *testing.T) {
	d := fields.ParseCacheControl([]string{`public=1, must-understand="", no-store=1`})
	assert.False(t, d.Has("public"))
	assert.False(t, d.Has("must-understand"))
	assert.True(t, d.Has("no-store"))
	d = fields.ParseCacheControl([]string{"Public, Must-Understand"})
	assert.True(t, d.Has("public"))
	assert.True(t, d.Has("must-understand"))
}

func TestDirectivesOfTheZeroValue(t *testing.T) {
	var d fields.Directives
	assert.False(t, d.Has(""))
	assert.False(t, d.Qualified("private"))
	_, ok := d.Seconds("max-age")
	assert.False(t, ok)
}

// Whatever stands in a string of another directive has no effect.
func TestStringsHideDirectives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hidden := rapid.StringOf(rapid.SampledFrom([]rune(`a=,"\ 1`))).Draw(t, "hidden")
		quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace("max-age=5, private, " + hidden)
		seconds := rapid.IntRange(0, math.MaxInt32).Draw(t, "seconds")
		d := fields.ParseCacheControl([]string{fmt.Sprintf(`foo="%s", max-age=%d`, quoted, seconds)})
		got, ok := d.Seconds("max-age")
		assert.True(t, ok)
		assert.Equal(t, time.Duration(seconds)*time.Second, got)
		assert.False(t, d.Has("private"))
		assert.False(t, d.Has("no-store"))
	})
}
