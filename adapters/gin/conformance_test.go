package ginadapter_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/adapters/adaptertest"
	ginadapter "github.com/herdless/herdless/adapters/gin"
	"github.com/herdless/herdless/internal/redistest"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.TestMode)
	os.Exit(redistest.Run(m))
}

// plain is a middleware that passes everything on, with a writer that can do
// nothing by itself.
func plain(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(plainWriter{w}, r)
	})
}

type plainWriter struct{ http.ResponseWriter }

func (w plainWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// ginWriter is what gin middleware puts into c.Writer.
type ginWriter struct{ gin.ResponseWriter }

func (w ginWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func replaceWriter(c *gin.Context) {
	c.Writer = ginWriter{c.Writer}
	c.Next()
}

// native are routes by way of each of gin's helpers.
func native(t *testing.T) []adaptertest.Route {
	file := filepath.Join(t.TempDir(), "file.txt")
	require.NoError(t, os.WriteFile(file, bytes.Repeat([]byte("file "), 50_000), 0o600))
	get := func(path string, h gin.HandlerFunc) adaptertest.Route {
		return adaptertest.Route{Method: http.MethodGet, Path: "/gin/" + path, Native: h}
	}
	return []adaptertest.Route{
		get("string", func(c *gin.Context) { c.String(200, "hello %s", "gin") }),
		get("json", func(c *gin.Context) { c.JSON(201, gin.H{"a": 1}) }),
		get("data", func(c *gin.Context) { c.Data(200, "application/x", []byte{0, 1, 2}) }),
		get("reader", func(c *gin.Context) {
			c.DataFromReader(200, 6, "text/plain", bytes.NewBufferString("reader"), map[string]string{"X-Handler": "reader"})
		}),
		get("reader-without-length", func(c *gin.Context) {
			c.DataFromReader(200, -1, "text/plain", struct{ io.Reader }{bytes.NewBufferString("reader")}, nil)
		}),
		get("xml", func(c *gin.Context) { c.XML(200, gin.H{"a": 1}) }),
		get("file", func(c *gin.Context) { c.File(file) }),
		get("no-file", func(c *gin.Context) { c.File(file + ".gone") }),
		get("attachment", func(c *gin.Context) { c.FileAttachment(file, "name.txt") }),
		get("redirect", func(c *gin.Context) { c.Redirect(http.StatusFound, "/elsewhere") }),
		get("status", func(c *gin.Context) { c.Status(http.StatusNoContent) }),
		get("status-changed", func(c *gin.Context) { c.Status(500); c.Status(202) }),
		get("status-200", func(c *gin.Context) { c.Status(200) }),
		get("status-404", func(c *gin.Context) { c.Status(404) }),
		get("status-and-header", func(c *gin.Context) { c.Status(301); c.Header("Location", "/elsewhere") }),
		get("json-204", func(c *gin.Context) { c.JSON(204, gin.H{"not": "sent"}) }),
		get("abort", func(c *gin.Context) { c.AbortWithStatus(http.StatusForbidden) }),
		get("abort-json", func(c *gin.Context) { c.AbortWithStatusJSON(http.StatusForbidden, gin.H{"error": "no"}) }),
		get("abort-error", func(c *gin.Context) { _ = c.AbortWithError(http.StatusBadGateway, errors.New("down")) }),
		get("stream", func(c *gin.Context) {
			n := 0
			c.Stream(func(w io.Writer) bool {
				n++
				_, _ = io.WriteString(w, "part ")
				return n < 3
			})
		}),
		get("sse", func(c *gin.Context) {
			c.SSEvent("message", "one")
			c.Writer.Flush()
			c.SSEvent("message", gin.H{"two": 2})
		}),
		get("header-now", func(c *gin.Context) {
			c.Status(202)
			c.Writer.WriteHeaderNow()
			c.String(500, "body")
		}),
		get("cookie", func(c *gin.Context) {
			c.SetCookie("a", "b", 10, "/", "", true, true)
			c.String(200, "cookie")
		}),
		get("copy", func(c *gin.Context) {
			done := make(chan string)
			go func(c *gin.Context) { done <- c.Query("q") + c.FullPath() }(c.Copy())
			c.String(200, <-done)
		}),
	}
}

// arrangements are the places in which Wrap stands.
var arrangements = map[string]func(r *gin.Engine, mw func(http.Handler) http.Handler){
	"engine": func(r *gin.Engine, mw func(http.Handler) http.Handler) { r.Use(ginadapter.Wrap(mw)) },
	"between other wraps": func(r *gin.Engine, mw func(http.Handler) http.Handler) {
		r.Use(ginadapter.Wrap(plain), ginadapter.Wrap(mw), ginadapter.Wrap(plain))
	},
	"between gin middleware that replaces c.Writer": func(r *gin.Engine, mw func(http.Handler) http.Handler) {
		r.Use(gin.LoggerWithWriter(io.Discard), replaceWriter, ginadapter.Wrap(mw), replaceWriter)
	},
}

func TestConformance(t *testing.T) {
	for name, use := range arrangements {
		t.Run(name, func(t *testing.T) {
			adaptertest.Run(t, adaptertest.Adapter{
				New: func(_ *testing.T, mw func(http.Handler) http.Handler, routes []adaptertest.Route) http.Handler {
					r := gin.New()
					r.HandleMethodNotAllowed = true
					if mw != nil {
						use(r, mw)
					}
					for _, route := range routes {
						if h, ok := route.Native.(gin.HandlerFunc); ok {
							r.Handle(route.Method, route.Path, h)
							continue
						}
						r.Handle(route.Method, route.Path, gin.WrapF(route.Handler))
					}
					return r
				},
				Native: native(t),
			})
		})
	}
}
