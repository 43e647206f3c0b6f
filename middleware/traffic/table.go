package traffic

import (
	"cmp"
	"hash/maphash"
	"math"
	"slices"
	"strings"
	"sync"
)

const (
	// tableShards keeps requests from waiting for each other.
	tableShards = 32
	// minTracked is how many members of a board a process knows at most, unless
	// the board is so large that trackedPerPlace times its capacity is more.
	minTracked      = 16 << 10
	trackedPerPlace = 8
	// mentions is how many times as many members as the store keeps it is told
	// of. What has come to three processes evenly is of more use together than
	// one of them can know.
	mentions = 3
	// roundsAgain is how often everything is reported after the store has
	// forgotten members.
	roundsAgain = 3
	// maxMember is the longest name of a member.
	maxMember = 256
	// maxScore bounds what a member can have: the store keeps an admission in
	// the low bits of the same number.
	maxScore = 1 << 40
)

// table is what this process knows of a board: what was added to each member,
// in each of the present windows, and how much of it the store was told.
//
// A process knows far more members than the store keeps. Most of them are of no
// interest, and the store never hears of them; but one that becomes of interest is
// reported with everything that was added to it from the beginning. That is what
// makes the scores of those on top exact with little memory in the store.
type table struct {
	board    string
	capacity int // of the store
	limit    int // of members in a shard
	seed     maphash.Seed
	shards   [tableShards]tableShard

	// What follows belongs to who seals.
	buckets [units]Bucket
	spells  [units]uint32 // numbers the windows
	trims   [units]uint64 // how often the store has forgotten members
	again   [units]int    // how often everything is to be reported
	round   uint64        // numbers the seals
	scratch []int64
}

type tableShard struct {
	mu      sync.Mutex
	members map[string]*member
	touched []*member // since the last seal
	dropped uint64    // additions to members for which there was no room
	pruned  uint64    // members that were forgotten
	_       [32]byte  // keeps the locks of two shards apart
}

// member is a member of a board.
type member struct {
	name    string
	pending int64 // added since the last seal
	touched bool
	round   uint64 // the seal in which something was added last
	windows [units]tally
}

// tally is the account of a member in one window.
type tally struct {
	score     int64  // all that was added in this process
	sent      int64  // what of it the store has been told of this admission
	spell     uint32 // the window that it is about
	admission uint16
}

func newTable(board string, capacity int) *table {
	t := &table{
		board: board, capacity: capacity, seed: maphash.MakeSeed(),
		limit: max(minTracked, trackedPerPlace*capacity) / tableShards,
	}
	for i := range t.shards {
		t.shards[i].members = make(map[string]*member)
	}
	return t
}

func (t *table) add(name string, score int64) {
	if len(name) > maxMember {
		name = name[:maxMember]
	}
	s := &t.shards[maphash.String(t.seed, name)%tableShards]
	s.mu.Lock()
	m := s.members[name]
	if m == nil {
		if len(s.members) >= t.limit {
			s.dropped++
			s.mu.Unlock()
			return
		}
		m = &member{name: strings.Clone(name)} // it may be a part of something large
		s.members[m.name] = m
	}
	m.pending = bounded(m.pending + bounded(score))
	if !m.touched {
		m.touched = true
		s.touched = append(s.touched, m)
	}
	s.mu.Unlock()
}

// bounded returns the score that counts: sums of two cannot overflow.
func bounded(score int64) int64 { return min(max(score, -maxScore), maxScore) }

func (t *table) dropped() (additions, members uint64) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		additions += s.dropped
		members += s.pruned
		s.mu.Unlock()
	}
	return additions, members
}

// seal books what was added since the last time into the windows that begin with
// buckets, and returns what the store has to be told, and of whom. Only one seal
// may be under way, and settle must follow before the next.
func (t *table) seal(buckets [units]Bucket) (updates []BoardUpdate, members [][]*member) {
	for u, b := range buckets {
		if t.buckets[u] != b || t.spells[u] == 0 {
			t.buckets[u], t.trims[u], t.again[u] = b, 0, 0
			t.spells[u]++
		}
	}
	t.round++
	touched := t.book()
	for u := range buckets {
		who := touched
		if t.again[u] > 0 {
			t.again[u]--
			who = t.present(Unit(u))
		}
		if len(who) == 0 {
			continue
		}
		update := BoardUpdate{Board: t.board, Bucket: buckets[u], Capacity: t.places(Unit(u))}
		var told []*member
		c := t.candidates(Unit(u))
		for _, m := range who {
			w := t.tally(m, u)
			// What was forgotten is no reason to admit it again before more
			// comes: servers without traffic would go on for ever.
			candidate := m.round == t.round && c.take(w)
			if candidate || w.admission != 0 || w.score >= c.mention {
				update.Updates = append(update.Updates, Update{
					Member: m.name, Delta: w.score - w.sent, Total: w.score, Admission: w.admission, Candidate: candidate,
				})
				told = append(told, m)
			}
		}
		if len(told) > 0 {
			updates, members = append(updates, update), append(members, told)
		}
	}
	t.prune()
	return updates, members
}

