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
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// state is what stands at the key of a lease: see head.lua.
type state struct {
	token uint64
	ends  float64 // in ms of the server's clock
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
	s.token, s.ends = uint64(float(1)), float(9)
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
