package report

import (
	"cmp"
	"math"
	"slices"
	"strconv"
)

// Median returns the middle value; of an even number the lower one of the two
// in the middle, and of none the zero value.
func Median[T cmp.Ordered](values []T) T { return Percentile(values, 50) }

// Percentile returns the smallest value that p percent of the values do not
// exceed; the zero value if there are none.
func Percentile[T cmp.Ordered](values []T, p int) T {
	if len(values) == 0 {
		var none T
		return none
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}

// Ratio returns the median of the ratios of values that belong to one round:
// how many times better a is than b. Rounds in which b, or a where less is
// better, is zero have no ratio; without any the result is 0.
func Ratio(a, b []float64, less bool) float64 {
	var ratios []float64
	for i := range min(len(a), len(b)) {
		x, y := a[i], b[i]
		if less {
			x, y = y, x
		}
		if y != 0 {
			ratios = append(ratios, x/y)
		}
	}
	return Median(ratios)
}

// Num prints a figure with as many digits as one reads: three.
func Num(f float64) string {
	switch a := math.Abs(f); {
	case a >= 999_500:
		return strconv.FormatFloat(f/1e6, 'f', digits(a/1e6), 64) + " M"
	case a >= 9_995:
		return strconv.FormatFloat(f/1e3, 'f', digits(a/1e3), 64) + " k"
	case f == math.Trunc(f):
		return strconv.FormatFloat(f, 'f', 0, 64)
	default:
		return strconv.FormatFloat(f, 'f', digits(a), 64)
	}
}

// digits returns how many decimals leave three digits in all.
func digits(a float64) int {
	switch {
	case a >= 99.95:
		return 0
	case a >= 9.995:
		return 1
	default:
		return 2
	}
}
