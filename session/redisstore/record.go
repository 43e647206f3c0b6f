package redisstore

import (
	"encoding/binary"
	"math"
	"slices"
	"time"

	"github.com/herdless/herdless/session"
)

// The layout of a session, see session.lua.
const (
	magic     = "hls2"
	digestLen = len(session.Digest{})
	trailer   = 8 // the lengths at the end
	// earlierLen is how many bytes of each earlier digest are kept.
	earlierLen = 8
)

// The numbers of a session, in their order.
const (
	version = iota
	expires
	seen
	created
	digestAt
	authenticated
	idle
	absolute
	size
	taken
	graceEnds
	headAt
	numbers // how many there are
)

// stored is a session as it stands in Redis, taken apart. Its strings are parts of
// that one.
type stored struct {
	digest     string
	number     [numbers]int64
	superseded string
	earlier    string
	handover   string
	owner      string
	meta       string
	values     session.Values
}

// parse takes a session apart, if it is one as commit.lua writes it: all of it, or its last
// partLen bytes. The values go into few, which is empty, if there is room.
func parse(few session.Values, raw string, all bool) (s stored, ok bool) {
	head, ok := headOf(raw)
	if !ok {
		return s, false
	}
	d := decoder{rest: head}
	d.fixed(&s)
	s.superseded, s.earlier, s.handover = d.text(), d.text(), d.text()
	s.owner, s.meta = d.text(), d.text()
	d.text() // by whom it was withdrawn
	count := d.length()
	end := s.number[headAt]                           // of the values
	before := end + int64(len(head)+trailer-len(raw)) // how much of it is not here
	fits := before == 0 || before > 0 && !all && len(raw) == partLen
	if d.bad || !fits || end > math.MaxInt32 || count > len(d.rest)/12 { // nobody gets memory for what is not there
		return s, false
	}
	s.values = slices.Grow(few, count)[:count]
	for i := range s.values {
		name, at, length := d.text(), d.length(), d.length()
		if d.bad || at > int(end) || length > int(end)-at {
			return s, false
		}
		e := &s.values[i]
		e.Name = name
		if at -= int(before); at >= 0 {
			e.Data = raw[at : at+length]
		} else {
			e.LeftOut = length
		}
	}
	s.values.Sort()
	lengths := decoder{rest: raw[len(raw)-trailer:]}
	padding := lengths.length()
	return s, len(d.rest) == padding && !lengths.bad
}

// headOf returns the head at the end of a session, with the padding.
func headOf(end string) (head string, ok bool) {
	if len(end) < trailer {
		return "", false
	}
	d := decoder{rest: end[len(end)-4:]}
	length := d.length()
	rest := end[:len(end)-trailer]
	if length > len(rest) {
		return "", false
	}
	return rest[len(rest)-length:], true
}

// endLen is how much of the end of a session has the head of most.
const endLen = 512

// isAlive reports whether there is a session that ends like this, of which there may be
// more in front, and is not withdrawn, if that can be said.
func isAlive(end string) (is, sure bool) {
	head, ok := headOf(end)
	if !ok {
		return false, len(end) < endLen
	}
	var s stored
	d := decoder{rest: head}
	d.fixed(&s)
	return !d.bad && s.number[taken] == 0, d.bad || s.number[taken] == 0
}

// fixed takes what every head begins with.
func (d *decoder) fixed(s *stored) {
	if d.take(len(magic)) != magic {
		d.bad = true
	}
	s.digest = d.take(digestLen)
	for i := range s.number {
		s.number[i] = d.number()
	}
}

// isEarlier reports whether digest may be one that others have replaced since.
func (s *stored) isEarlier(digest session.Digest) bool {
	for earlier := s.earlier; len(earlier) >= earlierLen; earlier = earlier[earlierLen:] {
		if earlier[:earlierLen] == string(digest[:earlierLen]) {
			return true
		}
	}
	return false
}

// record makes a Record of it, at the time now of the server.
func (s *stored) record(now int64, state session.State) session.Record {
	left := millis(s.number[expires] - now)
	rec := session.Record{
		State:       state,
		Version:     uint64(s.number[version]), //nolint:gosec // a count
		Owner:       s.owner,
		Values:      s.values,
		CreatedAt:   time.UnixMilli(s.number[created]),
		ReadAt:      time.UnixMilli(now),
		DigestAge:   millis(now - s.number[digestAt]),
		GraceLeft:   max(0, millis(s.number[graceEnds]-now)),
		IdleTimeout: millis(s.number[idle]),
		ExpiresIn:   left,
		EndsIn:      max(left, millis(s.number[created]+s.number[absolute]-now)),
	}
	if at := s.number[authenticated]; at > 0 {
		rec.AuthenticatedAt = time.UnixMilli(at)
	}
	if s.meta != "" {
		rec.Meta = []byte(s.meta)
	}
	if state == session.Superseded {
		rec.Handover = []byte(s.handover)
	}
	return rec
}

func millis(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// decoder takes parts off the front of rest. It goes bad where there is less.
type decoder struct {
	rest string
	bad  bool
}

func (d *decoder) take(n int) string {
	if n > len(d.rest) {
		d.bad, d.rest = true, ""
		return ""
	}
	part := d.rest[:n]
	d.rest = d.rest[n:]
	return part
}

// number takes one that is whole, not negative, and exact.
func (d *decoder) number() int64 {
	part := d.take(8)
	if d.bad {
		return 0
	}
	x := math.Float64frombits(binary.LittleEndian.Uint64([]byte(part)))
	n := int64(x)
	if !(x >= 0 && x < 1<<53) || float64(n) != x {
		d.bad = true
		return 0
	}
	return n
}

func (d *decoder) length() int {
	part := d.take(4)
	if d.bad {
		return 0
	}
	n := binary.LittleEndian.Uint32([]byte(part))
	if n > math.MaxInt32 { // no session is so long
		d.bad = true
		return 0
	}
	return int(n)
}

func (d *decoder) byte() byte {
	if part := d.take(1); !d.bad {
		return part[0]
	}
	return 0
}

func (d *decoder) text() string { return d.take(d.length()) }
