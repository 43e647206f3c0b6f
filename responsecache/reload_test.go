package responsecache_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
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

// A client that has a page and asks for it anew does not get the same, though its
// handler has not returned yet.
func TestAReloadOfWhatIsBeingStored(t *testing.T) {
	eachStore(t, func(t *testing.T, st stores) {
		var runs atomic.Int32
		proceed := make(chan struct{})
		s := serve(t, st, responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, _ *http.Request) {
			n := runs.Add(1)
			w.Header().Set("Content-Length", "5")
			fmt.Fprintf(w, "run %d", n)
			if n == 1 {
				_ = http.NewResponseController(w).Flush()
				<-proceed
			}
		})
		require.Equal(t, "run 1", s.open(t, "/page").read(t, 5))
		time.AfterFunc(200*time.Millisecond, func() { close(proceed) })
		assert.Equal(t, "run 2", s.get(t, "/page", "Cache-Control", "no-cache").body)
	})
}

// A client that asks for a page anew and gets one of its own does not take the fresh one from
// the others.
func TestAReloadThatIsNotForAll(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		for _, own := range [][2]string{{"Cache-Control", "private"}, {"Cache-Control", "no-store"}, {"Vary", "*"}, {"Set-Cookie", "a=b"}} {
			s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, counting(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("ETag", `"v1"`)
				if r.Header.Get("X-User") != "" {
					w.Header().Set(own[0], own[1])
				}
			}))
			require.Equal(t, "run 1", s.get(t, "/page").body)
			s.do(t, t.Context(), method, "/page", "X-User", "ada", "Cache-Control", "no-cache")
			assert.Equal(t, "run 1", s.get(t, "/page").body, "%s %v", method, own)
		}
	}
}

// A reload does not read along what the handler was asked for before it came. When that is
// over, one handler runs for all who have reloaded. What is young enough for a request, it
// reads along.
func TestAReloadOfWhatIsBeingMade(t *testing.T) {
	for directive, want := range map[string]string{"no-cache": "new", "max-age=0": "new", "min-fresh=3600": "new", "max-age=60": "old", "min-fresh=5": "old"} {
		t.Run(directive, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				content, runs, proceed := "old", 0, make(chan struct{})
				h := newCache(t, memoryStores(t), responsecache.Options{}).With(responsecache.Policy{TTL: time.Minute}).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					runs++
					fmt.Fprint(w, content)
					_ = http.NewResponseController(w).Flush()
					<-proceed
				}))
				first, answers := make(chan string), make(chan string)
				reload := func(answers chan<- string) {
					w, r := httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://example.com/page", nil)
					r.Header.Set("Cache-Control", directive)
					h.ServeHTTP(w, r)
					answers <- w.Body.String()
				}
				go reload(first)
				synctest.Wait()
				time.Sleep(time.Second)
				content = "new"
				for range 10 {
					go reload(answers)
				}
				synctest.Wait()
				time.Sleep(time.Second)
				close(proceed)
				assert.Equal(t, "old", <-first)
				for range 10 {
					assert.Equal(t, want, <-answers)
				}
				assert.LessOrEqual(t, runs, 2)
			})
		})
	}
}

// It does not wait for long.
func TestAReloadOfALongStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runs := 0
		h := newCache(t, memoryStores(t), responsecache.Options{}).With(responsecache.Policy{TTL: time.Minute}).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			runs++
			fmt.Fprintf(w, "run %d", runs)
			_ = http.NewResponseController(w).Flush()
			if runs == 1 {
				time.Sleep(time.Hour)
			}
		}))
		done := make(chan struct{})
		answer := func() string {
			w, r := httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://example.com/page", nil)
			r.Header.Set("Cache-Control", "no-cache")
			h.ServeHTTP(w, r)
			return w.Body.String()
		}
		go func() {
			defer close(done)
			answer()
		}()
		synctest.Wait()
		time.Sleep(time.Second)
		began := time.Now()
		assert.Equal(t, "run 2", answer())
		assert.Less(t, time.Since(began), 20*time.Second)
		<-done
	})
}
