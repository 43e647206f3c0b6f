package responsecache

import (
	"encoding/binary"
	"math"
	"net/http"
	"slices"
	"time"
)

// stored is a response as the store keeps it.
type stored struct {
	status int
	public bool
	age    time.Duration // that it had already when it was stored
	header http.Header
	body   []byte
}

// varyIndex stands under a page's key when its responses vary: the fields that
// select a variant, and the generation that all its variants belong to. Each
// index has a generation of its own, so that a purge of the page, which removes
// the index, puts all variants out of reach at once.
type varyIndex struct {
	generation string
	names      []string
}

// The first byte of what is stored says what it is.
const (
	tagResponse = 'r'
	tagIndex    = 'v'
)

func (s *stored) encode() []byte {
	size := 64 + len(s.body)
	for name, values := range s.header {
		for _, v := range values {
			size += len(name) + len(v) + 8
		}
	}
	b := append(make([]byte, 0, size), tagResponse)
	b = binary.AppendUvarint(b, uint64(s.status))
	var public uint64
	if s.public {
		public = 1
	}
	b = binary.AppendUvarint(b, public)
	b = binary.AppendUvarint(b, uint64(max(0, s.age/time.Second)))
	b = binary.AppendUvarint(b, uint64(len(s.header)))
	for name, values := range s.header {
		b = appendStrings(b, append([]string{name}, values...))
	}
	return append(b, s.body...)
}

func (x *varyIndex) encode() []byte {
	return appendStrings([]byte{tagIndex}, append([]string{x.generation}, x.names...))
}

// decodeStored reads what encode made. The body is a part of b.
func decodeStored(b []byte) (*stored, bool) {
	d := decoder{rest: b}
	if d.byte() != tagResponse {
		return nil, false
	}
	s := &stored{status: int(d.uint()), public: d.uint() == 1, age: time.Duration(min(d.uint(), math.MaxInt32)) * time.Second}
	n := d.uint()
	s.header = make(http.Header, min(n, 64))
	for range n {
		field := d.strings()
		if d.failed || len(field) == 0 {
			return nil, false
		}
		s.header[field[0]] = field[1:]
	}
	s.body = d.rest
	return s, !d.failed && s.status >= 200 && s.status <= 999
}

func decodeIndex(b []byte) (varyIndex, bool) {
	d := decoder{rest: b}
	if d.byte() != tagIndex {
		return varyIndex{}, false
	}
	s := d.strings()
	if d.failed || len(s) < 2 || len(d.rest) > 0 {
		return varyIndex{}, false
	}
	return varyIndex{generation: s[0], names: s[1:]}, true
}

func appendStrings(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return b
}

// decoder reads from the front of rest. Once it has failed it returns zeros.
type decoder struct {
	rest   []byte
	failed bool
}

func (d *decoder) byte() byte {
	if len(d.rest) == 0 {
		d.failed = true
		return 0
	}
	c := d.rest[0]
	d.rest = d.rest[1:]
	return c
}

func (d *decoder) uint() uint64 {
	n, size := binary.Uvarint(d.rest)
	if size <= 0 || d.failed {
		d.failed = true
		return 0
	}
	d.rest = d.rest[size:]
	return n
}

func (d *decoder) strings() []string {
	n := d.uint()
	if n > uint64(len(d.rest)) { // each takes a byte at least
		d.failed = true
		return nil
	}
	list := make([]string, 0, n)
	for range n {
		size := d.uint()
		if d.failed || size > uint64(len(d.rest)) {
			d.failed = true
			return nil
		}
		list = append(list, string(d.rest[:size]))
		d.rest = d.rest[size:]
	}
	return slices.Clip(list)
}
