package session_test

import (
	"context"
	"encoding/binary"
	"math"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// inRedis is a session as redisstore/session.lua writes it. Tests look at what is
// stored without asking the store that they test.
type inRedis struct {
	version, graceEnds float64
	owner              string
}

const (
	versionAt   = 36 // in the head; of the numbers the first
	graceEndsAt = versionAt + 10*8
	textsAt     = versionAt + 12*8
)

// headOf returns where the head begins.
func headOf(raw string) int {
	return len(raw) - 8 - int(binary.LittleEndian.Uint32([]byte(raw[len(raw)-4:])))
}

func lookInto(raw string) (in inRedis) {
	if raw == "" {
		return in
	}
	raw = raw[headOf(raw):]
	number := func(at int) float64 {
		return math.Float64frombits(binary.LittleEndian.Uint64([]byte(raw[at:])))
	}
	in.version, in.graceEnds = number(versionAt), number(graceEndsAt)
	at := textsAt
	for range 4 { // the superseded digest, those before it, the handover, the owner
		n := int(binary.LittleEndian.Uint32([]byte(raw[at:])))
		in.owner, at = raw[at+4:at+4+n], at+4+n
	}
	return in
}

// storedAt returns what is stored at key.
func storedAt(t *testing.T, rdb redis.UniversalClient, key string) inRedis {
	t.Helper()
	raw, err := rdb.Get(context.Background(), key).Result()
	require.NoError(t, err)
	return lookInto(raw)
}
