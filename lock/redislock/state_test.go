package redislock_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// state is what stands at the key of a lease: see head.lua.
type state struct {
	token uint64
	ends  float64 // in ms of the server's clock
	kept  float64 // the end of the key, in ms of that clock
	owner string  // who had the lease last
}

// stateAt returns the zero state if there is none.
func stateAt(t testing.TB, rdb redis.Cmdable, key string) (s state) {
	t.Helper()
	packed, err := rdb.Get(context.Background(), key).Bytes()
	if err == redis.Nil { //nolint:errorlint // Nil is never wrapped
		return state{}
	}
	require.NoError(t, err)
	float := func(at int) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(packed[at:])) }
	s.token, s.ends, s.kept = uint64(float(1)), float(9), float(17)
	family := packed[27+int(packed[26])+4:]
	s.owner = strings.TrimSuffix(string(family)+string(packed[25:26]), "*")
	return s
}

// holderAt returns who has the exclusive lease, for how long still; nobody has it for 0.
func holderAt(t testing.TB, rdb redis.Cmdable, key string) (owner string, left time.Duration) {
	t.Helper()
	s := stateAt(t, rdb, key)
	now, err := rdb.Time(context.Background()).Result()
	require.NoError(t, err)
	left = time.UnixMilli(int64(s.ends) + 1).Sub(now) // it has all of its last millisecond
	if left <= 0 {
		return "", 0
	}
	return s.owner, left
}

// isHeld reports whether anybody has the exclusive lease.
func isHeld(t testing.TB, rdb redis.Cmdable, key string) bool {
	t.Helper()
	_, left := holderAt(t, rdb, key)
	return left > 0
}

// heldOf returns how many of the leases "0" to n-1 are held.
func heldOf(t testing.TB, rdb redis.Cmdable, n int) (held int) {
	t.Helper()
	for i := range n {
		if isHeld(t, rdb, fmt.Sprintf("herdless:lock:{%d}", i)) {
			held++
		}
	}
	return held
}

// setToken makes token the last one that was given out, as far as Redis can tell.
func setToken(t testing.TB, rdb redis.Cmdable, key string, token int64) {
	t.Helper()
	packed := []byte{2}
	packed = binary.LittleEndian.AppendUint64(packed, math.Float64bits(float64(token)))
	packed = append(packed, make([]byte, 8)...)
	packed = binary.LittleEndian.AppendUint64(packed, math.Float64bits(float64(time.Now().Add(time.Hour).UnixMilli())))
	packed = append(packed, '*', 0, 0, 0, 0, 0)
	require.NoError(t, rdb.Set(context.Background(), key, packed, time.Hour).Err())
}

// What others have written under the prefix is left as it is.
func TestSomethingElseAtTheKeyOfALease(t *testing.T) {
	rdb, prefix := redistest.Standalone(t).Client(t), redistest.Prefix(t)
	store := storeOn(rdb, prefix)
	key := prefix + "{n}"
	steps := map[string]func() error{
		"acquire": func() error { _, err := store.TryAcquire(t.Context(), request("a.1")); return err },
		"extend":  func() error { _, err := store.Extend(t.Context(), request("a.1")); return err },
		"release": func() error { _, err := store.Release(t.Context(), request("a.1")); return err },
		"relay":   func() error { _, _, err := store.Relay(t.Context(), request("a.1"), request("a.2")); return err },
	}
	for _, first := range []string{"\x00", "\x01", "\x02", "\x03", "x"} {
		for _, rest := range []string{"", "\x00", "\xff", "1", "\x01"} {
			for _, n := range []int{0, 1, 25, 26, 29, 31, 32, 100, 1000} {
				foreign := first + strings.Repeat(rest, n)
				for what, step := range steps {
					require.NoError(t, rdb.Set(t.Context(), key, foreign, time.Hour).Err())
					require.ErrorContains(t, step(), "somebody else writes", "%s with %q", what, foreign)
					require.Equal(t, foreign, rdb.Get(t.Context(), key).Val(), "%s", what)
				}
			}
		}
	}
	require.NoError(t, rdb.Del(t.Context(), key).Err())
	require.NoError(t, rdb.RPush(t.Context(), key, "x").Err())
	for what, step := range steps {
		require.ErrorContains(t, step(), "WRONGTYPE", what)
	}
}

