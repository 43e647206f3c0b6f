package responsecache_test

import (
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/herdless/herdless/responsecache"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func FuzzDecodeStored(f *testing.F) {
	f.Add([]byte("r"))
	f.Add([]byte("v\x02\x01g\x01n"))
	f.Add(responsecache.NewStored(200, true, http.Header{"A": {"b", "c"}}, []byte("body")).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, ok := responsecache.DecodeStored(b); ok {
			_, _, h, _ := s.Parts()
			_ = h.Get("A")
			_, ok := responsecache.DecodeStored(s.Encode())
			assert.True(t, ok, "what was decoded can be encoded")
		}
		if x, ok := responsecache.DecodeIndex(b); ok {
			_, names := x.Parts()
			assert.NotEmpty(t, names)
		}
	})
}

func TestStoredRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		header := http.Header(rapid.MapOf(rapid.String(), rapid.SliceOf(rapid.String())).Draw(t, "header"))
		body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		status := rapid.IntRange(200, 999).Draw(t, "status")
		public := rapid.Bool().Draw(t, "public")
		s, ok := responsecache.DecodeStored(responsecache.NewStored(status, public, header, body).Encode())
		require.True(t, ok)
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

func FuzzCacheControl(f *testing.F) {
	for _, seed := range []string{"max-age=60", `max-age="60", private`, `a="b,\"", max-age=1`, "=", ",,=,", `"`, "max-age =5", "private=\"a", "\x00"} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		seconds, private, ok := responsecache.Lifetime(http.Header{"Cache-Control": {a, b}})
		assert.True(t, seconds >= 0 && seconds <= math.MaxInt32)
		if !ok {
			assert.Zero(t, seconds)
		}
		// The plainest form is always understood, whatever else there is
		// before it on lines of their own.
		_, withPrivate, _ := responsecache.Lifetime(http.Header{"Cache-Control": {a, b, "private"}})
		assert.True(t, withPrivate)
		if !strings.Contains(strings.ToLower(a+b), "private") {
			assert.False(t, private)
		}
	})
}
