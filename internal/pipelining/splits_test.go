package pipelining

import (
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
)

// TestOnlyJoinedScriptsAreLookedAt: every command that goes together passes here, and nearly
// all have an answer, or are no joined script.
func TestOnlyJoinedScriptsAreLookedAt(t *testing.T) {
	var c Client
	var err error = redis.ErrCrossSlot
	get := []redis.Cmder{redis.NewStringCmd(t.Context(), "get", "key")}
	joined := []redis.Cmder{&each{redis.NewCmd(t.Context(), "evalsha")}}
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		if c.splits(nil, joined) || c.splits(err, get) {
			t.Error("splits")
		}
	}))
	assert.True(t, c.splits(err, joined))
}
