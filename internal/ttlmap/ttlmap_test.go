package ttlmap_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/internal/ttlmap"
	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"
)

func TestEntriesEndByThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := ttlmap.New[string, int]()
		m.Set("a", 1, time.Second)
		m.Set("b", 2, time.Minute)

		time.Sleep(400 * time.Millisecond)
		v, left, ok := m.Get("a")
		assert.True(t, ok)
		assert.Equal(t, 1, v)
		assert.Equal(t, 600*time.Millisecond, left)

		time.Sleep(600 * time.Millisecond)
		_, _, ok = m.Get("a")
		assert.False(t, ok, "an entry must be gone at the instant its time is over")
		assert.False(t, m.Delete("a"), "deleting a dead entry must not report a live one")
		assert.True(t, m.Delete("b"))
		assert.Zero(t, m.Len())
	})
}

func TestTheDeadDoNotPileUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := ttlmap.New[int, int]()
		for i := range 10_000 {
			m.Set(i, i, time.Second)
			time.Sleep(time.Millisecond)
		}
		assert.LessOrEqual(t, m.Len(), 1_001, "10,000 entries of a second each, one a millisecond")
	})
}

func TestAgainstAModel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		synctest.Test(t, func(*testing.T) {
			type entry struct {
				value int
				ends  time.Time
			}
			m, model := ttlmap.New[int, int](), map[int]entry{}
			live := func(k int) (entry, bool) {
				e, ok := model[k]
				return e, ok && time.Now().Before(e.ends)
			}
			for range rapid.IntRange(1, 60).Draw(r, "steps") {
				k := rapid.IntRange(0, 5).Draw(r, "key")
				switch rapid.SampledFrom([]string{"set", "delete", "wait", "get"}).Draw(r, "step") {
				case "set":
					ttl := time.Duration(rapid.IntRange(-1, 20).Draw(r, "ttl")) * time.Second
					m.Set(k, k*7, ttl)
					model[k] = entry{k * 7, time.Now().Add(ttl)}
				case "delete":
					_, want := live(k)
					if got := m.Delete(k); got != want {
						r.Fatalf("Delete(%d) = %v, want %v", k, got, want)
					}
					delete(model, k)
				case "wait":
					time.Sleep(time.Duration(rapid.IntRange(0, 10).Draw(r, "wait")) * time.Second)
				case "get":
					want, wantOK := live(k)
					v, left, ok := m.Get(k)
					if ok != wantOK || ok && (v != want.value || left != time.Until(want.ends)) {
						r.Fatalf("Get(%d) = %d, %v, %v, want %d, %v, %v", k, v, left, ok, want.value, time.Until(want.ends), wantOK)
					}
				}
			}
		})
	})
}

func TestFindLooksAtNoClock(t *testing.T) {
	now := time.Unix(0, 0)
	m := ttlmap.NewWithClock[string, int](func() time.Time { return now })
	m.Set("k", 1, time.Second)
	now = now.Add(time.Minute)
	_, _, ok := m.Get("k")
	assert.False(t, ok)
	v, ok := m.Find("k")
	assert.True(t, ok)
	assert.Equal(t, 1, v)
	m.Sweep()
	_, ok = m.Find("k")
	assert.False(t, ok)
}

func TestDropFirst(t *testing.T) {
	m := ttlmap.New[string, int]()
	var removed []string
	m.OnRemove(func(k string, _ int) { removed = append(removed, k) })
	assert.False(t, m.DropFirst(), "of none")
	m.Set("long", 1, time.Hour)
	m.Set("short", 2, time.Minute)
	m.Set("longest", 3, 2*time.Hour)
	assert.True(t, m.DropFirst())
	assert.True(t, m.DropFirst())
	assert.Equal(t, []string{"short", "long"}, removed)
	assert.Equal(t, 1, m.Len())
	_, _, ok := m.Get("longest")
	assert.True(t, ok)
}
