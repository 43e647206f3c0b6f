package responsecache_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/responsecache"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Whatever the profile, and whoever comes first: at once on one URL, each gets the own
// page, or one that is declared to be for all.
func TestUsersAtOnceOnOneURL(t *testing.T) {
	for _, profile := range []responsecache.Profile{responsecache.Safe, responsecache.Conformance} {
		for _, control := range []string{"no-store", "private, max-age=60", "max-age=60", "public, max-age=60", "s-maxage=60", "max-age=60, must-revalidate"} {
			t.Run(fmt.Sprint(profile, " ", control), func(t *testing.T) {
				c := newCache(t, memoryStores(t), responsecache.Options{Profile: profile})
				var runs atomic.Int32
				s := newServer(t, c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					runs.Add(1)
					time.Sleep(5 * time.Millisecond)
					w.Header().Set("Cache-Control", control)
					_ = http.NewResponseController(w).Flush() // so that others could read along
					time.Sleep(5 * time.Millisecond)
					fmt.Fprint(w, "for ", r.Header.Get("Authorization"))
				})))
				shared := strings.Contains(control, "public") || strings.Contains(control, "s-maxage") || strings.Contains(control, "must-revalidate")
				for range 5 {
					var wg sync.WaitGroup
					for user := range 6 {
						name := fmt.Sprint("user ", user)
						if user == 5 {
							name = "" // nobody
						}
						wg.Go(func() {
							var fields []string
							if name != "" {
								fields = []string{"Authorization", name}
							}
							got := s.get(t, "/page", fields...).body
							if shared {
								assert.True(t, strings.HasPrefix(got, "for "))
								return
							}
							assert.Equal(t, "for "+name, got)
						})
					}
					wg.Wait()
				}
				if shared {
					assert.Less(t, runs.Load(), int32(15), "it is shared")
				}
			})
		}
	}
}

// Ten requests that mint a session get ten, and nothing is stored, in neither profile
// unless the response states a lifetime.
func TestResponsesThatSetCookies(t *testing.T) {
	for _, profile := range []responsecache.Profile{responsecache.Safe, responsecache.Conformance} {
		c := newCache(t, memoryStores(t), responsecache.Options{Profile: profile})
		var n atomic.Int32
		s := newServer(t, c.With(responsecache.Policy{}).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.SetCookie(w, &http.Cookie{Name: "id", Value: fmt.Sprint(n.Add(1))})
			w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
			if profile == responsecache.Safe {
				w.Header().Set("Cache-Control", "public, max-age=60")
			}
		})))
		var mu sync.Mutex
		seen := map[string]bool{}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				set := s.get(t, "/page").header.Get("Set-Cookie")
				mu.Lock()
				defer mu.Unlock()
				seen[set] = true
			})
		}
		wg.Wait()
		assert.Len(t, seen, 10, "profile %d", profile)
	}
}

// What a request with a cookie has brought is stored if it is declared public, without
// waiting for one that has none, and is not if it is not.
func TestACookieFillsWhatIsPublic(t *testing.T) {
	eachStore(t, func(t *testing.T, st stores) {
		public := serve(t, st, responsecache.Policy{}, counting(headers("Cache-Control", "public, max-age=60")))
		first := public.get(t, "/public", "Cookie", "a=1")
		require.Contains(t, first.cacheStatus(), "stored")
		assert.Equal(t, first.body, public.get(t, "/public", "Cookie", "a=2").body)
		assert.Equal(t, first.body, public.get(t, "/public").body)

		plain := serve(t, st, responsecache.Policy{}, counting(headers("Cache-Control", "max-age=60")))
		mine := plain.get(t, "/plain", "Cookie", "a=1").body
		assert.NotEqual(t, mine, plain.get(t, "/plain", "Cookie", "a=2").body)
		theirs := plain.get(t, "/plain")
		assert.NotEqual(t, mine, theirs.body)
		assert.Contains(t, theirs.cacheStatus(), "stored", "it did not keep others from being served")
		assert.Equal(t, theirs.body, plain.get(t, "/plain").body)
	})
}
