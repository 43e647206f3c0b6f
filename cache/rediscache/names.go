package rediscache

import (
	"hash/maphash"
	"math/rand/v2"
	"strings"
	"sync/atomic"
)

// knownNames remembers the names of entries that were asked for lately, as go-redis takes
// them: a digest, a string and an argument for each read would be a part of what it
// costs. It is bounded, and takes no lock.
type knownNames struct {
	seed  maphash.Seed
	slots [1024]atomic.Pointer[knownName]
}

// maxKnownKey is the length up to which keys are remembered.
const maxKnownKey = 512

type knownName struct {
	key  string
	name any // a string
}

func newKnownNames() *knownNames { return &knownNames{seed: maphash.MakeSeed()} }

// argument returns the name of the entry under key as an argument of commands. Which
// name is remembered where two have one slot is up to chance, so that who reads more
// keys than there are slots does not remember in vain all the time.
func (s *Store) argument(key string) any {
	k := s.known
	slot := &k.slots[maphash.String(k.seed, key)%uint64(len(k.slots))]
	there := slot.Load()
	if there != nil && there.key == key {
		return there.name
	}
	name := any(s.entryName(key))
	if len(key) <= maxKnownKey && (there == nil || rand.Uint32()%16 == 0) {
		slot.Store(&knownName{strings.Clone(key), name}) // and not what it is a part of
	}
	return name
}
