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
	// maxSlices is how many minutes are told apart of what could not be sent.
	maxSlices = 15
)

// live is what is being counted. Requests choose one of its shards at random, so
// that they do not wait for each other.
type live struct {
	node   string
	shards []liveShard
	mask   uint32

	mu   sync.Mutex // may be taken by who has a shard's
	past []*slice   // what is in no shard any more, and was not taken
}

type liveShard struct {
	mu       sync.Mutex
	minute   int64 // of what is counted here, or 0 if it is not known
	routes   map[string]*Counters
	node     Counters
	visitors Sketch
	seen     bool // there are visitors
	_        [64]byte
}

func newLive(node string) *live {
	n := 1
	for n < min(runtime.GOMAXPROCS(0), 16) {
		n *= 2
	}
	l := &live{node: node, shards: make([]liveShard, n), mask: uint32(n - 1)}
	for i := range l.shards {
		l.shards[i].routes = map[string]*Counters{Other: {}}
	}
	return l
}

// lock returns one of the shards, locked, in which a minute is counted. One that comes
// late, by microseconds, counts in the next.
func (l *live) lock(minute int64) *liveShard {
	s := &l.shards[rand.Uint32()&l.mask]
	s.mu.Lock()
	if minute > s.minute {
		l.turn(s, minute, true)
		s.minute = minute
	}
	return s
}

// count adds a request, and its visitor if visitor is true.
func (l *live) count(minute int64, h *Hit, hash uint64, visitor bool) {
	s := l.lock(minute)
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

func (l *live) visit(minute int64, hash uint64) {
	s := l.lock(minute)
	s.visitors.Add(hash)
	s.seen = true
	s.mu.Unlock()
}

// gather moves what was counted out of all shards. now is the present minute, or, if known
// is false, what the clock of this server makes of it.
func (l *live) gather(now int64, known bool) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		l.turn(s, now, known)
		s.minute = 0
		s.mu.Unlock()
	}
}

// turn moves what a shard, which is locked, has counted to the slice of its minute, or
// that of now if it has none.
func (l *live) turn(s *liveShard, now int64, known bool) {
	if s.node.Requests() == 0 && !s.seen {
		return
	}
	minute := s.minute
	if minute == 0 {
		minute = now
	} else {
		known = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.slice(minute, !known)
	for route, c := range s.routes {
		if c.Requests() > 0 {
			a.row(KindRoute, rowName(route)).Add(c)
			*c = Counters{}
		}
	}
	if s.node.Requests() > 0 {
		a.row(KindNode, l.node).Add(&s.node)
		s.node = Counters{}
	}
	if s.seen {
		if a.visitors == nil {
			a.visitors = new(Sketch)
		}
		a.visitors.Merge(&s.visitors)
		s.visitors, s.seen = Sketch{}, false
	}
}

// slice returns the slice of a minute, or the last one if there are too many.
func (l *live) slice(minute int64, guessed bool) *slice {
	for _, a := range l.past {
		if a.minute == minute && a.guessed == guessed {
			return a
		}
	}
	if n := len(l.past); n == maxSlices {
		return l.past[n-1]
	}
	a := &slice{minute: minute, guessed: guessed, rows: make(map[rowKey]*Counters)}
	l.past = append(l.past, a)
	return a
}

// take returns what was gathered, and forgets it.
func (l *live) take() []*slice {
	l.mu.Lock()
	defer l.mu.Unlock()
	past := l.past
	l.past = nil
	return past
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
	guessed  bool // minute is that of this server's clock, because one did not know the store's
	rows     map[rowKey]*Counters
	visitors *Sketch
}

type rowKey struct {
	kind Kind
	name string
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

func (a *slice) batch() Slice {
	out := Slice{Minute: a.minute, Visitors: a.visitors}
	for k, c := range a.rows {
		out.Rows = append(out.Rows, Row{Kind: k.kind, Name: k.name, Counters: *c})
	}
	return out
}