// present returns the members of a window.
func (t *table) present(unit Unit) (list []*member) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for _, m := range s.members {
			if m.windows[unit].spell == t.spells[unit] {
				list = append(list, m)
			}
		}
		s.mu.Unlock()
	}
	return list
}

// book books what was added into the windows, and returns whose scores changed.
func (t *table) book() (touched []*member) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for _, m := range s.touched {
			for u := range units {
				w := t.tally(m, u)
				w.score = bounded(w.score + m.pending)
			}
			m.pending, m.touched, m.round = 0, false, t.round
		}
		touched = append(touched, s.touched...)
		clear(s.touched)
		s.touched = s.touched[:0]
		s.mu.Unlock()
	}
	return touched
}

// settle notes what the store has answered to an update.
//
// If the store has forgotten members, others may admit some of them again, which this
// process would not notice if nothing is added to them any more. So it reports for
// some rounds all that it has: until the others have had time for it.
func (t *table) settle(u BoardUpdate, members []*member, receipt BoardReceipt) {
	unit := u.Bucket.Unit
	if t.buckets[unit] != u.Bucket {
		return
	}
	if t.trims[unit] != receipt.Trims {
		t.trims[unit], t.again[unit] = receipt.Trims, roundsAgain
	}
	for i, m := range members {
		w := &m.windows[unit]
		if w.spell != t.spells[unit] {
			continue
		}
		w.sent, w.admission = u.Updates[i].Total, receipt.Admissions[i]
		if w.admission == 0 {
			w.sent = 0
		}
	}
}

// tally returns the account of m in the present window of a unit.
func (t *table) tally(m *member, unit int) *tally {
	w := &m.windows[unit]
	if w.spell != t.spells[unit] {
		*w = tally{spell: t.spells[unit]}
	}
	return w
}

// candidates tell who of this process belongs on the board of a window: as many as
// the board has places, and no more, so that not everything that came once is
// reported.
type candidates struct {
	least int64 // the score of the last one
	room  int   // how many of that score are still to be taken
	// mention is from which score on the store is told of a member that is no
	// candidate: it may be one of another process.
	mention int64
}

func (c *candidates) take(w *tally) bool {
	switch {
	case w.score != c.least || w.admission != 0:
		return w.score >= c.least
	case c.room > 0:
		c.room--
		return true
	}
	return false
}

// places returns how many members the store keeps at least: for a minute, of which
// there are many, half as many as otherwise.
func (t *table) places(u Unit) int {
	if u == UnitMinute {
		return (t.capacity + 1) / 2
	}
	return t.capacity
}

func (t *table) candidates(unit Unit) candidates {
	places := t.places(unit)
	t.scratch = t.scratch[:0]
	members := t.present(unit)
	for _, m := range members {
		t.scratch = append(t.scratch, m.windows[unit].score)
	}
	if len(t.scratch) <= places {
		return candidates{least: math.MinInt64, mention: math.MinInt64}
	}
	slices.Sort(t.scratch)
	c := candidates{least: t.scratch[len(t.scratch)-places], mention: math.MinInt64}
	if beyond := len(t.scratch) - mentions*places; beyond > 0 {
		c.mention = t.scratch[beyond-1] + 1
	}
	above, _ := slices.BinarySearch(t.scratch, c.least+1)
	above = len(t.scratch) - above
	in := 0
	for _, m := range members {
		if w := &m.windows[unit]; w.score == c.least && w.admission != 0 {
			in++
		}
	}
	c.room = places - above - in
	return c
}

// prune makes room for new members: of those that came least today it forgets half,
// when three quarters of the room are taken. Those on a board stay longest. What a
// forgotten member had, and the store was not told, is missing if it ever comes to
// be on top. To be forgotten it must have come more rarely, in as many additions as
// it takes to fill the table, than half of all that came in them.
func (t *table) prune() {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		if len(s.members) > t.limit*3/4 {
			t.pruneShard(s)
		}
		s.mu.Unlock()
	}
}

func (t *table) pruneShard(s *tableShard) {
	type rank struct {
		m        *member
		admitted bool
		score    int64
	}
	list := make([]rank, 0, len(s.members))
	for _, m := range s.members {
		r := rank{m: m, score: math.MinInt64}
		for u, w := range m.windows {
			r.admitted = r.admitted || w.spell == t.spells[u] && w.admission != 0
		}
		if w := m.windows[UnitDay]; w.spell == t.spells[UnitDay] {
			r.score = w.score
		}
		if !m.touched { // what is pending has not been booked
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b rank) int {
		if a.admitted != b.admitted {
			if a.admitted {
				return 1
			}
			return -1
		}
		return cmp.Compare(a.score, b.score)
	})
	for _, r := range list[:min(len(list), len(s.members)-t.limit/2)] {
		delete(s.members, r.m.name)
		s.pruned++
	}
}
