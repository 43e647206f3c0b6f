package responsecache_test

import (
	"net/http"
	"slices"
	"testing"

	"github.com/herdless/herdless/responsecache"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func FuzzDecodeStored(f *testing.F) {
	f.Add([]byte("s"))
	f.Add([]byte("v\x02\x01g\x01n"))
	f.Add([]byte("a\x01\x01r"))
	f.Add(responsecache.NewStored(200, true, http.Header{"A": {"b", "c"}}, []byte("body")).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		found, ok := responsecache.Decode(b)
		if !ok {
			return
		}
		if s := found.Response(); s != nil {
			_, _, h, _ := s.Parts()
			_ = h.Get("A")
			_, ok := responsecache.Decode(s.Encode())
			assert.True(t, ok, "what was decoded can be encoded")
			return
		}
		names, isIndex := found.Index()
		rule, isAlias := found.Alias()
		assert.True(t, isIndex && len(names) > 0 || isAlias && rule != "")
	})
}

func TestStoredRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		header := http.Header(rapid.MapOf(rapid.String(), rapid.SliceOf(rapid.String())).Draw(t, "header"))
		body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		status := rapid.IntRange(200, 999).Draw(t, "status")
		public := rapid.Bool().Draw(t, "public")
		found, ok := responsecache.Decode(responsecache.NewStored(status, public, header, body).Encode())
		require.True(t, ok)
		s := found.Response()
		gotStatus, gotPublic, gotHeader, gotBody := s.Parts()
		assert.Equal(t, status, gotStatus)
		assert.Equal(t, public, gotPublic)
		assert.Equal(t, string(body), string(gotBody))
		assert.Len(t, gotHeader, len(header))
		for name, values := range header {
			assert.True(t, slices.Equal(values, gotHeader[name]))
		}
	})
}

func TestKeysAreInjective(t *testing.T) {
	parts := rapid.SliceOfN(rapid.StringOf(rapid.SampledFrom([]rune("a:1,\x00"))), 0, 4)
	rapid.Check(t, func(t *rapid.T) {
		a, b := parts.Draw(t, "a"), parts.Draw(t, "b")
		same := responsecache.JoinParts(a...) == responsecache.JoinParts(b...)
		assert.Equal(t, slices.Equal(a, b), same)
	})
}