// A lease can be extended for longer than the key was to be kept.
func TestTheKeyKnowsHowLongItIsKept(t *testing.T) {
	for _, shared := range []bool{false, true} {
		rdb, prefix := redistest.Standalone(t).Client(t), redistest.Prefix(t)
		store := storeOn(rdb, prefix)
		key := prefix + "{n}"
		req := lock.Request{Name: "n", Owner: "a.1", TTL: 48 * time.Hour, Shared: shared}
		acquireNow(t, store, req)

		// As if that had been two days ago.
		packed, err := rdb.Get(t.Context(), key).Bytes()
		require.NoError(t, err)
		binary.LittleEndian.PutUint64(packed[17:], math.Float64bits(float64(time.Now().Add(25*time.Hour).UnixMilli())))
		require.NoError(t, rdb.Set(t.Context(), key, packed, 25*time.Hour).Err())

		held, err := store.Extend(t.Context(), req)
		require.NoError(t, err)
		require.True(t, held)
		kept := func() time.Duration {
			left := rdb.PTTL(t.Context(), key).Val()
			assert.InDelta(t, stateAt(t, rdb, key).kept, float64(time.Now().Add(left).UnixMilli()), float64(slack.Milliseconds()), "it says how long it is kept")
			return left
		}
		require.Greater(t, kept(), 72*time.Hour)
		if shared { // one that ends sooner
			acquireNow(t, store, lock.Request{Name: "n", Owner: "b.1", TTL: 2 * time.Hour, Shared: true})
		} else {
			releaseHeld(t, store, req)
		}
		assert.Greater(t, kept(), 72*time.Hour, "that is not put forward")
	}
}

// A lease that is gone is not there again because it was extended, nor is its key.
func TestExtendingMakesNoKey(t *testing.T) {
	for _, shared := range []bool{false, true} {
		rdb, prefix := redistest.Standalone(t).Client(t), redistest.Prefix(t)
		store := storeOn(rdb, prefix)
		req := lock.Request{Name: "n", Owner: "a.1", TTL: time.Minute, Shared: shared}
		acquireNow(t, store, req)
		require.NoError(t, rdb.Del(t.Context(), prefix+"{n}").Err())
		held, err := store.Extend(t.Context(), req)
		require.NoError(t, err)
		assert.Equal(t, shared, held, "shared leases are at a key of their own")
		assert.Zero(t, rdb.Exists(t.Context(), prefix+"{n}").Val())
	}
}

// A lease ends early when the server's clock is set forward. Whoever came after it has
// it to itself all the same when the clock is set back.
func TestALeaseThatIsOverDoesNotComeBackWithTheClock(t *testing.T) {
	for _, next := range []lock.Request{
		{Owner: "b.1"},
		{Owner: "a.2"},
		{Owner: "b.1", Shared: true},
		{Owner: "a.2", Shared: true, Limit: 2},
	} {
		rdb, prefix := redistest.Standalone(t).Client(t), redistest.Prefix(t)
		store := storeOn(rdb, prefix)
		key := prefix + "{n}"
		first := lock.Request{Name: "n", Owner: "a.1", TTL: time.Millisecond}
		next.Name, next.TTL = "n", time.Minute
		acquireNow(t, store, first)
		eventually(t, patience, "the lease is over", func() bool { return !isHeld(t, rdb, key) })
		acquireNow(t, store, next)

		packed, err := rdb.Get(t.Context(), key).Bytes()
		require.NoError(t, err)
		if ends := stateAt(t, rdb, key).ends; ends > 0 { // the clock is set back by a minute
			binary.LittleEndian.PutUint64(packed[9:], math.Float64bits(ends+60_000))
		}
		require.NoError(t, rdb.Set(t.Context(), key, packed, time.Hour).Err())
		held, err := store.Extend(t.Context(), first)
		require.NoError(t, err)
		assert.False(t, held, "%+v", next)
		held, err = store.Extend(t.Context(), next)
		require.NoError(t, err)
		assert.True(t, held, "%+v", next)
	}
}

