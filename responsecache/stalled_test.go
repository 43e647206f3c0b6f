package responsecache_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/responsecache"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// stalled is the writer of a client that takes the header and 4 KiB, and then nothing
// before it is released or a deadline is over.
type stalled struct {
	*httptest.ResponseRecorder
	full    chan struct{} // closed when it takes no more
	isFull  sync.Once
	release chan struct{}
	overdue chan struct{}
}

func newStalled() *stalled {
	return &stalled{
		ResponseRecorder: httptest.NewRecorder(),
		full:             make(chan struct{}), release: make(chan struct{}), overdue: make(chan struct{}),
	}
}

func (s *stalled) Write(p []byte) (int, error) {
	if s.Body.Len()+len(p) > 4<<10 {
		s.isFull.Do(func() { close(s.full) })
		select {
		case <-s.release:
		case <-s.overdue:
			return 0, os.ErrDeadlineExceeded
		}
	}
	return s.ResponseRecorder.Write(p)
}

// SetWriteDeadline implements what http.ResponseController looks for.
func (s *stalled) SetWriteDeadline(at time.Time) error {
	time.AfterFunc(time.Until(at), func() { close(s.overdue) })
	return nil
}

// ask returns what h answers a request for the page.
func ask(t testing.TB, h http.Handler) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://example.com/page", nil))
	return w
}

// While one who does not read gets a stored page that a 304 has made fresh, or that hides a
// failure, others do not wait for that.
func TestAStoredPageForWhoDoesNotRead(t *testing.T) {
	for name, status := range map[string]int{"fresh again": http.StatusNotModified, "a failure": http.StatusServiceUnavailable} {
		for length, size := range map[string]int{"short": 100 << 10, "long": 600 << 10} {
			t.Run(name+", "+length, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var runs atomic.Int32
					c := newCache(t, memoryStores(t), responsecache.Options{})
					h := c.With(responsecache.Policy{TTL: time.Minute, StaleIfError: time.Hour}).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
						w.Header().Set("ETag", `"v"`)
						if runs.Add(1) > 1 {
							w.WriteHeader(status)
							return
						}
						writePattern(w, size)
					}))
					ask(t, h)
					require.NoError(t, c.SoftPurge(t.Context(), "http://example.com/page"))
					client, done := newStalled(), make(chan struct{})
					go func() {
						defer close(done)
						h.ServeHTTP(client, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://example.com/page", nil))
					}()
					<-client.full
					began := time.Now()
					w := ask(t, h)
					assert.Equal(t, http.StatusOK, w.Code)
					assert.Equal(t, size, w.Body.Len())
					assert.Zero(t, time.Since(began))
					assert.EqualValues(t, 2, runs.Load())
					close(client.release)
					<-done
					assert.Equal(t, size, client.Body.Len())
				})
			})
		}
	}
}
