package responsecache

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/herdless/herdless/internal/respwriter"
)

// recorder is the ResponseWriter of a handler whose response may be stored: it
// passes everything on to the client at once, and keeps a copy.
//
// It is not safe for concurrent use, as no ResponseWriter is.
type recorder struct {
	w       http.ResponseWriter
	x       *exchange
	reason  string      // why the request went to the handler
	outer   http.Header // set before the handler was reached
	status  int         // 0: no final header yet
	header  http.Header // what the handler set, and may be stored
	length  string      // the Content-Length that the handler declared
	age     time.Duration
	verdict verdict
	body    []byte
	began   time.Time // when the header went out
	keep    bool      // everything so far is recorded
	written int64     // bytes of the body
	gone    error     // the client's connection has failed

	// unshareable is called when it turns out that the response is for this
	// client only, before the handler has returned.
	unshareable func()
}

func newRecorder(x *exchange, reason string) *recorder {
	return &recorder{w: x.w, x: x, reason: reason, outer: x.w.Header().Clone()}
}

// Header implements http.ResponseWriter.
func (rec *recorder) Header() http.Header { return rec.w.Header() }

// WriteHeader implements http.ResponseWriter. Informational responses pass.
func (rec *recorder) WriteHeader(status int) {
	if status < 200 && status != http.StatusSwitchingProtocols {
		rec.w.WriteHeader(status)
		return
	}
	if rec.status != 0 {
		rec.keep = rec.keep && status == rec.status // it wants to take back what it has begun
		rec.w.WriteHeader(status)                   // net/http logs the superfluous call
		return
	}
	rec.status = status
	h := rec.w.Header()
	policy := &rec.x.route.policy
	addVary(h, policy.Vary)
	if h.Get("Date") == "" {
		h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	}
	handlers := canonical(h)
	params := fwd(rec.reason)
	if policy.judge(status, handlers, handlers).ttl > 0 {
		params += "; stored"
	}
	rec.x.addStatus(params)
	rec.w.WriteHeader(status)
	// Only now have middleware outside of the cache added what they add at
	// the last moment, a session's cookie for one.
	rec.verdict = policy.judge(status, handlers, canonical(h))
	rec.keep = rec.verdict.ttl > 0
	rec.began = time.Now()
	rec.header = difference(handlers, rec.outer)
	rec.length, rec.age = handlers.Get("Content-Length"), initialAge(handlers)
	if !rec.keep {
		rec.unshareable()
	}
}

// canonical returns a copy of h in which each field has one name: net/http sends
// h["set-cookie"] as well as h["Set-Cookie"].
func canonical(h http.Header) http.Header {
	c := make(http.Header, len(h))
	for name, values := range h {
		name = http.CanonicalHeaderKey(name)
		c[name] = append(c[name], values...)
	}
	return c
}

// addVary adds those names to the response's Vary that it does not have yet.
func addVary(h http.Header, names []string) {
	for _, name := range names {
		if !listed(h, "Vary", name) {
			h.Add("Vary", http.CanonicalHeaderKey(name))
		}
	}
}

func listed(h http.Header, field, member string) bool {
	return slices.Contains(members(h.Values(field)), member)
}

// members returns the members of a list of tokens, in lower case.
func members(values []string) (list []string) {
	for _, value := range values {
		for member := range strings.SplitSeq(value, ",") {
			if member = token(member); member != "" {
				list = append(list, member)
			}
		}
	}
	return list
}

// begin sends the header if the handler has not.
func (rec *recorder) begin() {
	if rec.status == 0 {
		rec.WriteHeader(http.StatusOK)
	}
}

// Write implements http.ResponseWriter. If the client is gone, a response that
// may be stored is recorded to its end all the same: others wait for it.
func (rec *recorder) Write(p []byte) (int, error) {
	rec.sniff(p)
	rec.begin()
	rec.record(p)
	if rec.gone == nil {
		n, err := rec.w.Write(p)
		if err == nil {
			return n, nil
		}
		if isHandlersFault(err) {
			rec.keep = false
			return n, err
		}
		rec.gone = err
	}
	if !rec.keep {
		return 0, rec.gone
	}
	return len(p), nil
}

