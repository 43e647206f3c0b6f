package rediscache_test

import (
	"testing"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/rediscache"
	"github.com/stretchr/testify/assert"
)

func FuzzDecode(f *testing.F) {
	f.Add("key", []byte("data"))
	f.Add("", rediscache.Encode("", cache.Entry{Kind: cache.Value, TTL: time.Minute}))
	f.Add("key", rediscache.Encode("key", cache.Entry{Kind: cache.Uncacheable, Data: []byte("data"), TTL: time.Minute}))
	f.Fuzz(func(t *testing.T, key string, b []byte) {
		if e, ok := rediscache.Decode(key, b, time.Second); ok {
			again := rediscache.Encode(key, cache.Entry{Kind: e.Kind, Data: e.Data, TTL: e.TTL + e.Age})
			_, ok := rediscache.Decode(key, again, time.Second)
			assert.True(t, ok)
		}
		in := cache.Entry{Kind: cache.Value, Data: b, TTL: time.Minute}
		out, ok := rediscache.Decode(key, rediscache.Encode(key, in), 20*time.Second)
		assert.True(t, ok, "what was encoded is decoded")
		assert.Equal(t, string(b), string(out.Data))
		assert.Equal(t, 40*time.Second, out.Age)
		_, ok = rediscache.Decode(key+"x", rediscache.Encode(key, in), 20*time.Second)
		assert.False(t, ok, "an entry of another key is none")
	})
}
