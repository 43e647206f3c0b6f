package redistraffic

import (
	"encoding/binary"
	"math"
	"strings"

	"github.com/herdless/herdless/middleware/traffic"
)

// A row is nine counters of 64 bits and the histogram, with 40 bits for each bucket:
// as many as a thousand billion requests.
const (
	wide      = 9
	narrowLen = 5
	rowLen    = wide*8 + traffic.LatencyBuckets*narrowLen
	rowBits   = rowLen * 8
)

// wideCounters returns the counters of 64 bits in their order.
func wideCounters(c *traffic.Counters) [wide]*uint64 {
	return [wide]*uint64{
		&c.Status[0], &c.Status[1], &c.Status[2], &c.Status[3], &c.Status[4],
		&c.Bytes, &c.Micros, &c.CacheLookups, &c.CacheHits,
	}
}

// appendRow appends what slice.lua wants of a row: what is not zero.
func appendRow(args []any, row *traffic.Row) []any {
	args = append(args, string(row.Kind)+row.Name, 0)
	count := len(args) - 1
	n := 0
	for i, c := range wideCounters(&row.Counters) {
		if *c > 0 {
			args = append(args, i, min(*c, math.MaxInt64)) // BITFIELD takes no more
			n++
		}
	}
	for i, c := range row.Latency {
		if c > 0 {
			args = append(args, wide+i, c)
			n++
		}
	}
	args[count] = n
	return args
}

// decodeRows reads what slice.lua has written: nothing, if the names are those of
// another table.
func decodeRows(names, counters string) []traffic.Row {
	id, names, _ := strings.Cut(strings.TrimPrefix(names, "#"), "\n")
	counters, ours := strings.CutPrefix(counters, id)
	if !ours {
		return nil
	}
	var out []traffic.Row
	for name := range strings.Lines(names) {
		if counters == "" {
			break
		}
		var raw [rowLen]byte // what was never written may be missing at the end
		counters = counters[copy(raw[:], counters):]
		name = strings.TrimSuffix(name, "\n")
		if name == "" || raw == [rowLen]byte{} {
			continue
		}
		row := traffic.Row{Kind: traffic.Kind(name[0]), Name: name[1:]}
		for i, c := range wideCounters(&row.Counters) {
			*c = binary.BigEndian.Uint64(raw[i*8:])
		}
		for i := range row.Latency {
			b := raw[wide*8+i*narrowLen:]
			row.Latency[i] = uint64(b[0])<<32 | uint64(binary.BigEndian.Uint32(b[1:]))
		}
		out = append(out, row)
	}
	return out
}

// Redis's own format of a HyperLogLog, as its source describes it (hyperloglog.c).
const (
	sketchHeader = "HYLL"
	dense        = 0
	sparse       = 1
	headerLen    = 16
	denseLen     = headerLen + 1<<14*6/8
	maxSparse    = 32 // the largest register that the sparse form can hold
	longZero     = 0x40
	value        = 0x80
)

// encodeSketch returns a HyperLogLog as Redis has it, in the shorter of two forms, or
// nil for none.
func encodeSketch(s *traffic.Sketch) []byte {
	if s == nil {
		return nil
	}
	out := make([]byte, headerLen, 256)
	copy(out, sketchHeader)
	out[4] = sparse
	out[15] = 0x80 // nobody has counted it yet
	for i := 0; i < len(s); {
		run := 1
		for i+run < len(s) && s[i+run] == s[i] {
			run++
		}
		i += run
		switch r := s[i-1]; {
		case r > maxSparse:
			return encodeDense(s)
		case r == 0:
			out = append(out, byte(longZero|(run-1)>>8), byte(run-1))
		default:
			for ; run > 0; run -= 4 {
				out = append(out, value|(r-1)<<2|byte(min(run, 4)-1))
			}
		}
		if len(out) > denseLen {
			return encodeDense(s)
		}
	}
	return out
}

// encodeDense packs registers of six bits, the lowest bits first.
func encodeDense(s *traffic.Sketch) []byte {
	out := make([]byte, denseLen, denseLen+1)
	copy(out, sketchHeader)
	out[4] = dense
	out[15] = 0x80
	body := out[headerLen : denseLen+1] // the last register looks at a byte behind
	for i, r := range s {
		at, shift := i*6/8, i*6%8
		both := uint16(r) << shift
		body[at] |= byte(both)
		body[at+1] |= byte(both >> 8)
	}
	return out
}
