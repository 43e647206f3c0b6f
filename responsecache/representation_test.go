package responsecache_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/internal/respwriter"
	"github.com/herdless/herdless/responsecache"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The response to a POST that stands for a page is not stored if middleware outside
// of the cache marks it as personal at the last moment.
func TestARepresentationWithASessionIsNotStored(t *testing.T) {
	c := newCache(t, memoryStores(t), responsecache.Options{})
	cached := c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Content-Location", "/page")
		fmt.Fprint(w, r.Header.Get("X-User"))
	}))
	s := newServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rw := respwriter.New(w, func(int) bool {
			if r.Header.Get("X-User") == "alice" {
				w.Header().Add("Set-Cookie", "id=alice")
				w.Header().Set("Cache-Control", "private")
			}
			return true
		})
		cached.ServeHTTP(rw, r)
		rw.Finish()
	}))
	assert.Equal(t, "alice", s.do(t, t.Context(), "POST", "/page", "X-User", "alice").body)
	assert.Equal(t, "bob", s.get(t, "/page", "X-User", "bob").body)
}

// failingWriter is a client that goes away after the first bytes.
type failingWriter struct {
	*httptest.ResponseRecorder
}

func TestARepresentationWhoseClientLeavesIsNotStored(t *testing.T) {
	c := newCache(t, memoryStores(t), responsecache.Options{})
	h := c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Content-Location", "/page")
		fmt.Fprint(w, "half ")
		fmt.Fprint(w, "whole")
	}))
	h.ServeHTTP(&failingWriter{ResponseRecorder: httptest.NewRecorder()}, httptest.NewRequest("POST", "http://example.com/page", nil))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "http://example.com/page", nil))
	assert.Equal(t, "half whole", w.Body.String())
}

// Who has sent the POST sees the Date of what is stored, and so does who updates it by a
// HEAD: if that were left to net/http, it could be of the next second.
func TestARepresentationHasOneDate(t *testing.T) {
	c := newCache(t, memoryStores(t), responsecache.Options{})
	h := c.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Content-Location", "/page")
		fmt.Fprint(w, "page")
	}))
	date := func(method string, header ...string) string {
		w, r := httptest.NewRecorder(), httptest.NewRequest(method, "http://example.com/page", nil)
		if len(header) > 0 {
			r.Header.Set(header[0], header[1])
		}
		h.ServeHTTP(w, r)
		return w.Result().Header.Get("Date")
	}
	posted := date("POST")
	assert.NotEmpty(t, posted)
	assert.Equal(t, posted, date("GET"))
	updated := date("HEAD", "Cache-Control", "no-cache")
	assert.NotEmpty(t, updated)
	assert.Equal(t, updated, date("GET"))
}

// A Date that the handler, or middleware around the cache, has set is the only one, however
// its name is spelled, and stays the same.
func TestTheDateOfARepresentationThatHasOne(t *testing.T) {
	ago := func(seconds int) []string {
		return []string{time.Now().Add(-time.Duration(seconds) * time.Second).UTC().Format(http.TimeFormat)}
	}
	for _, method := range []string{"POST", "HEAD"} {
		for name, outside := range map[string]bool{"date": false, "Date": true} {
			c := newCache(t, memoryStores(t), responsecache.Options{})
			h := c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				w.Header().Set("Content-Location", "/page")
				w.Header().Set("ETag", `"v1"`)
				if !outside && r.Method == method {
					w.Header()[name] = ago(20)
				}
				fmt.Fprint(w, "page")
			}))
			dates := func(method string) []string {
				w, r := httptest.NewRecorder(), httptest.NewRequest(method, "http://example.com/page", nil)
				if method == "HEAD" {
					r.Header.Set("Cache-Control", "no-cache")
				}
				if outside && method != "GET" {
					w.Header()["Date"] = ago(20)
				}
				h.ServeHTTP(w, r)
				var all []string
				for name, values := range w.Header() {
					if http.CanonicalHeaderKey(name) == "Date" {
						all = append(all, values...)
					}
				}
				return all
			}
			if method == "HEAD" {
				_ = dates("GET")
			}
			sent := dates(method)
			assert.Len(t, sent, 1, "%s, %s", method, name)
			assert.Equal(t, sent, dates("GET"), "%s, %s", method, name)
		}
	}
}

