package responsecache_test

import (
	"testing"
	"time"

	"github.com/herdless/herdless/responsecache"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A request that wants no stored response gets none, though another server has made a
// newer one than this one knows of.
func TestAReloadAsksTheHandlerOnEveryServer(t *testing.T) {
	eachStore(t, func(t *testing.T, st stores) {
		handler := counting(headers("Cache-Control", "max-age=3600"))
		a, b := serve(t, st, responsecache.Policy{}, handler), serve(t, st, responsecache.Policy{}, handler)
		for _, directive := range []string{"no-cache", "max-age=0"} {
			require.NoError(t, a.cache.PurgeAll(t.Context()))
			first := a.get(t, "/page").body
			await(t, "stored", func() bool { return a.get(t, "/page").body == first && b.get(t, "/page").body == first })
			time.Sleep(50 * time.Millisecond) // so that it is older than the next request
			second := b.get(t, "/page", "Cache-Control", directive).body
			assert.NotEqual(t, first, second)
			time.Sleep(50 * time.Millisecond)
			third := a.get(t, "/page", "Cache-Control", directive).body
			assert.NotContains(t, []string{first, second}, third, directive)
		}
	})
}
