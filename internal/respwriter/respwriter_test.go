package respwriter_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/internal/respwriter"
)

// eachProtocol runs f on a real server of HTTP/1.1 and of HTTP/2.
func eachProtocol(t *testing.T, f func(t *testing.T, serve func(http.Handler) *httptest.Server)) {
	t.Helper()
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			f(t, func(h http.Handler) *httptest.Server {
				srv := httptest.NewUnstartedServer(h)
				srv.Config.ErrorLog = log.New(io.Discard, "", 0)
				if proto == "HTTP/2.0" {
					srv.EnableHTTP2 = true
					srv.StartTLS()
				} else {
					srv.Start()
				}
				t.Cleanup(srv.Close)
				return srv
			})
		})
	}
}

// fetch gets the server's page and fails on trouble.
func fetch(t *testing.T, srv *httptest.Server) (*http.Response, string) {
	t.Helper()
	res, err := srv.Client().Get(srv.URL)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, string(body)
}

// hooked is a middleware whose hook counts itself and sets a header.
func hooked(statuses *[]int, h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rw := respwriter.New(w, func(status int) bool {
			*statuses = append(*statuses, status)
			w.Header().Set("Hooked", "yes")
			return true
		})
		h(rw, r)
		rw.Finish()
	})
}

// copyFrom is io.Copy for a reader without WriteTo: w's ReadFrom does the work
// where there is one.
func copyFrom(w io.Writer, r io.Reader) (int64, error) { return io.Copy(w, struct{ io.Reader }{r}) }

// ways are all the ways in which the first final header comes, each with the
// status that it stands for and the body that it sends.
var ways = []struct {
	name    string
	handler http.HandlerFunc
	status  int
	body    string
}{
	{"nothing at all", func(http.ResponseWriter, *http.Request) {}, 200, ""},
	{"Write", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) }, 200, "hello"},
	{"empty Write", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(nil) }, 200, ""},
	{"WriteString", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.(io.StringWriter).WriteString("hello")
	}, 200, "hello"},
	{"WriteHeader", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, 204, ""},
	{"WriteHeader and Write", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(201)
		_, _ = io.WriteString(w, "made")
	}, 201, "made"},
	{"Flush", func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush()
		_, _ = io.WriteString(w, "hello")
	}, 200, "hello"},
	{"FlushError", func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, "hello")
	}, 200, "hello"},
	{"ReadFrom", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = copyFrom(w, strings.NewReader("hello"))
	}, 200, "hello"},
	{"ReadFrom of much", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = copyFrom(w, iotest.OneByteReader(strings.NewReader(strings.Repeat("x", 5000))))
	}, 200, strings.Repeat("x", 5000)},
	{"ReadFrom after Write", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello, ")
		_, _ = copyFrom(w, strings.NewReader("world"))
	}, 200, "hello, world"},
	{"ReadFrom of nothing, then an error page", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = copyFrom(w, strings.NewReader(""))
		w.WriteHeader(404)
	}, 404, ""},
	{"ReadFrom that fails at once, then an error page", func(w http.ResponseWriter, _ *http.Request) {
		if _, err := copyFrom(w, iotest.ErrReader(errors.New("disk gone"))); err != nil {
			w.WriteHeader(500)
		}
	}, 500, ""},
	{"103, then Write", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(103)
		_, _ = io.WriteString(w, "hello")
	}, 200, "hello"},
	{"103, then nothing", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(103) }, 200, ""},
	{"superfluous WriteHeader", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(202)
		w.WriteHeader(500)
		w.WriteHeader(103)
	}, 202, ""},
	{"http.Error", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 418) }, 418, "no\n"},
	{"http.Redirect", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/elsewhere", http.StatusNotModified)
	}, 304, ""},
}

func TestHookRunsOnceBeforeEveryFinalHeader(t *testing.T) {
	eachProtocol(t, func(t *testing.T, serve func(http.Handler) *httptest.Server) {
		for _, way := range ways {
			t.Run(way.name, func(t *testing.T) {
				var statuses []int
				res, body := fetch(t, serve(hooked(&statuses, way.handler)))
				assert.Equal(t, way.status, res.StatusCode)
				assert.Equal(t, way.body, body)
				assert.Equal(t, "yes", res.Header.Get("Hooked"), "headers that the hook sets go out")
				assert.Equal(t, []int{way.status}, statuses, "the hook runs once, with the handler's status")
			})
		}
	})
}

// What the handler gets and what the client sees must not depend on the
// wrapper being there.
func TestWrapperChangesNothing(t *testing.T) {
	eachProtocol(t, func(t *testing.T, serve func(http.Handler) *httptest.Server) {
		for _, way := range ways {
			t.Run(way.name, func(t *testing.T) {
				var statuses []int
				bare, bareBody := fetch(t, serve(way.handler))
				res, body := fetch(t, serve(hooked(&statuses, way.handler)))
				res.Header.Del("Hooked")
				bare.Header.Del("Date")
				res.Header.Del("Date")
				assert.Equal(t, bare.StatusCode, res.StatusCode)
				assert.Equal(t, bareBody, body)
				assert.Equal(t, bare.Header, res.Header)
				assert.Equal(t, bare.ContentLength, res.ContentLength)
			})
		}
	})
}

func TestHookThatRefusesReplacesTheResponse(t *testing.T) {
	eachProtocol(t, func(t *testing.T, serve func(http.Handler) *httptest.Server) {
		for _, way := range ways {
			t.Run(way.name, func(t *testing.T) {
				calls := 0
				res, body := fetch(t, serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					rw := respwriter.New(w, func(int) bool {
						calls++
						http.Error(w, "the middleware's own", 503)
						return false
					})
					way.handler(rw, r)
					rw.Finish()
					assert.True(t, rw.Refused())
				})))
				assert.Equal(t, 503, res.StatusCode)
				assert.Equal(t, "the middleware's own\n", body)
				assert.Equal(t, 1, calls)
			})
		}
	})
}

