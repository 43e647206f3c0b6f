package rediskey_test

import (
	"testing"

	"github.com/herdless/herdless/internal/rediskey"
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
