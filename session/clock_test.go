package session_test

import (
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// With 2 s idle and 5 s in all, a session with a request each second is dead at
// 5 s, and one with a pause of 2.1 s after that pause, by the clock of the store.
func TestIdleTwoAbsoluteFive(t *testing.T) {
	o := &session.Options{IdleTimeout: 2 * time.Second, AbsoluteTimeout: 5 * time.Second, StoreTimeout: 20 * time.Second}
	onBothStores(t, func(t *testing.T, store session.Store) {
		t.Parallel()
		m := newManager(t, store, o)
		// Where the machine was too busy to ask each second, once more.
		for attempt := range 5 {
			if lifetime(t, m) {
				return
			}
			t.Logf("attempt %d: the machine was too busy", attempt)
		}
		t.Error("the machine was too busy five times")
	})
}

// clocks is how far two clocks may come apart in some seconds.
const clocks = 50 * time.Millisecond

// lifetime goes through the life of sessions, and reports whether it could ask in
// time. It requires nothing that depends on how fast the machine is.
func lifetime(t *testing.T, m *session.Manager) bool {
	t.Helper()
	var running sync.WaitGroup
	running.Go(func() {
		paused := logIn(t, m, "bob")
		time.Sleep(2100 * time.Millisecond)
		assert.Empty(t, visit(t, m, paused), "a pause of 2.1 s is too long")
	})
	defer running.Wait()
	before := time.Now()
	used := logIn(t, m, "alice")
	after := time.Now()
	for last := before; ; last = time.Now() {
		time.Sleep(until(after, last.Add(time.Second)))
		asked := time.Now()
		user := visit(t, m, used)
		switch {
		case asked.Sub(after) >= 5*time.Second+clocks:
			assert.Empty(t, user, "use must not keep a session beyond its absolute time")
			return true
		case time.Since(last) >= 2*time.Second:
			return false
		case time.Since(before) < 5*time.Second-clocks:
			require.Equal(t, "alice", user, "a session in use, after %v", asked.Sub(before))
		}
	}
}

// until returns how long it is until next, or if that is beyond them until 5 s after
// the login.
func until(login, next time.Time) time.Duration {
	if end := login.Add(5*time.Second + clocks); next.After(end) && time.Now().Before(end) {
		next = end
	}
	return time.Until(next)
}

// A thousand reads within one idle time, on three servers and several at once, start
// it anew ten times at most.
func TestAThousandReadsWriteTenTimes(t *testing.T) {
	rdb := redistest.NewStandalone(t).Client(t)
	const idle = 2 * time.Second
	o := &session.Options{IdleTimeout: idle, StoreTimeout: 20 * time.Second}
	var managers []*session.Manager
	for range 3 {
		managers = append(managers, newManager(t, redisstore.New(rdb, nil), o))
	}
	cookie := logIn(t, managers[0], "alice")
	written := func() int { return int(storedAt(t, rdb, keyOf("herdless:session:", cookie)).version) }
	before, began := written(), time.Now()
	var running sync.WaitGroup
	for i := range 10 {
		running.Go(func() {
			for j := range 100 {
				// Evenly over the time, and all ten at the same moment.
				time.Sleep(time.Until(began.Add(time.Duration(j) * idle / 100)))
				assert.Equal(t, "alice", visit(t, managers[(i+j)%3], cookie))
			}
		})
	}
	running.Wait()
	// On a busy machine it may have taken longer than the idle time.
	most := int(10*time.Since(began)/idle) + 1
	assert.LessOrEqual(t, written()-before, most, "writes for 1,000 reads in %v", time.Since(began))
	assert.Positive(t, written()-before)
}

// The clocks of the servers do not matter: theirs may differ from the store's.
func TestTheClocksOfTheServersDoNotMatter(t *testing.T) {
	for _, skew := range []time.Duration{-5 * time.Minute, 0, 5 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			store := session.NewMemoryStoreWithClock(func() time.Time { return time.Now().Add(skew) })
			m := newManager(t, store, &session.Options{
				IdleTimeout: 2 * time.Second, AbsoluteTimeout: 5 * time.Second, RenewEvery: time.Second, RenewGrace: time.Second,
			})
			cookie, idle := logIn(t, m, "alice"), logIn(t, m, "bob")
			for i := range 4 {
				time.Sleep(time.Second)
				s := m.Load(request(cookie))
				user, err := s.User(t.Context())
				require.NoError(t, err)
				require.Equal(t, "alice", user, "after %d s, with the store's clock %v ahead", i+1, skew)
				for within, want := range map[time.Duration]bool{
					time.Duration(i+1) * time.Second: true, time.Duration(i+1)*time.Second - time.Millisecond: false,
				} {
					fresh, err := s.AuthenticatedWithin(t.Context(), within)
					require.NoError(t, err)
					assert.Equal(t, want, fresh)
				}
				if c := commit(t, m, s); c != nil {
					cookie = c.Value
				}
			}
			assert.Empty(t, visit(t, m, idle))
			time.Sleep(time.Second)
			assert.Empty(t, visit(t, m, cookie))
		})
	}
}

// Nothing that a Manager tells a store is a point in time.
func TestNoServerTellsTheTime(t *testing.T) {
	var look func(typ reflect.Type, path string)
	look = func(typ reflect.Type, path string) {
		require.NotEqual(t, reflect.TypeFor[time.Time](), typ, path)
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Array:
			look(typ.Elem(), path)
		case reflect.Struct:
			for i := range typ.NumField() {
				look(typ.Field(i).Type, path+"."+typ.Field(i).Name)
			}
		default:
		}
	}
	store := reflect.TypeFor[session.Store]()
	for i := range store.NumMethod() {
		method := store.Method(i)
		for j := range method.Type.NumIn() {
			look(method.Type.In(j), method.Name)
		}
	}
}