// The last token is remembered for a day after the lease, whoever had the one before.
func TestTheKeyOutlivesEachLeaseByADay(t *testing.T) {
	rdb, prefix := redistest.Standalone(t).Client(t), redistest.Prefix(t)
	store := storeOn(rdb, prefix)
	req := request("a.1")
	for i, ttl := range []time.Duration{time.Minute, 2 * time.Minute, 2 * time.Hour, 48 * time.Hour, time.Minute} {
		req.Owner, req.TTL = fmt.Sprint("a.", i), ttl
		acquireNow(t, store, req)
		left := rdb.PTTL(t.Context(), prefix+"{n}").Val()
		assert.Greater(t, left, ttl+24*time.Hour-slack, "%v", ttl)
		assert.InDelta(t, stateAt(t, rdb, prefix+"{n}").kept, float64(time.Now().Add(left).UnixMilli()), float64(slack.Milliseconds()))
		releaseHeld(t, store, req)
	}
}

// A holder hears that its lease was over, also if nobody else has come since.
func TestReleasingALeaseThatIsOver(t *testing.T) {
	rdb, prefix := redistest.Standalone(t).Client(t), redistest.Prefix(t)
	store := storeOn(rdb, prefix)
	req := lock.Request{Name: "n", Owner: "a.1", TTL: time.Millisecond}
	acquireNow(t, store, req)
	eventually(t, patience, "the lease is over", func() bool { return !isHeld(t, rdb, prefix+"{n}") })
	for range 2 {
		held, err := store.Release(t.Context(), req)
		require.NoError(t, err)
		assert.False(t, held)
	}
}

// A release that finds nothing is remembered for 30 s too, where the last lease of its
// family was released long before.
func TestALateReleaseIsRememberedBesideOldOnes(t *testing.T) {
	rdb, prefix := redistest.Standalone(t).Client(t), redistest.Prefix(t)
	store := storeOn(rdb, prefix)
	key := prefix + "{n}"
	turn(t, store, "a.1")
	packed, err := rdb.Get(t.Context(), key).Bytes()
	require.NoError(t, err)
	minuteAgo := float64(time.Now().Add(-time.Minute).UnixMilli())
	binary.LittleEndian.PutUint64(packed[9:], math.Float64bits(-minuteAgo))
	require.NoError(t, rdb.Set(t.Context(), key, packed, redis.KeepTTL).Err())

	_, err = store.Release(t.Context(), request("a.2")) // its acquire is late
	require.NoError(t, err)
	turn(t, store, "b.1")
	_, err = store.TryAcquire(t.Context(), request("a.2"))
	require.ErrorContains(t, err, "released")
}

// With maxmemory, Redis may evict the key of a lease, and leave that of shared ones.
func TestSharedLeasesOutliveTheKeyOfTheLease(t *testing.T) {
	rdb, prefix := redistest.Standalone(t).Client(t), redistest.Prefix(t)
	store := storeOn(rdb, prefix)
	reader := lock.Request{Name: "n", Owner: "a.1", TTL: time.Minute, Shared: true}
	acquireNow(t, store, reader)
	require.NoError(t, rdb.Del(t.Context(), prefix+"{n}").Err())
	grant, err := store.TryAcquire(t.Context(), request("a.2"))
	require.NoError(t, err)
	require.False(t, grant.Acquired)
	releaseHeld(t, store, reader)
}
