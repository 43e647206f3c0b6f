package rediscache_test

import (
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/herdless/herdless/cache/rediscache"
	"github.com/stretchr/testify/assert"
)

// Whatever names are remembered, each key has its own.
func TestEachKeyHasItsOwnName(t *testing.T) {
	s := rediscache.New(neverAsked{}, nil)
	keys := []string{"", strings.Repeat("long", 1000)}
	for i := range 5_000 { // more than are remembered
		keys = append(keys, strconv.Itoa(i))
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 3 {
				for _, key := range keys {
					name, remembered := s.Names(key)
					if name != remembered {
						assert.Equal(t, name, remembered, "the name of %q", key)
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

// neverAsked is a client that a store is made on.
type neverAsked struct{ rediscache.Client }