// On a route with Compress what is stored is in no coding.
func TestARepresentationInACodingIsNotStored(t *testing.T) {
	s := serve(t, memoryStores(t), responsecache.Policy{Compress: true}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Content-Location", "/page")
		w.Header().Set("Vary", "Accept-Encoding")
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			w.Header().Set("Content-Encoding", "gzip")
			fmt.Fprint(w, "GZIP")
			return
		}
		fmt.Fprint(w, "plain")
	})
	_ = s.do(t, t.Context(), "POST", "/page", "Accept-Encoding", "gzip")
	assert.Equal(t, "plain", s.get(t, "/page").body)
}

func TestARepresentationThatIsTakenBackIsNotStored(t *testing.T) {
	s := serve(t, memoryStores(t), responsecache.Policy{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Content-Location", "/page")
		fmt.Fprint(w, "half ")
		if r.Method == "POST" {
			http.Error(w, "oops", 500)
			return
		}
		fmt.Fprint(w, "whole")
	})
	s.Config.ErrorLog = discardLog
	_ = s.do(t, t.Context(), "POST", "/page")
	assert.Equal(t, "half whole", s.get(t, "/page").body)
}

// What purges the page while the client still reads the response to the POST has come
// after what the response was made of.
func TestARepresentationDoesNotOutliveAPurge(t *testing.T) {
	eachStore(t, func(t *testing.T, stores stores) {
		for name, purge := range map[string]func(t *testing.T, other *server){
			"the URL": func(t *testing.T, other *server) {
				assert.NoError(t, other.cache.Purge(t.Context(), "http://example.com/page"))
			},
			"a tag": func(t *testing.T, other *server) {
				assert.NoError(t, other.cache.PurgeTags(t.Context(), "tag"))
			},
			"another change": func(t *testing.T, other *server) {
				assert.Equal(t, 200, other.do(t, t.Context(), "PUT", "/page").status)
			},
			"another representation": func(t *testing.T, other *server) {
				assert.Equal(t, 200, other.do(t, t.Context(), "POST", "/page").status)
			},
			"nothing": nil,
		} {
			var hold chan func() // what happens after the header of a POST
			handler := func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				w.Header().Set("Surrogate-Key", "tag")
				if r.Method != "POST" {
					fmt.Fprint(w, r.Method)
					return
				}
				w.Header().Set("Content-Location", "/page")
				_ = http.NewResponseController(w).Flush()
				select {
				case during := <-hold:
					during()
				default:
				}
				fmt.Fprint(w, "POST")
			}
			one, other := serve(t, stores, responsecache.Policy{}, handler), serve(t, stores, responsecache.Policy{}, handler)
			hold = make(chan func(), 1)
			hold <- func() {
				if purge != nil {
					purge(t, other)
				}
			}
			assert.Equal(t, "POST", one.do(t, t.Context(), "POST", "/page").body)
			want := "GET"
			if purge == nil {
				want = "POST"
			}
			assert.Equal(t, want, other.get(t, "/page").body, name)
			assert.NoError(t, one.cache.PurgeAll(t.Context()))
		}
	})
}

// A client that reads the response to its POST slowly holds nobody up who asks for the page.
func TestARepresentationUnderWayHoldsNobodyUp(t *testing.T) {
	eachStore(t, func(t *testing.T, stores stores) {
		header, end := make(chan struct{}), make(chan struct{})
		s := serve(t, stores, responsecache.Policy{}, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			if r.Method == "POST" {
				w.Header().Set("Content-Location", "/page")
				_ = http.NewResponseController(w).Flush()
				close(header)
				<-end
			}
			fmt.Fprint(w, r.Method)
		})
		posted := make(chan string)
		go func() { posted <- s.do(t, t.Context(), "POST", "/page").body }()
		<-header
		assert.Equal(t, "GET", s.get(t, "/page").body)
		assert.Contains(t, s.get(t, "/page").cacheStatus(), "hit")
		close(end)
		assert.Equal(t, "POST", <-posted)
		assert.Equal(t, "GET", s.get(t, "/page").body, "it is newer")
	})
}