func TestRefusedWritesReportErrReplaced(t *testing.T) {
	rec := httptest.NewRecorder()
	w := respwriter.New(rec, func(int) bool { rec.WriteHeader(503); return false })
	for range 2 {
		_, err := w.Write([]byte("x"))
		require.ErrorIs(t, err, respwriter.ErrReplaced)
		_, err = w.WriteString("x")
		require.ErrorIs(t, err, respwriter.ErrReplaced)
		_, err = w.ReadFrom(strings.NewReader(strings.Repeat("x", 2000)))
		require.ErrorIs(t, err, respwriter.ErrReplaced)
		require.ErrorIs(t, w.FlushError(), respwriter.ErrReplaced)
		w.WriteHeader(103)
		w.WriteHeader(200)
	}
	assert.Equal(t, 503, rec.Code)
	assert.Empty(t, rec.Body.String())
	assert.False(t, rec.Flushed)
}

func TestInformationalResponsesComeBeforeTheHook(t *testing.T) {
	eachProtocol(t, func(t *testing.T, serve func(http.Handler) *httptest.Server) {
		var statuses []int
		srv := serve(hooked(&statuses, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "</a.css>; rel=preload")
			w.WriteHeader(103)
			w.WriteHeader(200)
		}))
		var hints []textproto.MIMEHeader
		ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				assert.Equal(t, 103, code)
				hints = append(hints, h)
				return nil
			},
		})
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
		require.NoError(t, err)
		res, err := srv.Client().Do(req)
		require.NoError(t, err)
		defer res.Body.Close()
		require.Len(t, hints, 1, "the 103 arrives")
		assert.Equal(t, "</a.css>; rel=preload", hints[0].Get("Link"))
		assert.Empty(t, hints[0].Get("Hooked"), "the hook has not run by then")
		assert.Equal(t, "yes", res.Header.Get("Hooked"))
	})
}

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

func TestServeContentRanges(t *testing.T) {
	var statuses []int
	content := strings.Repeat("0123456789", 1000)
	srv := httptest.NewServer(hooked(&statuses, func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "x.txt", time.Time{}, strings.NewReader(content))
	}))
	defer srv.Close()
	req, err := http.NewRequest(http.MethodGet, srv.URL, nil)
	require.NoError(t, err)
	req.Header.Set("Range", "bytes=1000-3999")
	res, err := srv.Client().Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	assert.Equal(t, content[1000:4000], string(body))
	assert.EqualValues(t, 3000, res.ContentLength)
	assert.Equal(t, []int{206}, statuses)
}

func TestStatus(t *testing.T) {
	w := respwriter.New(httptest.NewRecorder(), func(int) bool { return true })
	assert.Zero(t, w.Status())
	w.WriteHeader(103)
	assert.Zero(t, w.Status(), "a 1xx is not the final header")
	w.WriteHeader(404)
	w.WriteHeader(200)
	assert.Equal(t, 404, w.Status())
	w.Finish()
	assert.Equal(t, 404, w.Status())
	assert.False(t, w.Refused())
}

func TestInvalidStatusPanicsAndTheHookNeverSeesIt(t *testing.T) {
	for _, status := range []int{-1, 0, 99, 1000} {
		rec := httptest.NewRecorder()
		w := respwriter.New(rec, func(int) bool { t.Errorf("hook ran for %d", status); return true })
		assert.Panics(t, func() { w.WriteHeader(status) }, "%d", status)
		assert.Zero(t, w.Status())
	}
}

// handler writes → hook panics → a recovering middleware between the two writes
// its 500. Were the hook's turn over by then, that 500 would go out without it,
// or an empty 200 in its place.
func TestNoHeaderPassesAHookThatPanicked(t *testing.T) {
	rec := httptest.NewRecorder()
	calls := 0
	w := respwriter.New(rec, func(int) bool {
		calls++
		if calls == 1 {
			panic("hook")
		}
		rec.Header().Set("Hooked", "yes")
		return true
	})
	assert.PanicsWithValue(t, "hook", func() { _, _ = w.Write([]byte("x")) })
	assert.Zero(t, w.Status())
	assert.False(t, w.Refused())
	w.WriteHeader(500)
	assert.Equal(t, 500, rec.Code)
	assert.Equal(t, "yes", rec.Result().Header.Get("Hooked"))
	assert.Equal(t, 2, calls)
}

func TestHookCannotWriteThroughTheWriter(t *testing.T) {
	rec := httptest.NewRecorder()
	var w *respwriter.Writer
	w = respwriter.New(rec, func(int) bool {
		_, err := w.Write([]byte("from the hook"))
		assert.ErrorIs(t, err, respwriter.ErrReplaced)
		rec.Header().Set("Hooked", "yes")
		return true
	})
	_, err := w.Write([]byte("body"))
	require.NoError(t, err)
	assert.Equal(t, "body", rec.Body.String())
	assert.Equal(t, "yes", rec.Result().Header.Get("Hooked"))
}

func TestWriterThatCannotFlushOrHijack(t *testing.T) {
	bare := struct{ http.ResponseWriter }{httptest.NewRecorder()}
	w := respwriter.New(bare, func(int) bool { return true })
	_, _, err := w.Hijack()
	require.ErrorIs(t, err, http.ErrNotSupported)
	assert.Zero(t, w.Status())
	require.ErrorIs(t, w.FlushError(), http.ErrNotSupported)
}
