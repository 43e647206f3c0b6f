package session

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

// fetch asks the store for what it has left out, if the value called name is among that.
// s.mu is locked.
func (s *Session) fetch(ctx context.Context, name string) error {
	if e, _ := s.rec.Values.entry(name); e.LeftOut == 0 || s.dropped() {
		return nil
	}
	rec, err := s.m.store.LoadAll(ctx, s.token.id, s.token.digest, true)
	switch {
	case err != nil:
		return s.fail(fmt.Errorf("session: could not load the value %q: %w", name, err))
	case rec.State != Current && rec.State != Superseded:
		return s.fail(ErrGone)
	}
	// Others may have changed it since. What this request has seen of it is of one time, and
	// what it sees from here on of another.
	maps.DeleteFunc(s.bad, func(name string, _ bool) bool {
		was, _ := s.rec.Values.Get(name)
		is, _ := rec.Values.Get(name)
		return was != is
	})
	was := s.rec.Values
	s.rec.Values, s.rec.Version, s.rec.Basis = rec.Values, rec.Version, rec.Basis
	// But for what it has set itself, which was no change then.
	for name, data := range s.settled {
		before, there := was.Get(name)
		now, is := rec.Values.Get(name)
		if _, changed := s.changes[name]; !changed && (there != is || before != now) {
			s.change(name, data)
		}
	}
	s.settled = nil
	return nil
}

// settle notes that a value was set to what it was already, nil for none: when the rest is
// read, others may have made something else of it.
func (s *Session) settle(name string, data []byte) {
	if s.stored && slices.ContainsFunc(s.rec.Values, func(e Entry) bool { return e.LeftOut > 0 }) {
		if s.settled == nil {
			s.settled = make(map[string][]byte)
		}
		s.settled[name] = data
	}
}
