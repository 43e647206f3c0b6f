package traffic

import (
	"math"
	"math/bits"
)

// sketchBits are the bits of a hash that choose a register.
const sketchBits = 14

// Sketch is a HyperLogLog (Flajolet et al., 2007) of 2^14 registers: a set of
// which only the size can be told, with a standard error of 0.81 % whatever it is
// merged from. Registers and their meaning are those of Redis. The zero value is
// empty.
type Sketch [1 << sketchBits]uint8

// Add adds an element by its hash, all of whose bits must be random.
func (s *Sketch) Add(hash uint64) {
	register := &s[hash&(1<<sketchBits-1)]
	// The bit on top bounds the count.
	run := uint8(bits.TrailingZeros64(hash>>sketchBits|1<<(64-sketchBits))) + 1
	*register = max(*register, run)
}

// Merge adds the elements of another one.
func (s *Sketch) Merge(o *Sketch) {
	for i, r := range o {
		s[i] = max(s[i], r)
	}
}

// Count estimates the number of elements, by the estimator of Ertl, "New
// cardinality estimation algorithms for HyperLogLog sketches" (2017), section 4.
func (s *Sketch) Count() uint64 {
	const top = 64 - sketchBits
	var histogram [top + 2]int
	for _, r := range s {
		histogram[min(r, top+1)]++
	}
	m := float64(len(s))
	z := m * tau((m-float64(histogram[top+1]))/m)
	for k := top; k >= 1; k-- {
		z = (z + float64(histogram[k])) / 2
	}
	z += m * sigma(float64(histogram[0])/m)
	return uint64(math.Round(m * m / (2 * math.Ln2 * z)))
}

// sigma is x + Σ x^(2^k) 2^(k-1).
func sigma(x float64) float64 {
	if x == 1 {
		return math.Inf(1)
	}
	y, z := 1.0, x
	for {
		before := z
		x *= x
		z += x * y
		y += y
		if z == before {
			return z
		}
	}
}

// tau is (1 - x - Σ (1 - x^(2^-k))² 2^-k) / 3.
func tau(x float64) float64 {
	if x == 0 || x == 1 {
		return 0
	}
	y, z := 1.0, 1-x
	for {
		before := z
		x = math.Sqrt(x)
		y /= 2
		z -= (1 - x) * (1 - x) * y
		if z == before {
			return z / 3
		}
	}
}
