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
			again := rediscache.Encode(key, cache.Entry{Kind: e.Kind, Data: e.Data, TTL: time.Minute})
			_, ok := rediscache.Decode(key, again, time.Second)
			assert.True(t, ok)
		}
		in := cache.Entry{Kind: cache.Value, Data: b, TTL: time.Minute, StaleFor: time.Minute, Cost: time.Second, Schema: 7}
		out, ok := rediscache.Decode(key, rediscache.Encode(key, in), 80*time.Second)
		assert.True(t, ok, "what was encoded is decoded")
		assert.Equal(t, string(b), string(out.Data))
		assert.Equal(t, 40*time.Second, out.Age)
		assert.Equal(t, 20*time.Second, out.TTL)
		assert.Equal(t, time.Minute, out.StaleFor)
		assert.Equal(t, time.Second, out.Cost)
		assert.EqualValues(t, 7, out.Schema)
		assert.NotZero(t, out.Version)
		_, ok = rediscache.Decode(key+"x", rediscache.Encode(key, in), 20*time.Second)
		assert.False(t, ok, "an entry of another key is none")
	})
}

func FuzzParseNews(f *testing.F) {
	f.Add("", "key", uint64(1), true)
	f.Add("00000000000000000001000000000000000000020000000000000000000300000000", "", uint64(2), false)
	f.Fuzz(func(t *testing.T, message, key string, hash uint64, soft bool) {
		_, _ = rediscache.ParseNews(message) // must not panic
		n := rediscache.News(hash, soft, key)
		again, err := rediscache.ParseNews("00000000000000000001" + "00000000000000000002" + "00000000000000000003" + n)
		assert.NoError(t, err)
		assert.Equal(t, n, again)
	})
}
