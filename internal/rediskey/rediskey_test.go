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
	for _, none := range []any{nil, (*redis.Client)(nil), (*redis.ClusterClient)(nil)} {
		for _, f := range []func(){
			func() { rediskey.Prefix("pkg", none, "", "default:") },
			func() { rediskey.MustListen("pkg", none) },
			func() { rediskey.MustBe("pkg", none) },
		} {
			assert.PanicsWithValue(t, "pkg: New needs a client, such as that of redis.NewUniversalClient or redisconn.Open", f)
		}
	}
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

func TestDatabase(t *testing.T) {
	single := redis.NewClient(&redis.Options{DB: 3})
	defer single.Close()
	failover := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "m", SentinelAddrs: []string{"127.0.0.1:1"}, DB: 4})
	defer failover.Close()
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}})
	defer cluster.Close()
	assert.Equal(t, 3, rediskey.Database(single))
	assert.Equal(t, 3, rediskey.Database(struct{ *redis.Client }{single}))
	assert.Equal(t, 4, rediskey.Database(failover))
	assert.Zero(t, rediskey.Database(cluster))
	assert.Zero(t, rediskey.Database(struct{ redis.UniversalClient }{single}), "it does not say")
}
