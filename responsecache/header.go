package responsecache

import (
	"net/http"
	"slices"
	"strings"

	"github.com/herdless/herdless/responsecache/internal/fields"
)

// head is the header of a response that was read from the store. Nobody may change it, nor the
// values: all who have the response share them, and so may responses that have the
// same.
type head struct {
	text   string // as it is stored
	fields []field
	values int      // how many the fields have, all together
	vary   []string // the lines of the Vary field, for a response that has none yet
}

// field is a field of a response that was read from the store.
type field struct {
	name   string
	adds   bool // the values are added to those that the response has: see added
	values []string
}

// headers returns the fields as they are stored. It is to be read only.
func (s *stored) headers() http.Header {
	if s.head == nil {
		return s.header
	}
	h := make(http.Header, len(s.head.fields))
	for i := range s.head.fields {
		f := &s.head.fields[i]
		name := f.name
		if f.adds {
			name = added + name
		}
		h[name] = f.values
	}
	return h
}

// complete sets what follows from the fields.
func (h *head) complete() {
	for i := range h.fields {
		if h.fields[i].name == "Vary" {
			lines := http.Header{}
			addVary(lines, fields.Members(h.fields[i].values))
			h.vary = lines["Vary"]
		}
	}
}

// head reads the header of a response, or returns nil. The last one of a page is
// remembered, and most often this is the same.
func (d *decoder) head(page *knownPage) *head {
	if page != nil {
		if last := page.head.Load(); last != nil && len(last.text) <= len(d.rest) && string(d.rest[:len(last.text)]) == last.text {
			d.skip(uint64(len(last.text)))
			return last
		}
	}
	h := d.newHead()
	if h != nil && page != nil && len(h.text) <= maxKnownHead {
		page.head.Store(h)
	}
	return h
}

// maxKnownHead is the length up to which a header is remembered.
const maxKnownHead = 1 << 10

// newHead reads the fields of a response: a few big pieces of memory, and not one for
// each name and value.
func (d *decoder) newHead() *head {
	h := new(struct { // in one piece, if it has as few fields as most
		head
		fields [8]field
		values [8]string
	})
	counted := *d
	n := counted.uint()
	for range n {
		size := counted.uint()
		if size == 0 { // not even a name
			return nil
		}
		for range size {
			counted.skip(counted.uint())
			if counted.failed {
				return nil
			}
		}
		h.head.values += int(size) - 1
	}
	text := string(d.rest[:len(d.rest)-len(counted.rest)])
	_ = d.uint()
	h.text = text
	h.head.fields = slices.Grow(h.fields[:0], int(n))[:n]
	values := slices.Grow(h.values[:0], h.head.values)[:h.head.values]
	next := func() string {
		size := int(d.uint())
		at := len(text) - (len(d.rest) - len(counted.rest))
		d.skip(uint64(size))
		return text[at : at+size]
	}
	for i := range h.head.fields {
		size := int(d.uint()) - 1
		f := &h.head.fields[i]
		f.name, f.adds = strings.CutPrefix(next(), added)
		f.values, values = values[:size:size], values[size:]
		for j := range f.values {
			f.values[j] = next()
		}
	}
	if d.failed {
		return nil
	}
	h.complete()
	return &h.head
}
