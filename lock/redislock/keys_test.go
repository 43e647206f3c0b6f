package redislock_test

import (
	"strings"
	"testing"

	"github.com/herdless/herdless/lock/redislock"
	"github.com/stretchr/testify/assert"
)

func TestTag(t *testing.T) {
	const digest = "sha256:"
	tests := []struct {
		name, lock string
		plain      bool
	}{
		{"an ordinary name", "nightly-report", true},
		{"any bytes but braces", "\x00 \r\n\xff鍵*?", true},
		{"the longest", strings.Repeat("n", 512), true},
		{"longer", strings.Repeat("n", 513), false},
		{"the empty name", "", false},
		{"braces", "a{b}c", false},
		{"an opening brace", "{", false},
		{"a closing brace", "}", false},
		{"what looks like a digest", redislock.Tag("{}"), false},
	}
	seen := map[string]string{}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := redislock.Tag(tt.lock)
			if tt.plain {
				assert.Equal(t, tt.lock, got)
			} else {
				assert.Regexp(t, "^"+digest+"[0-9a-f]{64}$", got)
			}
			assert.NotContains(t, seen, got)
			seen[got] = tt.lock
		})
	}
}

// Every key is prefix, tag in braces, suffix. The tag must be the same for all
// keys of a name, and not be that of another name.
func FuzzTag(f *testing.F) {
	for _, name := range []string{"", "n", "{", "}", "{}", "a}:fence", "sha256:", strings.Repeat("{n}", 200)} {
		f.Add(name, "n")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		tagA, tagB := redislock.Tag(a), redislock.Tag(b)
		if (a == b) != (tagA == tagB) {
			t.Errorf("the tags of %q and %q are %q and %q", a, b, tagA, tagB)
		}
		if tagA == "" || len(tagA) > 512 || strings.ContainsAny(tagA, "{}") {
			t.Errorf("%q is not a tag", tagA)
		}
	})
}