// What the handler makes of its request does not change for whom the response was made, nor
// which pages it has changed.
func TestAHandlerThatChangesItsRequest(t *testing.T) {
	t.Run("Authorization", func(t *testing.T) {
		s := serve(t, memoryStores(t), responsecache.Policy{}, func(w http.ResponseWriter, r *http.Request) {
			user := r.Header.Get("Authorization")
			r.Header.Del("Authorization")
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Set("Content-Location", "/page")
			fmt.Fprint(w, "for ", user)
		})
		require.Equal(t, "for ada", s.do(t, t.Context(), http.MethodPost, "/page", "Authorization", "ada").body)
		assert.Equal(t, "for ", s.get(t, "/page").body)
	})
	t.Run("Host", func(t *testing.T) {
		s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, counting(func(w http.ResponseWriter, r *http.Request) {
			r.Host = "backend.example"
			w.Header().Set("Location", "/list")
		}))
		require.Equal(t, "run 1", s.get(t, "/list").body)
		s.do(t, t.Context(), http.MethodPost, "/form")
		assert.Equal(t, "run 3", s.get(t, "/list").body)
	})
	t.Run("HEAD of a variant", func(t *testing.T) {
		s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Vary", "Accept-Language")
			w.Header().Set("ETag", `"v1"`)
			fmt.Fprint(w, "in ", r.Header.Get("Accept-Language"))
			r.Header.Del("Accept-Language")
		})
		require.Equal(t, "in de", s.get(t, "/page", "Accept-Language", "de").body)
		s.do(t, t.Context(), http.MethodHead, "/page", "Accept-Language", "de", "Cache-Control", "no-cache")
		assert.Equal(t, "in ", s.get(t, "/page").body)
	})
}

// After a second the page that a GET has made meanwhile is gone: there is no telling whether
// what the POST brings is newer.
func TestARepresentationThatTakesLong(t *testing.T) {
	for name, tt := range map[string]struct {
		takes time.Duration
		want  string
	}{
		"0.9 s": {900 * time.Millisecond, "old"},
		"1.1 s": {1100 * time.Millisecond, "new"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				content := "old"
				h := newCache(t, memoryStores(t), responsecache.Options{}).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Cache-Control", "max-age=60")
					body := content
					if r.Method == "POST" {
						w.Header().Set("Content-Location", "/page")
						w.WriteHeader(http.StatusOK)
						time.Sleep(tt.takes)
						content = "new"
					}
					fmt.Fprint(w, body)
				}))
				h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), "POST", "http://example.com/page", nil))
				assert.Equal(t, tt.want, ask(t, h).Body.String())
			})
		})
	}
}

// What follows the header in another way than by Write is not in the record.
func TestARepresentationThatIsNotAllIsNotStored(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, w http.ResponseWriter){
		"hijacked": func(t *testing.T, w http.ResponseWriter) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if assert.NoError(t, err) {
				conn.Close()
			}
		},
		"a trailer": func(_ *testing.T, w http.ResponseWriter) { w.Header().Set(http.TrailerPrefix+"X-Sum", "1") },
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, memoryStores(t), responsecache.Policy{}, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				w.Header().Set("Content-Location", "/page")
				fmt.Fprint(w, r.Method)
				_ = http.NewResponseController(w).Flush()
				if r.Method == "POST" {
					end(t, w)
				}
			})
			_ = s.do(t, t.Context(), "POST", "/page")
			assert.Equal(t, "GET", s.get(t, "/page").body)
		})
	}
}

// Of a part of the page net/http would find out another type.
func TestTheTypeOfARepresentation(t *testing.T) {
	for name, first := range map[string]func(w http.ResponseWriter){
		"at once":          func(http.ResponseWriter) {},
		"after the header": func(w http.ResponseWriter) { w.WriteHeader(http.StatusOK) },
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, memoryStores(t), responsecache.Policy{}, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				w.Header().Set("Content-Location", "/page")
				first(w)
				fmt.Fprint(w, "plain text <html><script>alert(1)</script>")
			})
			posted := s.do(t, t.Context(), "POST", "/page")
			part := s.get(t, "/page", "Range", "bytes=11-")
			require.Contains(t, part.cacheStatus(), "hit")
			assert.Equal(t, "text/plain; charset=utf-8", posted.header.Get("Content-Type"))
			assert.Equal(t, "text/plain; charset=utf-8", part.header.Get("Content-Type"))
		})
	}
}
