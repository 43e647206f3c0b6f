package responsecache

import (
	"encoding/binary"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/herdless/herdless/cache"
)

// stored is a response as the store keeps it. It is read-only once it is there:
// requests share it.
type stored struct {
	status int
	// For whom, and how long.
	public   bool // for requests with credentials, too
	authOK   bool // for requests with Authorization, too (RFC 9111 §3.5)
	validate bool // no-cache: to be validated for each use
	strict   bool // never stale (RFC 9111 §4.2.4)
	stale    bool // it was stale already when it was stored, by late
	failing  bool // and is used for a moment all the same, because the handler fails
	late     time.Duration
	age      time.Duration // when it was stored
	swr, sie time.Duration // how stale it may be
	// header is that of a response that has been made; of one that was read from the
	// store there is a head. See headers.
	header http.Header
	head   *head
	body   []byte
	// length is that of the body, here or in the store under bodyKey.
	length int64
	stream cache.Body
	key    string // under which it was found

	forms *forms // in which it has been sent
}

// varyIndex stands under a page's key when its responses vary: the fields that
// select a variant, and the generation that all its variants belong to. Each
// index has a generation of its own, so that a purge of the page, which removes
// the index, puts all variants out of reach at once.
type varyIndex struct {
	generation string
	names      []string
	known      *knownVariants // nil: not kept
}

// alias stands under a page's key when its response says that it does for other
// queries as well: it is under the key of what counts of the query.
type alias struct{ rule string }

// found is what is under a key: one of the three.
type found struct {
	response *stored
	index    varyIndex
	alias    alias
}

func (f *found) isIndex() bool { return f.index.generation != "" }
func (f *found) isAlias() bool { return f.alias.rule != "" }

// read decodes an entry that was found under key, once if it stays in this
// process. What cannot be read, such as what another version has written, is as
// good as not there.
func read(key string, e *cache.Entry) (*found, bool) { return readKnown(key, e, nil, nil) }

// readKnown is read of an entry of a page of which something is known, or nil. It may put
// what it reads into the decoded, which is nil or zero.
func readKnown(key string, e *cache.Entry, page *knownPage, into *decoded) (*found, bool) {
	if e.Kind != cache.Value {
		return nil, false
	}
	if f, ok := e.Memo.Load().(*found); ok {
		return f, f != nil
	}
	f, ok := decode(e.Data, page, into)
	if !ok {
		f = nil
	} else if s := f.response; s != nil {
		s.key, s.stream, s.length = key, e.Body, int64(len(s.body))
		if e.Body.ID != "" {
			s.length = e.Body.Size
		}
	}
	e.Memo.Store(f)
	return f, ok
}

// The first byte of what is stored says what it is.
const (
	tagResponse = 's'
	tagIndex    = 'v'
	tagAlias    = 'a'
)

func (s *stored) flags() uint64 {
	var flags uint64
	for i, flag := range []bool{s.public, s.authOK, s.validate, s.strict, s.stale, s.failing} {
		if flag {
			flags |= 1 << i
		}
	}
	return flags
}

func (s *stored) encode() []byte {
	h := s.headers()
	size := 64 + len(s.body)
	for name, values := range h {
		for _, v := range values {
			size += len(name) + len(v) + 8
		}
	}
	b := append(make([]byte, 0, size), tagResponse)
	b = binary.AppendUvarint(b, uint64(s.status))
	b = binary.AppendUvarint(b, s.flags())
	for _, d := range []time.Duration{s.late, s.age, s.swr, s.sie} {
		b = binary.AppendUvarint(b, uint64(max(0, d.Milliseconds())))
	}
	b = binary.AppendUvarint(b, uint64(len(h)))
	for name, values := range h {
		b = appendStrings(b, append([]string{name}, values...))
	}
	return append(b, s.body...)
}

func (x *varyIndex) encode() []byte {
	return appendStrings([]byte{tagIndex}, append([]string{x.generation}, x.names...))
}

func (a *alias) encode() []byte { return appendStrings([]byte{tagAlias}, []string{a.rule}) }

// decoded is a response that was read, in one piece of memory.
type decoded struct {
	found
	stored stored
	forms  forms
}

// decode reads what encode made, for a page of which something is known, or nil, and into
// a decoded, or nil. A body is a part of b.
func decode(b []byte, page *knownPage, into *decoded) (*found, bool) {
	d := decoder{rest: b}
	switch d.byte() {
	case tagResponse:
		if into == nil {
			into = new(decoded)
		}
		return d.response(page, into)
	case tagIndex:
		s := d.strings()
		if d.failed || len(s) < 2 || s[0] == "" || len(d.rest) > 0 {
			return nil, false
		}
		return &found{index: varyIndex{generation: s[0], names: s[1:], known: newKnownVariants(s[1:])}}, true
	case tagAlias:
		s := d.strings()
		if d.failed || len(s) != 1 || s[0] == "" || len(d.rest) > 0 {
			return nil, false
		}
		return &found{alias: alias{rule: s[0]}}, true
	}
	return nil, false
}

func (d *decoder) response(page *knownPage, r *decoded) (*found, bool) {
	s := &r.stored
	r.response, s.forms = s, &r.forms
	s.status = int(min(d.uint(), 1000))
	flags := d.uint()
	for i, flag := range []*bool{&s.public, &s.authOK, &s.validate, &s.strict, &s.stale, &s.failing} {
		*flag = flags>>i&1 == 1
	}
	for _, p := range []*time.Duration{&s.late, &s.age, &s.swr, &s.sie} {
		*p = time.Duration(min(d.uint(), math.MaxInt64/uint64(time.Millisecond))) * time.Millisecond
	}
	if s.head = d.head(page); s.head == nil {
		return nil, false
	}
	s.body = slices.Clip(d.rest)
	return &r.found, s.status >= 200 && s.status <= 999
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

func (d *decoder) skip(size uint64) {
	if d.failed || size > uint64(len(d.rest)) {
		d.failed = true
		return
	}
	d.rest = d.rest[size:]
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
