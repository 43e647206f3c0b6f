package responsecache_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/responsecache"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The pictures of a camera are not stored, and their handler hears at once that its
// client has gone.
func TestATypeWithoutAnEndEndsWithItsClient(t *testing.T) {
	for _, typ := range []string{"text/event-stream", "multipart/x-mixed-replace; boundary=b", "Multipart/X-Mixed-Replace"} {
		t.Run(typ, func(t *testing.T) {
			ended, over := make(chan struct{}), make(chan struct{})
			s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", typ)
				fmt.Fprint(w, "picture")
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
					close(ended)
				case <-over:
				}
			})
			t.Cleanup(func() { close(over) })
			ctx, cancel := context.WithCancel(t.Context())
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
			require.NoError(t, err)
			resp, err := http.DefaultTransport.RoundTrip(req)
			require.NoError(t, err)
			assert.Contains(t, resp.Header.Get("Cache-Status"), "detail=stream")
			cancel()
			resp.Body.Close()
			select {
			case <-ended:
			case <-time.After(5 * time.Second):
				t.Error("the handler goes on")
			}
		})
	}
}

// A body that nobody reads any more is not made for ever.
func TestABodyWithoutAnEndEndsAMinuteAfterItsClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := memoryStores(t)
		var took time.Duration
		h := newCache(t, st, responsecache.Options{}).With(responsecache.Policy{TTL: time.Hour}).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for began := time.Now(); r.Context().Err() == nil && time.Since(began) < time.Hour; time.Sleep(time.Second) {
				fmt.Fprint(w, "more ")
				_ = http.NewResponseController(w).Flush()
				took = time.Since(began)
			}
		}))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Second, cancel)
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "http://example.com/", nil))
		assert.InDelta(t, 70, took.Seconds(), 2)
	})
}
