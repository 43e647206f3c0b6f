package responsecache_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
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
			var page responsecache.KnownPage
			for range 2 { // its header is not known, and then it is
				known, ok := page.Decode(b)
				require.True(t, ok)
				_, _, again, _ := known.Response().Parts()
				assert.Equal(t, h, again)
			}
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
	var page responsecache.KnownPage // of all of them, with the header of the one before
	rapid.Check(t, func(t *rapid.T) {
		header := http.Header(rapid.MapOf(rapid.String(), rapid.SliceOf(rapid.String())).Draw(t, "header"))
		body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		status := rapid.IntRange(200, 999).Draw(t, "status")
		public := rapid.Bool().Draw(t, "public")
		found, ok := page.Decode(responsecache.NewStored(status, public, header, body).Encode())
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

// Two requests have one key only if they name the same page.
func FuzzKeys(f *testing.F) {
	f.Add("/?a=1&b=2", "example.com", "/?a=1%26b=2", "example.com")
	f.Add("/", "example.com:80", "/", "EXAMPLE.com")
	f.Add("/a,3:b", "a", "/a", "a,3:b")
	f.Add("/"+strings.Repeat("x", 2000), "a", "/"+strings.Repeat("x", 2001), "a")
	f.Fuzz(func(t *testing.T, targetA, hostA, targetB, hostB string) {
		a, okA := requestOf(targetA, hostA)
		b, okB := requestOf(targetB, hostB)
		if !okA || !okB {
			return
		}
		keyA, keyB := responsecache.KeyOf(a), responsecache.KeyOf(b)
		assert.LessOrEqual(t, len(keyA), 1<<10)
		host := func(r *http.Request) string { return strings.TrimSuffix(strings.ToLower(r.Host), ":80") }
		same := host(a) == host(b) && a.URL.EscapedPath() == b.URL.EscapedPath() && a.URL.RawQuery == b.URL.RawQuery && a.URL.ForceQuery == b.URL.ForceQuery
		assert.Equal(t, same, keyA == keyB)
	})
}

func requestOf(target, host string) (*http.Request, bool) {
	u, err := url.ParseRequestURI(target)
	if err != nil || u.Host != "" || u.Opaque != "" {
		return nil, false
	}
	return &http.Request{Method: http.MethodGet, URL: u, Host: host, RequestURI: target}, true
}
