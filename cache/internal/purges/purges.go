// Package purges tells which entries of a cache a purge has reached, without
// ever listing entries.
//
// Time is counted in epochs: a number that each purge raises. An entry remembers
// the epoch in which the computation of its value began. A purge reaches the
// entries that it names by a tag, by the beginning of their keys, or altogether,
// and that began in an epoch before its own. So a purge costs the same whatever
// the number of entries, an entry needs its tags only when it is complete, and
// nobody's clock decides.
package purges

import (
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
)

// Record says what a purge reaches. Tags and prefixes are named by hashes of 64
// bits: of two that collide, both are reached.
type Record struct {
	scope  scope
	soft   bool
	length uint32 // of a prefix
	hash   uint64
}

type scope byte

const (
	byTag scope = iota + 1
	byPrefix
	all
)

// Tag returns the record of a purge by a tag, given by its hash.
func Tag(hash uint64, soft bool) Record { return Record{scope: byTag, soft: soft, hash: hash} }

// Prefix returns the record of a purge of all keys that begin with prefix.
func Prefix(prefix string, soft bool) Record {
	if prefix == "" {
		return All(soft)
	}
	return Record{scope: byPrefix, soft: soft, length: uint32(len(prefix)), hash: xxhash.Sum64String(prefix)}
}

// All returns the record of a purge of everything.
func All(soft bool) Record { return Record{scope: all, soft: soft} }

// Hash returns the hash that stands for a tag.
func Hash(tag string) uint64 { return xxhash.Sum64String(tag) }

// Hashes returns the hashes of tags.
func Hashes(tags []string) []uint64 {
	if len(tags) == 0 {
		return nil
	}
	hashes := make([]uint64, len(tags))
	for i, tag := range tags {
		hashes[i] = Hash(tag)
	}
	return hashes
}

// RecordSize is the length of an encoded Record.
const RecordSize = 1 + 1 + 4 + 8

// AppendBinary appends the record's RecordSize bytes to b. Equal records have
// equal bytes.
func (r Record) AppendBinary(b []byte) []byte {
	var soft byte
	if r.soft {
		soft = 1
	}
	b = append(b, byte(r.scope), soft)
	b = binary.BigEndian.AppendUint32(b, r.length)
	return binary.BigEndian.AppendUint64(b, r.hash)
}

// Parse reads what AppendBinary wrote.
func Parse(b string) (Record, error) {
	if len(b) != RecordSize || scope(b[0]) < byTag || scope(b[0]) > all || b[1] > 1 {
		return Record{}, errors.New("not the record of a purge")
	}
	return Record{
		scope:  scope(b[0]),
		soft:   b[1] == 1,
		length: binary.BigEndian.Uint32([]byte(b[2:6])),
		hash:   binary.BigEndian.Uint64([]byte(b[6:])),
	}, nil
}

// Verdict says what the purges have made of an entry.
type Verdict uint8

const (
	// Valid: no purge has reached it.
	Valid Verdict = iota
	// Stale: soft purges only have.
	Stale
	// Gone: a hard purge has.
	Gone
)

// Table holds the purges that are known. The zero Table is empty and holds
// DefaultLimit records at most. It is safe for concurrent use.
type Table struct {
	// Limit is how many records the table holds. When there are more, it
	// forgets the older half, and with it every entry that is as old.
	Limit int

	// newest is the epoch of the last of all purges, floor's included. It changes
	// only while mu is held, and after what it tells of.
	newest atomic.Uint64

	mu      sync.RWMutex
	records map[Record]uint64 // to the epoch of the last such purge
	lengths map[uint32]int    // of prefixes, to the number of their records
	floor   uint64            // entries from before it are gone
}

// DefaultLimit keeps a table below some 10 MB.
const DefaultLimit = 100_000

// Add adds purges of that epoch. The order in which epochs are added is of no
// importance.
func (t *Table) Add(epoch uint64, records ...Record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range records {
		if r.scope == all && !r.soft {
			t.raise(epoch)
			continue
		}
		old, known := t.records[r]
		if known && old >= epoch || epoch <= t.floor {
			continue
		}
		if t.records == nil {
			t.records = make(map[Record]uint64)
			t.lengths = make(map[uint32]int)
		}
		t.records[r] = epoch
		if !known && r.scope == byPrefix {
			t.lengths[r.length]++
		}
		t.newest.Store(max(t.newest.Load(), epoch))
	}
	limit := t.Limit
	if limit == 0 {
		limit = DefaultLimit
	}
	if len(t.records) > limit {
		epochs := make([]uint64, 0, len(t.records))
		for _, e := range t.records {
			epochs = append(epochs, e)
		}
		slices.Sort(epochs)
		t.raise(epochs[len(epochs)/2])
	}
}

// Raise makes every entry that began before that epoch gone, and forgets the
// purges up to it.
func (t *Table) Raise(floor uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.raise(floor)
}

func (t *Table) raise(floor uint64) {
	if floor <= t.floor {
		return
	}
	t.floor = floor
	t.newest.Store(max(t.newest.Load(), floor))
	for r, epoch := range t.records {
		if epoch > floor {
			continue
		}
		delete(t.records, r)
		if r.scope == byPrefix {
			if t.lengths[r.length]--; t.lengths[r.length] == 0 {
				delete(t.lengths, r.length)
			}
		}
	}
}

// NoneSince reports that there was no purge since that epoch: the verdict on whatever
// began in it is Valid.
func (t *Table) NoneSince(epoch uint64) bool { return epoch >= t.newest.Load() }

// Verdict returns what the purges have made of the entry under key that has
// these tags, given by their hashes, and whose computation began in that epoch.
func (t *Table) Verdict(key string, tags []uint64, epoch uint64) Verdict {
	if t.NoneSince(epoch) { // nearly always
		return Valid
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if epoch < t.floor {
		return Gone
	}
	v := Valid
	look := func(r Record) {
		if v != Gone && t.records[r] > epoch {
			v = Gone
		}
		if r.soft = true; v == Valid && t.records[r] > epoch {
			v = Stale
		}
	}
	look(All(false))
	for _, tag := range tags {
		look(Tag(tag, false))
	}
	for n := range t.lengths {
		if int(n) <= len(key) {
			look(Prefix(key[:n], false))
		}
	}
	return v
}
