package respwriter_test

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
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
	{"http.Error", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusTeapot) }, 418, "no\n"},
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
						http.Error(w, "the middleware's own", http.StatusServiceUnavailable)
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
	spy := &statusSpy{ResponseWriter: rec}
	w := respwriter.New(spy, func(int) bool { rec.WriteHeader(503); return false })
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
	assert.Empty(t, spy.statuses, "what reached the wrapped writer")
}

// statusSpy sees every status that arrives.
type statusSpy struct {
	http.ResponseWriter
	statuses []int
}

func (s *statusSpy) WriteHeader(status int) {
	s.statuses = append(s.statuses, status)
	s.ResponseWriter.WriteHeader(status)
}

// growing is a reader of a file that grows: it ends, and then goes on.
type growing struct{ reads int }

func (g *growing) Read(p []byte) (int, error) {
	g.reads++
	if g.reads == 1 {
		return 0, io.EOF
	}
	return copy(p, "more"), io.EOF
}

func TestReadFromStopsAtTheFirstEnd(t *testing.T) {
	rec := httptest.NewRecorder()
	w := respwriter.New(rec, func(int) bool { return true })
	n, err := w.ReadFrom(new(growing))
	require.NoError(t, err)
	assert.Zero(t, n)
	assert.Empty(t, rec.Body.String(), "nothing passes without the hook")
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
