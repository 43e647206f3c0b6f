package session

import "strings"

// hasRoomAside reports whether stored, which could not be decoded, can be kept beside next,
// which takes its place.
func (s *Session) hasRoomAside(name string, stored, next []byte) bool {
	return s.sizeWith(setAside+name, stored)+max(0, len(next)-len(stored)) <= s.m.opts.MaxBytes
}

// sizeWith returns what the session measures with value under name, as this
// request sees it. The store decides again, together with what other requests
// have written meanwhile.
func (s *Session) sizeWith(name string, value []byte) int {
	size := s.sizeOf(name, value)
	if !s.dropped() {
		for _, e := range s.rec.Values {
			if _, changed := s.changes[e.Name]; e.Name != name && !changed {
				size += e.size()
			}
		}
	}
	for n, b := range s.changes {
		if n != name && b != nil {
			size += s.sizeOf(n, b)
		}
	}
	return size
}

// sizeOf returns what a value that is to be written measures in the store, with its name.
func (s *Session) sizeOf(name string, value []byte) int {
	if !strings.HasPrefix(name, setAside) { // that is written as it was stored
		return len(name) + s.m.vault.frameLen(value, s.schemaOf(name)) + len(value)
	}
	return len(name) + len(value)
}