// sniff sets the Content-Type that net/http would set, because it does so too
// late for the record.
func (rec *recorder) sniff(p []byte) {
	h := rec.w.Header()
	_, set := h["Content-Type"]
	if rec.status == 0 && !set && h.Get("Content-Encoding") == "" && h.Get("Transfer-Encoding") == "" && len(p) > 0 {
		h.Set("Content-Type", http.DetectContentType(p))
	}
}

// isHandlersFault reports an error of Write that says something about the
// response and nothing about the connection.
func isHandlersFault(err error) bool {
	return errors.Is(err, http.ErrContentLength) || errors.Is(err, http.ErrBodyNotAllowed) || errors.Is(err, respwriter.ErrReplaced)
}

func (rec *recorder) record(p []byte) {
	rec.written += int64(len(p))
	if !rec.keep {
		return
	}
	if rec.written > int64(rec.x.route.cache.maxBody) {
		rec.keep, rec.body = false, nil
		rec.unshareable()
		return
	}
	rec.body = append(rec.body, p...)
}

// WriteString implements io.StringWriter.
func (rec *recorder) WriteString(s string) (int, error) { return rec.Write([]byte(s)) }

// ReadFrom implements io.ReaderFrom, by the wrapped writer's own if nothing is
// to be recorded.
func (rec *recorder) ReadFrom(r io.Reader) (int64, error) {
	if rec.status != 0 && !rec.keep {
		n, err := io.Copy(rec.w, r)
		rec.written += n
		return n, err
	}
	return io.Copy(onlyWriter{rec}, r)
}

// onlyWriter hides ReadFrom from io.Copy.
type onlyWriter struct{ io.Writer }

// Flush implements http.Flusher.
func (rec *recorder) Flush() { _ = rec.FlushError() }

// FlushError is Flush for http.ResponseController. That the client is gone is no
// error as long as the response is recorded: a handler would stop half way.
func (rec *recorder) FlushError() error {
	rec.begin()
	if rec.gone == nil {
		err := http.NewResponseController(rec.w).Flush()
		if err == nil || errors.Is(err, http.ErrNotSupported) {
			return err
		}
		rec.gone = err
	}
	if !rec.keep {
		return rec.gone
	}
	return nil
}

// Hijack implements http.Hijacker. The response is not stored.
func (rec *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(rec.w).Hijack()
	if err == nil {
		rec.status, rec.keep = http.StatusSwitchingProtocols, false
	}
	return conn, rw, err
}

// Unwrap returns the wrapped writer, for http.ResponseController.
func (rec *recorder) Unwrap() http.ResponseWriter { return rec.w }

// recorded returns the response, if it may be stored and is whole, after the
// handler has returned.
func (rec *recorder) recorded() (*stored, verdict, bool) {
	if rec.status == 0 || !rec.keep || rec.isShort() || rec.hasTrailer() {
		return nil, verdict{}, false
	}
	return &stored{
		status: rec.status,
		public: rec.verdict.public,
		age:    rec.age,
		header: rec.header,
		body:   rec.body,
	}, rec.verdict, true
}

// isShort reports a handler that wrote less than it had declared.
func (rec *recorder) isShort() bool {
	return rec.length != "" && rec.length != strconv.FormatInt(rec.written, 10)
}

// hasTrailer reports a trailer that was not announced in the header.
func (rec *recorder) hasTrailer() bool {
	for name := range rec.w.Header() {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			return true
		}
	}
	return false
}

// notStored are the fields that belong to one connection or one delivery (RFC
// 9111 §3.1, RFC 9110 §7.6.1), or that are made anew for each.
var notStored = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Authorization", "Proxy-Connection",
	"Te", "Transfer-Encoding", "Upgrade", "Age", "Cache-Status", "Content-Length", "Set-Cookie",
}

// added stands before the name of a field whose values are to be added to those
// that the response has, instead of replacing them. It cannot be part of a name.
const added = ":"

// difference returns the fields of h that are to be stored: those that differ
// from outer, which others have set for this one request.
func difference(h, outer http.Header) http.Header {
	stored := make(http.Header, len(h))
	for name, values := range h {
		was := outer[name]
		if slices.Contains(notStored, name) || slices.Equal(values, was) || listed(h, "Connection", strings.ToLower(name)) {
			continue
		}
		if len(was) > 0 && len(values) > len(was) && slices.Equal(values[:len(was)], was) {
			stored[added+name] = values[len(was):] // the handler has added to what others had set
			continue
		}
		stored[name] = values
	}
	return stored
}
