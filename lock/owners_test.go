package lock

import (
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestOwnersAreUnique(t *testing.T) {
	o := newOwners()
	var mu sync.Mutex
	seen := map[string]bool{}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 1000 {
				owner := o.next(strconv.Itoa(i % (g + 1)))
				mu.Lock()
				assert.False(t, seen[owner], owner)
				seen[owner] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for owner := range seen {
		assert.Len(t, owner, 32)
		assert.True(t, strings.HasPrefix(owner, o.process+"."))
	}
}

// A store that has to remember owners counts on it.
func TestOwnersOfANameDifferInTheLastCharacter(t *testing.T) {
	o := newOwners()
	families := map[string]int{}
	const count = 10 * len(ownerChars)
	for range count {
		owner := o.next("n")
		families[owner[:len(owner)-1]]++
	}
	assert.Len(t, families, count/len(ownerChars))
	assert.NotEqual(t, newOwners().process, o.process)
}
