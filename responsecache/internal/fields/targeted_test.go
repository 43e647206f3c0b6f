package fields_test

import (
	"testing"
	"time"

	"github.com/herdless/herdless/responsecache/internal/fields"
	"github.com/stretchr/testify/assert"
)

// RFC 9213 §2.1.
func TestTargetedFieldsThatAreIgnored(t *testing.T) {
	tests := []struct {
		name   string
		values []string
		ok     bool
	}{
		{"absent", nil, false},
		{"empty", []string{""}, false},
		{"white space", []string{"  "}, false},
		{"upper-case key", []string{"Max-Age=60"}, false},
		{"no value", []string{"max-age="}, false},
		{"space around the equals sign", []string{"max-age= 60"}, false},
		{"comma at the end", []string{"max-age=60,"}, false},
		{"garbage", []string{"max-age=60 private"}, false},
		{"no closing quote", []string{`private="a`}, false},
		{"single quotes", []string{"max-age='60'"}, false},
		{"too many digits", []string{"max-age=1000000000000000"}, false},
		{"one line is invalid", []string{"max-age=60", "&"}, false},
		{"directive", []string{"max-age=60"}, true},
		{"unknown directive only", []string{"none"}, true},
		{"false only", []string{"no-store=?0"}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, ok := fields.ParseTargeted(tt.values)
			assert.Equal(t, tt.ok, ok)
			if !ok {
				assert.Zero(t, d)
			}
		})
	}
}

// RFC 9213 §2.1.
func TestTargetedTypes(t *testing.T) {
	tests := []struct {
		name    string
		values  []string
		maxAge  int // -1: absent
		private bool
		fields  []string
	}{
		{"integer", []string{"max-age=60"}, 60, false, nil},
		{"greatest integer", []string{"max-age=999999999999999"}, 2147483647, false, nil},
		{"lines", []string{"max-age=60", "private"}, 60, true, nil},
		{"the last one counts", []string{"max-age=60, max-age=30"}, 30, false, nil},
		{"parameters are ignored", []string{`max-age=60;a=b, private="x";y`}, 60, true, []string{"X"}},
		{"negative", []string{"max-age=-60"}, 0, false, nil},
		{"decimal", []string{"max-age=60.0"}, 0, false, nil},
		{"string for a number", []string{`max-age="60"`}, 0, false, nil},
		{"token for a number", []string{"max-age=a60"}, 0, false, nil},
		{"inner list for a number", []string{"max-age=(60)"}, 0, false, nil},
		{"bytes for a number", []string{"max-age=:NjA=:"}, 0, false, nil},
		{"true for a number", []string{"max-age"}, 0, false, nil},
		{"false is absent", []string{"max-age=?0, private=?0"}, -1, false, nil},
		{"true", []string{"private=?1"}, -1, true, nil},
		{"string", []string{`private="set-cookie, a"`}, -1, true, []string{"A", "Set-Cookie"}},
		{"empty string", []string{`private=""`}, -1, true, nil},
		{"number for names", []string{"private=5"}, -1, true, nil},
		{"token for names", []string{"private=set-cookie"}, -1, true, nil},
		{"inner list for names", []string{`private=("a")`}, -1, true, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, ok := fields.ParseTargeted(tt.values)
			assert.True(t, ok)
			seconds, present := d.Seconds("max-age")
			assert.Equal(t, tt.maxAge >= 0, present)
			assert.Equal(t, time.Duration(max(0, tt.maxAge))*time.Second, seconds)
			assert.Equal(t, tt.private, d.Has("private"))
			assert.Equal(t, tt.fields, d.Fields("private"))
			assert.Equal(t, tt.fields != nil, d.Qualified("private"))
		})
	}
	d, _ := fields.ParseTargeted([]string{`public=1, must-understand="a", no-store=(1)`})
	assert.False(t, d.Has("public"), "it has no argument")
	assert.False(t, d.Has("must-understand"), "it has no argument")
	assert.True(t, d.Has("no-store"), "whatever its argument")
}
