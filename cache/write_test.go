package cache_test

import (
	"testing"

	"github.com/herdless/herdless/cache"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestBeginWrite(t *testing.T) {
	eachCluster(t, func(t *testing.T, a, b *cache.Engine) {
		write := func(key string, during func(), e cache.Entry) string {
			t.Helper()
			end, err := a.BeginWrite(t.Context(), key)
			require.NoError(t, err)
			during()
			require.NoError(t, end(t.Context(), e))
			return found(t, a, key)
		}
		nothing := func() {}
		assert.Equal(t, "first", write("key", nothing, kept("first")))
		assert.Equal(t, "second", write("key", nothing, kept("second")), "in its place")
		assert.Empty(t, write("key", nothing, cache.Entry{}), "none in its place")
		assert.Empty(t, write("key", func() { assert.NoError(t, b.Purge(t.Context(), "key")) }, kept("data")), "a purge by its key")
		write("key", func() { assert.NoError(t, b.PurgeTags(t.Context(), "tag")) }, kept("data", "tag"))
		assert.Empty(t, found(t, b, "key"), "a purge by its tag")
		eventually(t, "the other one knows", func() bool { return found(t, a, "key") == "" })
		assert.Empty(t, write("key", func() {
			end, err := b.BeginWrite(t.Context(), "key")
			assert.NoError(t, err)
			assert.NoError(t, end(t.Context(), kept("other")))
		}, kept("data")), "another write")
		assert.Equal(t, "data", write("key", func() { assert.Equal(t, "loaded", fetched(t, b, "key", loads(kept("loaded")))) }, kept("data")), "a load")
		eventually(t, "the other one knows", func() bool { return found(t, b, "key") == "data" })
	})
}

func TestBeginWriteWithoutTheStore(t *testing.T) {
	_, err := newEngines(t, 1, brokenStore{}, cache.Options{})[0].BeginWrite(t.Context(), "key")
	require.ErrorIs(t, err, errAway)
}
