package fields_test

import (
	"math"
	"strings"
	"testing"

	"github.com/herdless/herdless/responsecache/internal/fields"
	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"
)

// RFC 9110 §14.1.1, §14.1.2, §14.2.
func TestParseRange(t *testing.T) {
	type ranges = []fields.Range
	const ignored, unsatisfiable, satisfiable = 0, 1, 2
	huge := strings.Repeat("9", 30)
	tests := []struct {
		name, value string
		size        int64
		outcome     int
		want        ranges
	}{
		{"first bytes", "bytes=0-499", 10000, satisfiable, ranges{{0, 500}}},
		{"second bytes", "bytes=500-999", 10000, satisfiable, ranges{{500, 500}}},
		{"suffix", "bytes=-500", 10000, satisfiable, ranges{{9500, 500}}},
		{"open", "bytes=9500-", 10000, satisfiable, ranges{{9500, 500}}},
		{"list", "bytes= 0-999, 4500-5499 ,\t-1000", 10000, satisfiable, ranges{{0, 1000}, {4500, 1000}, {9000, 1000}}},
		{"empty members", "bytes=,0-0,,-1,", 10000, satisfiable, ranges{{0, 1}, {9999, 1}}},
		{"adjacent", "bytes=500-600,601-999", 10000, satisfiable, ranges{{500, 101}, {601, 399}}},
		{"overlapping", "bytes=500-700,601-999", 10000, satisfiable, ranges{{500, 201}, {601, 399}}},
		{"as asked for, not sorted", "bytes=5-5,0-0", 10, satisfiable, ranges{{5, 1}, {0, 1}}},
		{"any case", "BYTES=0-0", 10, satisfiable, ranges{{0, 1}}},
		{"leading zeros", "bytes=" + strings.Repeat("0", 30) + "1-0002", 10, satisfiable, ranges{{1, 2}}},
		{"last beyond the end", "bytes=5-99", 10, satisfiable, ranges{{5, 5}}},
		{"last overflows", "bytes=5-" + huge, 10, satisfiable, ranges{{5, 5}}},
		{"suffix longer than all", "bytes=-99", 10, satisfiable, ranges{{0, 10}}},
		{"suffix overflows", "bytes=-" + huge, 10, satisfiable, ranges{{0, 10}}},
		{"greatest size", "bytes=9223372036854775806-", math.MaxInt64, satisfiable, ranges{{math.MaxInt64 - 1, 1}}},
		{"all", "bytes=0-", 10, satisfiable, ranges{{0, 10}}},
		{"last byte", "bytes=9-9", 10, satisfiable, ranges{{9, 1}}},
		{"one of two", "bytes=20-30, 0-0", 10, satisfiable, ranges{{0, 1}}},
		{"beyond the end", "bytes=10-", 10, unsatisfiable, nil},
		{"first overflows", "bytes=" + huge + "-", 10, unsatisfiable, nil},
		{"both overflow", "bytes=" + huge + "-" + huge, 10, unsatisfiable, nil},
		{"empty suffix", "bytes=-0", 10, unsatisfiable, nil},
		{"nothing of two", "bytes=-0, 10-12", 10, unsatisfiable, nil},
		{"wrong order", "bytes=5-4", 10, ignored, nil},
		{"wrong order beyond the end", "bytes=1" + huge + "-" + huge, 10, ignored, nil},
		{"one in wrong order", "bytes=0-0, 5-4", 10, ignored, nil},
		{"another unit", "lines=0-4", 10, ignored, nil},
		{"no unit", "0-4", 10, ignored, nil},
		{"space after the unit", "bytes =0-4", 10, ignored, nil},
		{"empty", "", 10, ignored, nil},
		{"no ranges", "bytes=", 10, ignored, nil},
		{"only commas", "bytes= , ,", 10, ignored, nil},
		{"only a dash", "bytes=-", 10, ignored, nil},
		{"number only", "bytes=5", 10, ignored, nil},
		{"two dashes", "bytes=--5", 10, ignored, nil},
		{"sign", "bytes=+1-5", 10, ignored, nil},
		{"white space in a range", "bytes=0 - 4", 10, ignored, nil},
		{"hexadecimal", "bytes=0x1-5", 10, ignored, nil},
		{"empty representation", "bytes=0-", 0, ignored, nil},
		{"empty representation, suffix", "bytes=-5", 0, ignored, nil},
		{"unknown size", "bytes=0-", -1, ignored, nil},
		{"16 ranges", "bytes=" + strings.Repeat("99-,", 15) + "0-0", 50, satisfiable, ranges{{0, 1}}},
		{"17 ranges", "bytes=" + strings.Repeat("99-,", 16) + "0-0", 50, ignored, nil},
		{"together all", "bytes=0-4, 5-", 10, satisfiable, ranges{{0, 5}, {5, 5}}},
		{"together more than all", "bytes=0-5, 5-", 10, ignored, nil},
		{"two overlaps", "bytes=0-1,1-2,2-3", 100, satisfiable, ranges{{0, 2}, {1, 2}, {2, 2}}},
		{"three overlaps", "bytes=0-1,1-2,2-3,3-4", 100, ignored, nil},
		{"the same over and over", "bytes=5-5,5-5,5-5,5-5", 100, ignored, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok, valid := fields.ParseRange(tt.value, tt.size)
			assert.Equal(t, tt.want, got)
			assert.Equal(t, tt.outcome == satisfiable, ok)
			assert.Equal(t, tt.outcome != ignored, valid)
		})
	}
}

func TestRangeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(1, math.MaxInt64).Draw(t, "size")
		start := rapid.Int64Range(0, size-1).Draw(t, "start")
		length := rapid.Int64Range(1, size-start).Draw(t, "length")
		got, _, ok := fields.ParseRange(formatRange(start, start+length-1), size)
		assert.True(t, ok)
		assert.Equal(t, []fields.Range{{Start: start, Length: length}}, got)
	})
}
