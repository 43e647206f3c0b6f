package traffic

import (
	"cmp"
	"context"
	"crypto/rand"
	"slices"
	"sync"
	"time"

	"github.com/herdless/herdless/internal/ttlmap"
)

// MemoryStore is a Store in the memory of one process, for tests and for programs
// that run as one process. It is safe for concurrent use. Make one with
// NewMemoryStore.
type MemoryStore struct {
	mu      sync.Mutex
	salts   *ttlmap.Map[int64, []byte]
	applied *ttlmap.Map[string, uint64]
	rows    *ttlmap.Map[int64, *memoryRows] // by day
	buckets *ttlmap.Map[Bucket, *memoryBucket]
	boards  *ttlmap.Map[memoryKey, *memoryBoard]
}

// memoryRows are the rows that there are.
type memoryRows struct {
	known         map[rowKey]struct{}
	routes, nodes int
}

// name returns the row in which k is counted.
func (m *memoryRows) name(k rowKey) rowKey {
	if _, ok := m.known[k]; ok || k.name == Other {
		return k
	}
	count, most := &m.routes, MaxRoutes
	if k.kind == KindNode {
		count, most = &m.nodes, MaxNodes
	}
	if *count == most {
		return rowKey{k.kind, Other}
	}
	*count++
	m.known[k] = struct{}{}
	return k
}

type memoryBucket struct {
	rows     map[rowKey]*Counters
	visitors *Sketch
}

type memoryKey struct {
	board  string
	bucket Bucket
}

type memoryBoard struct {
	members   map[string]memoryScore
	admission uint16 // the last one
	trims     uint64
}

type memoryScore struct {
	score     int64
	admission uint16
}

// keepApplied is for how long the number of a node's last batch is remembered.
const keepApplied = 48 * time.Hour

// NewMemoryStore returns an empty MemoryStore.
func NewMemoryStore() *MemoryStore {
	return &MemoryStore{
		salts:   ttlmap.New[int64, []byte](),
		applied: ttlmap.New[string, uint64](),
		rows:    ttlmap.New[int64, *memoryRows](),
		buckets: ttlmap.New[Bucket, *memoryBucket](),
		boards:  ttlmap.New[memoryKey, *memoryBoard](),
	}
}

func (m *MemoryStore) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	return nil
}

// Salt implements Store.
func (m *MemoryStore) Salt(ctx context.Context, day int64) ([]byte, time.Time, error) {
	if err := m.begin(ctx); err != nil {
		return nil, time.Time{}, err
	}
	defer m.mu.Unlock()
	now := time.Now()
	salt, _, ok := m.salts.Get(day)
	if !ok {
		salt = make([]byte, 32)
		_, _ = rand.Read(salt) // never fails
		if left := (Bucket{UnitDay, day + 1}).Start().Sub(now); left > 0 {
			m.salts.Set(day, salt, left)
		}
	}
	return slices.Clone(salt), now, nil
}

// Apply implements Store.
func (m *MemoryStore) Apply(ctx context.Context, b *Batch) (Receipt, error) {
	if err := m.begin(ctx); err != nil {
		return Receipt{}, err
	}
	defer m.mu.Unlock()
	last, _, _ := m.applied.Get(b.Node)
	again := b.Seq <= last
	if !again {
		m.applied.Set(b.Node, b.Seq, keepApplied)
		for _, s := range b.Slices {
			m.addSlice(s)
		}
	}
	receipt := Receipt{Now: time.Now()}
	for _, u := range b.Boards {
		receipt.Boards = append(receipt.Boards, m.update(u, again))
	}
	return receipt, nil
}

func (m *MemoryStore) addSlice(s Slice) {
	minute := Bucket{UnitMinute, s.Minute}
	day := minute.In(UnitDay)
	names, _, ok := m.rows.Get(day.N)
	if !ok {
		names = &memoryRows{known: make(map[rowKey]struct{})}
	}
	m.rows.Set(day.N, names, UnitDay.Keep())
	for _, u := range []Unit{UnitMinute, UnitHour, UnitDay} {
		at := minute.In(u)
		b, _, ok := m.buckets.Get(at)
		if !ok {
			b = &memoryBucket{rows: make(map[rowKey]*Counters)}
		}
		m.buckets.Set(at, b, u.Keep())
		for i := range s.Rows {
			row := &s.Rows[i]
			k := names.name(rowKey{row.Kind, row.Name})
			if b.rows[k] == nil {
				b.rows[k] = new(Counters)
			}
			b.rows[k].Add(&row.Counters)
		}
		if s.Visitors != nil {
			if b.visitors == nil {
				b.visitors = new(Sketch)
			}
			b.visitors.Merge(s.Visitors)
		}
	}
}

