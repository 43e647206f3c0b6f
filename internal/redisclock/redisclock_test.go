package redisclock_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/internal/redisclock"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
)

func TestGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := time.Date(2040, 1, 2, 3, 4, 5, 0, time.UTC) // nothing depends on the clocks being alike
		var c redisclock.Clock
		_, known := c.At(time.Now())
		assert.False(t, known, "nobody has asked")

		sent := time.Now()
		time.Sleep(10 * time.Millisecond)
		c.Set(server, sent)
		now, known := c.At(time.Now())
		assert.True(t, known)
		assert.Equal(t, server.Add(10*time.Millisecond), now, "never behind: it may be that the answer took long")

		time.Sleep(989 * time.Millisecond)
		now, known = c.At(time.Now())
		assert.True(t, known)
		assert.Equal(t, server.Add(999*time.Millisecond), now)

		time.Sleep(time.Millisecond)
		_, known = c.At(time.Now())
		assert.False(t, known, "the server's clock may have been set")
	})
}

func TestASlowAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c redisclock.Clock
		sent := time.Now()
		time.Sleep(11 * time.Millisecond)
		c.Set(time.Now(), sent)
		_, known := c.At(time.Now())
		assert.False(t, known)
	})
}

func TestOf(t *testing.T) {
	assert.NotNil(t, redisclock.Of(&redis.Client{}))
	for _, several := range []any{&redis.ClusterClient{}, &redis.Ring{}, nil} {
		c := redisclock.Of(several)
		assert.Nil(t, c)
		_, known := c.At(time.Now())
		assert.False(t, known)
	}
}
