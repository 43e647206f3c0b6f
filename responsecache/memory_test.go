package responsecache

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

// One client can ask for so many pages that there is no room: that ends with them.
func TestAFullMemoryGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m memory[int, string]
		for i := range memorySize {
			m.set(i, "", 10*time.Second)
		}
		m.set(-1, "new", time.Minute)
		got, ok := m.get(-1)
		assert.True(t, ok)
		assert.Equal(t, "new", got)
		assert.LessOrEqual(t, m.entries.Len(), memorySize)
		m.set(-1, "newer", time.Minute)
		_, ok = m.get(2)
		assert.True(t, ok, "what is there already needs no room")
		time.Sleep(20 * time.Second)
		m.set(-2, "new", time.Minute)
		assert.LessOrEqual(t, m.entries.Len(), 2, "what is over is gone")
		got, _ = m.get(-1)
		assert.Equal(t, "newer", got)
	})
}
