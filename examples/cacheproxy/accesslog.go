package main

import (
	"bufio"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"
)

// accessLog writes a line for each request, with what the cache says of it. A response
// that did not come to a good end is broken, whatever its status.
func accessLog(next http.Handler, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		rec := &counter{ResponseWriter: w}
		broken := true // by a panic
		defer func() { //nolint:contextcheck // the request has it
			log.InfoContext(r.Context(), "request",
				"method", r.Method, "host", r.Host, "uri", r.RequestURI, "status", rec.status, "bytes", rec.bytes,
				"took", time.Since(began).Round(time.Microsecond), "cache", strings.Join(w.Header()["Cache-Status"], ", "),
				"broken", broken)
		}()
		next.ServeHTTP(rec, r)
		broken = false
	})
}

// counter is a ResponseWriter that counts.
type counter struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (c *counter) WriteHeader(status int) {
	if c.status < 200 {
		c.status = status
	}
	c.ResponseWriter.WriteHeader(status)
}

func (c *counter) Write(p []byte) (int, error) {
	if c.status < 200 {
		c.status = http.StatusOK
	}
	n, err := c.ResponseWriter.Write(p)
	c.bytes += int64(n)
	return n, err
}

// Flush implements http.Flusher.
func (c *counter) Flush() { _ = http.NewResponseController(c.ResponseWriter).Flush() }

// Hijack implements http.Hijacker, which gin asks for without looking behind Unwrap.
func (c *counter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(c.ResponseWriter).Hijack()
}

// Unwrap leads http.ResponseController to the server's writer.
func (c *counter) Unwrap() http.ResponseWriter { return c.ResponseWriter }
