package fields

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

// maxRanges is how many ranges of one response are served at a time.
const maxRanges = 16

// Range is a part of a representation, in bytes.
type Range struct{ Start, Length int64 }

// ParseRange reads a Range field for a representation of size bytes (RFC 9110
// §14.1.2, §14.2). ranges are those that can be satisfied, in the order asked
// for. satisfiable is false if there is none: 416 is the answer.
//
// ok is false if the field must be ignored and the whole be served: it is
// invalid or in another unit, the representation is empty, or the ranges are of
// no use but to make work: more than 16, more than the whole together, or more
// than two that begin inside of another.
func ParseRange(value string, size int64) (ranges []Range, satisfiable, ok bool) {
	unit, set, ok := strings.Cut(value, "=")
	if !ok || lower(unit) != "bytes" || size <= 0 {
		return nil, false, false
	}
	count := 0
	for spec := range strings.SplitSeq(set, ",") {
		if spec = trim(spec); spec == "" {
			continue
		}
		r, ok := parseSpec(spec, size)
		if count++; !ok || count > maxRanges {
			return nil, false, false
		}
		if r.Length > 0 {
			ranges = append(ranges, r)
		}
	}
	if count == 0 || isWasteful(ranges, size) {
		return nil, false, false
	}
	return ranges, len(ranges) > 0, true
}

// parseSpec reads one range. It is empty if it cannot be satisfied.
func parseSpec(spec string, size int64) (r Range, ok bool) {
	first, last, ok := strings.Cut(spec, "-")
	switch {
	case !ok, first != "" && !isDigits(first), last != "" && !isDigits(last), first == "" && last == "":
		return Range{}, false
	case first == "":
		length := min(position(last), size)
		return Range{size - length, length}, true
	case last != "" && isLess(last, first):
		return Range{}, false
	}
	start, end := position(first), size-1
	if start >= size {
		return Range{}, true
	}
	if last != "" {
		end = min(position(last), end)
	}
	return Range{start, end - start + 1}, true
}

// position returns the number that digits are, or the largest one that there is:
// no representation is that long.
func position(digits string) int64 {
	n := int64(0)
	for i := range len(digits) {
		c := int64(digits[i] - '0')
		if n > (math.MaxInt64-c)/10 {
			return math.MaxInt64
		}
		n = n*10 + c
	}
	return n
}

// isLess compares digits as numbers of any length.
func isLess(a, b string) bool {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) < 0
}

// isWasteful reports ranges that cost more than the whole (RFC 9110 §17.15).
func isWasteful(ranges []Range, size int64) bool {
	sorted := slices.SortedFunc(slices.Values(ranges), func(a, b Range) int { return cmp.Compare(a.Start, b.Start) })
	left, end, overlaps := size, int64(0), 0
	for _, r := range sorted {
		if left -= r.Length; left < 0 {
			return true
		}
		if r.Start < end {
			overlaps++
		}
		end = max(end, r.Start+r.Length)
	}
	return overlaps > 2
}
