package lock

import (
	"crypto/rand"
	"hash/maphash"
	"sync"
)

// ownerChars are what an owner is made of: those of rand.Text.
const ownerChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

// owners makes up the owners of one Locker. Those of a name that come after one
// another differ in their last character only, as far as possible: that is cheaper for
// a store that has to remember them.
type owners struct {
	process  string // what all of them begin with
	seed     maphash.Seed
	families [64]family // by what the name hashes to
}

// family is what owners have but for their last character.
type family struct {
	mu    sync.Mutex
	owner [32]byte // the last one
	used  int      // how many there were
}

func newOwners() *owners {
	return &owners{process: rand.Text()[:6], seed: maphash.MakeSeed()}
}

// next returns an owner that there has never been: a family is of 120 random bits.
func (o *owners) next(name string) string {
	f := &o.families[maphash.String(o.seed, name)%uint64(len(o.families))]
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.used == 0 {
		n := copy(f.owner[:], o.process)
		f.owner[n] = '.'
		copy(f.owner[n+1:], rand.Text())
	}
	f.owner[len(f.owner)-1] = ownerChars[f.used]
	f.used = (f.used + 1) % len(ownerChars)
	return string(f.owner[:])
}