// update changes a board, unless that has been done already.
func (m *MemoryStore) update(u BoardUpdate, again bool) BoardReceipt {
	k := memoryKey{u.Board, u.Bucket}
	b, _, ok := m.boards.Get(k)
	if !ok {
		b = &memoryBoard{members: make(map[string]memoryScore)}
	}
	m.boards.Set(k, b, u.Bucket.Unit.KeepBoard())
	if !again {
		b.admission = b.admission%4095 + 1
		for _, up := range u.Updates {
			s, there := b.members[up.Member]
			switch {
			case there && s.admission == up.Admission:
				s.score = bounded(s.score + up.Delta)
			case there:
				s.score = bounded(s.score + up.Total)
			case up.Candidate:
				s = memoryScore{bounded(up.Total), b.admission}
			default:
				continue
			}
			b.members[up.Member] = s
		}
		if len(b.members) > u.Capacity+(u.Capacity+1)/2 {
			for _, e := range b.sorted()[u.Capacity:] {
				delete(b.members, e.Member)
			}
			b.trims++
		}
	}
	out := BoardReceipt{Trims: b.trims}
	for _, up := range u.Updates {
		out.Admissions = append(out.Admissions, b.members[up.Member].admission)
	}
	return out
}

func (b *memoryBoard) sorted() []Entry {
	list := make([]Entry, 0, len(b.members))
	for member, s := range b.members {
		list = append(list, Entry{Member: member, Score: s.score})
	}
	slices.SortFunc(list, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(a.Member, b.Member))
	})
	for i := range list {
		list[i].Rank = i + 1
	}
	return list
}

// Counters implements Store.
func (m *MemoryStore) Counters(ctx context.Context, buckets []Bucket) ([][]Row, error) {
	if err := m.begin(ctx); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	out := make([][]Row, len(buckets))
	for i, at := range buckets {
		if b, _, ok := m.buckets.Get(at); ok {
			for k, c := range b.rows {
				out[i] = append(out[i], Row{k.kind, k.name, *c})
			}
		}
	}
	return out, nil
}

// Visitors implements Store.
func (m *MemoryStore) Visitors(ctx context.Context, groups [][]Bucket) ([]uint64, error) {
	if err := m.begin(ctx); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	out := make([]uint64, len(groups))
	for i, group := range groups {
		var all Sketch
		for _, at := range group {
			if b, _, ok := m.buckets.Get(at); ok && b.visitors != nil {
				all.Merge(b.visitors)
			}
		}
		out[i] = all.Count()
	}
	return out, nil
}

// Top implements Store.
func (m *MemoryStore) Top(ctx context.Context, boards []string, at Bucket, n int) ([][]Entry, error) {
	out := make([][]Entry, len(boards))
	for i, board := range boards {
		list, err := m.list(ctx, board, at)
		if err != nil {
			return nil, err
		}
		out[i] = list[:max(0, min(n, len(list)))]
	}
	return out, ctx.Err()
}

// Around implements Store.
func (m *MemoryStore) Around(ctx context.Context, board string, at Bucket, member string, n int) ([]Entry, error) {
	list, err := m.list(ctx, board, at)
	i := slices.IndexFunc(list, func(e Entry) bool { return e.Member == member })
	if err != nil || i < 0 {
		return nil, err
	}
	n = max(n, 0)
	return list[max(0, i-n):min(len(list), i+n+1)], nil
}

func (m *MemoryStore) list(ctx context.Context, board string, at Bucket) ([]Entry, error) {
	if err := m.begin(ctx); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	b, _, ok := m.boards.Get(memoryKey{board, at})
	if !ok {
		return nil, nil
	}
	return b.sorted(), nil
}
