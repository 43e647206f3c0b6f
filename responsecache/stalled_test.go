package responsecache_test

import (
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
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

// A client that leads and does not read is left behind when others read along, and not
// if nobody does.
func TestALeaderThatDoesNotRead(t *testing.T) {
	const size = 600 << 10
	for name, tt := range map[string]struct {
		policy responsecache.Policy
		write  func(w http.ResponseWriter)
	}{
		"piece by piece": {write: func(w http.ResponseWriter) { writePattern(w, size) }},
		"in one write":   {write: func(w http.ResponseWriter) { _, _ = w.Write(make([]byte, size)) }},
		"with a length": {write: func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", strconv.Itoa(size))
			writePattern(w, size)
		}},
		"flushed": {write: func(w http.ResponseWriter) {
			_ = http.NewResponseController(w).Flush()
			writePattern(w, size)
		}},
		"too long to be stored": {responsecache.Policy{MaxBody: 300 << 10}, func(w http.ResponseWriter) { writePattern(w, size) }},
		"coded": {responsecache.Policy{Compress: true}, func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/plain")
			random := make([]byte, size)
			_, _ = rand.Read(random)
			_, _ = w.Write(random)
		}},
		"coded, at the end": {responsecache.Policy{Compress: true}, func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/plain")
			random := make([]byte, 12<<10)
			_, _ = rand.Read(random)
			_, _ = w.Write(random)
			_, _ = w.Write(make([]byte, size-len(random)))
		}},
	} {
		for _, read := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, others read along: %v", name, read), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					tt.policy.TTL = time.Minute
					var runs atomic.Int32
					h := newCache(t, memoryStores(t), responsecache.Options{}).With(tt.policy).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
						runs.Add(1)
						tt.write(w)
					}))
					client, done := newStalled(), make(chan struct{})
					go func() {
						defer close(done)
						r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://example.com/page", nil)
						r.Header.Set("Accept-Encoding", "gzip")
						h.ServeHTTP(client, r)
					}()
					<-client.full
					if read {
						began := time.Now()
						assert.Equal(t, size, ask(t, h).Body.Len())
						assert.Less(t, time.Since(began), 10*time.Second)
						assert.EqualValues(t, 1, runs.Load())
					} else {
						time.Sleep(time.Hour)
						close(client.release)
					}
					<-done
					if !read && !tt.policy.Compress {
						assert.Equal(t, size, client.Body.Len())
					}
				})
			})
		}
	}
}

// One that takes little, but goes on, is waited for.
func TestALeaderThatIsSlow(t *testing.T) {
	for name, tt := range map[string]struct {
		pause time.Duration // after each 32 KiB
		left  bool
	}{
		"50 KiB in a second": {600 * time.Millisecond, false},
		"20 KiB in a second": {1600 * time.Millisecond, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const size = 600 << 10
				h := newCache(t, memoryStores(t), responsecache.Options{}).With(responsecache.Policy{TTL: time.Minute}).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					_ = http.NewResponseController(w).Flush()
					for range size / (32 << 10) {
						_, _ = w.Write(make([]byte, 32<<10))
					}
				}))
				client, done := &slow{stalled: newStalled(), pause: tt.pause}, make(chan struct{})
				go func() {
					defer close(done)
					h.ServeHTTP(client, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://example.com/page", nil))
				}()
				synctest.Wait()
				assert.Equal(t, size/(32<<10)*(32<<10), ask(t, h).Body.Len())
				<-done
				assert.Equal(t, tt.left, client.Body.Len() < size/(32<<10)*(32<<10))
			})
		})
	}
}

// slow is the writer of a client that takes a while for each write.
type slow struct {
	*stalled
	pause time.Duration
}

func (s *slow) Write(p []byte) (int, error) {
	select {
	case <-time.After(s.pause * time.Duration(len(p)) / (32 << 10)):
	case <-s.overdue:
		return 0, os.ErrDeadlineExceeded
	}
	return s.ResponseRecorder.Write(p)
}

// The same over a connection.
func TestAConnectionThatIsNotRead(t *testing.T) {
	const size = 12 << 20
	var runs atomic.Int32
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute, MaxBody: 2 * size}, func(w http.ResponseWriter, _ *http.Request) {
		runs.Add(1)
		writePattern(w, size)
	})
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET /page HTTP/1.1\r\nHost: example.com\r\n\r\n")
	require.NoError(t, err)
	_, err = conn.Read(make([]byte, 1)) // it leads
	require.NoError(t, err)
	n, sum, _ := s.sumOf(t, "/page")
	assert.EqualValues(t, size, n)
	assert.Equal(t, patternSum(size), sum)
	assert.EqualValues(t, 1, runs.Load())
}
