package respwriter_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/internal/respwriter"
)

func TestHijack(t *testing.T) {
	for name, before := range map[string]func(http.ResponseWriter){
		"at once": func(http.ResponseWriter) {},
		"after 101": func(w http.ResponseWriter) {
			w.Header().Set("Upgrade", "echo")
			w.Header().Set("Connection", "Upgrade")
			w.WriteHeader(http.StatusSwitchingProtocols)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var statuses []int
			srv := httptest.NewServer(hooked(&statuses, func(w http.ResponseWriter, _ *http.Request) {
				before(w)
				conn, _, err := w.(http.Hijacker).Hijack()
				if assert.NoError(t, err) {
					_, _ = io.WriteString(conn, "raw bytes\r\n")
					_ = conn.Close()
				}
				_, err = w.Write([]byte("late"))
				assert.ErrorIs(t, err, http.ErrHijacked)
			}))
			defer srv.Close()
			conn, err := net.Dial("tcp", srv.Listener.Addr().String())
			require.NoError(t, err)
			defer conn.Close()
			_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			got, err := io.ReadAll(bufio.NewReader(conn))
			require.NoError(t, err)
			assert.True(t, strings.HasSuffix(string(got), "raw bytes\r\n"), "%q", got)
			if name == "after 101" {
				assert.Contains(t, string(got), "Hooked: yes\r\n")
			}
			assert.Equal(t, []int{101}, statuses)
		})
	}
}

// A handler that cannot have the connection still gets to answer, and the hook
// learns the status that is really sent.
func TestHijackOfHTTP2LeavesTheResponseOpen(t *testing.T) {
	var statuses []int
	srv := httptest.NewUnstartedServer(hooked(&statuses, func(w http.ResponseWriter, _ *http.Request) {
		_, _, err := w.(http.Hijacker).Hijack()
		assert.ErrorIs(t, err, http.ErrNotSupported)
		http.Error(w, "no websockets here", http.StatusNotImplemented)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	res, _ := fetch(t, srv)
	assert.Equal(t, 501, res.StatusCode)
	assert.Equal(t, []int{501}, statuses)
}

func TestResponseControllerReachesTheServer(t *testing.T) {
	eachProtocol(t, func(t *testing.T, serve func(http.Handler) *httptest.Server) {
		var statuses []int
		res, body := fetch(t, serve(hooked(&statuses, func(w http.ResponseWriter, _ *http.Request) {
			rc := http.NewResponseController(w)
			assert.NoError(t, rc.SetReadDeadline(time.Now().Add(time.Minute)))
			assert.NoError(t, rc.SetWriteDeadline(time.Now().Add(time.Minute)))
			assert.NoError(t, rc.EnableFullDuplex())
			assert.Empty(t, statuses, "none of these is a header")
			_, _ = io.WriteString(w, "ok")
		})))
		assert.Equal(t, 200, res.StatusCode)
		assert.Equal(t, "ok", body)
	})
	t.Run("a write deadline in the past ends the response", func(t *testing.T) {
		var statuses []int
		srv := httptest.NewServer(hooked(&statuses, func(w http.ResponseWriter, _ *http.Request) {
			assert.NoError(t, http.NewResponseController(w).SetWriteDeadline(time.Now().Add(-time.Second)))
			_, _ = io.WriteString(w, "never arrives")
		}))
		defer srv.Close()
		res, err := srv.Client().Get(srv.URL)
		if err == nil {
			res.Body.Close()
		}
		require.Error(t, err)
	})
}

// readFromSpy sees which reader arrives at the wrapped writer's ReadFrom.
type readFromSpy struct {
	http.ResponseWriter
	readers []io.Reader
}

func (s *readFromSpy) ReadFrom(r io.Reader) (int64, error) {
	s.readers = append(s.readers, r)
	return io.Copy(struct{ io.Writer }{s.ResponseWriter}, r)
}

// net/http hands a file to the kernel only if its ReadFrom gets the file.
func TestCopyReachesTheServersReadFrom(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	name := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(name, content, 0o600))
	file, err := os.Open(name)
	require.NoError(t, err)
	defer file.Close()

	rec := httptest.NewRecorder()
	spy := &readFromSpy{ResponseWriter: rec}
	outer := respwriter.New(spy, func(int) bool { return true })
	w := respwriter.New(outer, func(int) bool { return true }) // nested, as two middlewares do
	n, err := io.Copy(w, file)
	require.NoError(t, err)
	assert.EqualValues(t, len(content), n)
	assert.Equal(t, content, rec.Body.Bytes())
	require.NotEmpty(t, spy.readers)
	_, isFile := spy.readers[len(spy.readers)-1].(interface{ Fd() uintptr })
	assert.True(t, isFile, "the rest is read from the file itself, got %T", spy.readers[len(spy.readers)-1])
}
