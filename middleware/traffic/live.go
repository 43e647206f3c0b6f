package traffic

import (
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
)

const (
	// maxRoutes is how many routes a process tells apart. Routes are patterns,
	// of which a program has a few dozen; a program that takes paths for routes
	// finds them under Other.
	maxRoutes = 256
	maxName   = 200
)

// live is what is being counted. Requests choose one of its shards at random, so
// that they do not wait for each other.
type live struct {
	shards []liveShard
	mask   uint32
}

type liveShard struct {
	mu       sync.Mutex
	routes   map[string]*Counters
	node     Counters
	visitors Sketch
	seen     bool // there are visitors
	_        [64]byte
}

func newLive() *live {
	n := 1
	for n < min(runtime.GOMAXPROCS(0), 16) {
		n *= 2
	}
	l := &live{shards: make([]liveShard, n), mask: uint32(n - 1)}
	for i := range l.shards {
		l.shards[i].routes = map[string]*Counters{Other: {}}
	}
	return l
}

// count adds a request, and its visitor if visitor is true.
func (l *live) count(h *Hit, hash uint64, visitor bool) {
	s := &l.shards[rand.Uint32()&l.mask]
	s.mu.Lock()
	c := s.routes[h.Route]
	if c == nil {
		c = s.newRoute(h.Route)
	}
	c.count(h)
	s.node.count(h)
	if visitor {
		s.visitors.Add(hash)
		s.seen = true
	}
	s.mu.Unlock()
}

func (s *liveShard) newRoute(route string) *Counters {
	if len(s.routes) >= maxRoutes {
		return s.routes[Other]
	}
	c := new(Counters)
	s.routes[strings.Clone(route)] = c
	return c
}

func (l *live) visit(hash uint64) {
	s := &l.shards[rand.Uint32()&l.mask]
	s.mu.Lock()
	s.visitors.Add(hash)
	s.seen = true
	s.mu.Unlock()
}

// drain moves what was counted to a.
func (l *live) drain(a *slice) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for route, c := range s.routes {
			if c.Requests() > 0 {
				a.row(KindRoute, rowName(route)).Add(c)
				*c = Counters{}
			}
		}
		if s.node.Requests() > 0 {
			a.row(KindNode, a.node).Add(&s.node)
			s.node = Counters{}
		}
		if s.seen {
			if a.visitors == nil {
				a.visitors = new(Sketch)
			}
			a.visitors.Merge(&s.visitors)
			s.visitors, s.seen = Sketch{}, false
		}
		s.mu.Unlock()
	}
}

// rowName returns s as it can stand in a store: short, and without characters that
// end a line.
func rowName(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > maxName {
		s = strings.ToValidUTF8(s[:maxName], "")
	}
	return s
}

// slice is what was counted in a minute and not sent.
type slice struct {
	minute   int64
	node     string
	rows     map[rowKey]*Counters
	visitors *Sketch
}

type rowKey struct {
	kind Kind
	name string
}

func newSlice(minute int64, node string) *slice {
	return &slice{minute: minute, node: node, rows: make(map[rowKey]*Counters)}
}

func (a *slice) row(kind Kind, name string) *Counters {
	k := rowKey{kind, name}
	c := a.rows[k]
	if c == nil {
		if len(a.rows) > maxRoutes+1 { // two names may have become one, but never more
			k.name = Other
			if c = a.rows[k]; c != nil {
				return c
			}
		}
		c = new(Counters)
		a.rows[k] = c
	}
	return c
}

func (a *slice) empty() bool { return len(a.rows) == 0 && a.visitors == nil }

func (a *slice) merge(o *slice) {
	for k, c := range o.rows {
		a.row(k.kind, k.name).Add(c)
	}
	switch {
	case a.visitors == nil:
		a.visitors = o.visitors
	case o.visitors != nil:
		a.visitors.Merge(o.visitors)
	}
}

func (a *slice) batch() Slice {
	out := Slice{Minute: a.minute, Visitors: a.visitors}
	for k, c := range a.rows {
		out.Rows = append(out.Rows, Row{Kind: k.kind, Name: k.name, Counters: *c})
	}
	return out
}
