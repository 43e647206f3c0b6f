package rediskey_test

import (
	"testing"

	"github.com/herdless/herdless/internal/rediskey"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
)

func TestPrefix(t *testing.T) {
	client := struct{}{}
	assert.Equal(t, "default:", rediskey.Prefix("pkg", client, "", "default:"))
	assert.Equal(t, "given:", rediskey.Prefix("pkg", client, "given:", "default:"))
	assert.PanicsWithValue(t, "pkg: New needs a client, such as that of redis.NewUniversalClient or redisconn.Open", func() {
		rediskey.Prefix("pkg", nil, "", "default:")
	})
	for _, bad := range []string{"{", "}", "a{b}c:"} {
		assert.Panics(t, func() { rediskey.Prefix("pkg", client, bad, "default:") }, bad)
	}
}

func TestMustListen(t *testing.T) {
	ring := redis.NewRing(&redis.RingOptions{})
	defer ring.Close()
	assert.Panics(t, func() { rediskey.MustListen("pkg", ring) })
	single := redis.NewClient(&redis.Options{})
	defer single.Close()
	assert.NotPanics(t, func() { rediskey.MustListen("pkg", single) })
}
