package fence

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"strconv"

	"github.com/herdless/herdless/internal/respwriter"
)

// Header is the header field of a request that carries the token of the lease it
// is made under: a decimal number. It is this package's own; no standard names one.
const Header = "Fencing-Token"

// SetHeader sets the token of a request's header. A zero token is set as it is,
// and will be refused.
func SetHeader(h http.Header, token uint64) {
	h.Set(Header, strconv.FormatUint(token, 10))
}

// FromHeader returns the token of a request's header. It takes nothing that
// [SetHeader] does not write: the field must be there once, as a decimal number
// from 1 to 2^64-1, without sign, spaces or leading zeros. The error is
// [ErrMissing] if the field is not there at all, and another one if it cannot be
// understood, which must not be taken for a token that is missing.
func FromHeader(h http.Header) (token uint64, err error) {
	values := h.Values(Header)
	switch {
	case len(values) == 0:
		return 0, ErrMissing
	case len(values) > 1:
		return 0, fmt.Errorf("fence: %d fields %s, there must be one", len(values), Header)
	}
	token, err = strconv.ParseUint(values[0], 10, 64)
	if err != nil || values[0][0] == '0' {
		return 0, fmt.Errorf("fence: %s is %.32q, it must be a decimal number from 1 to 2^64-1 without leading zeros", Header, values[0])
	}
	return token, nil
}

// Require returns a handler that calls write with the token of the request. It is
// for the service in front of a resource. write compares the token and writes in
// one step, with [Guard.Do] or in a database, and then answers. If it cannot,
// Require answers for it with a short problem document (RFC 9457):
//
//   - 400 (Bad Request) if the token is missing or malformed; write is not called.
//   - 409 (Conflict) if write returns an error that matches [ErrStale]. The request
//     conflicts with what the resource has come to, and its sender can resolve
//     that, with a new lease (RFC 9110, section 15.5.10). A 5xx would invite
//     clients and proxies to send again what can never succeed, and a 412 belongs
//     to If-Match and the like.
//   - 500 (Internal Server Error) if write returns any other error. Its text goes
//     to slog's default logger, not to the client.
//
// The header that write has set by then is taken back. If write has begun a
// response before it returns an error, the response is cut off (by a panic with
// http.ErrAbortHandler), so that nobody takes it for a success.
//
// Require panics if write is nil. The handler is safe for concurrent use if write
// is.
func Require(write func(w http.ResponseWriter, r *http.Request, token uint64) error) http.Handler {
	if write == nil {
		panic("fence: Require needs a function that writes")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, err := FromHeader(r.Header)
		if err != nil {
			answer(w, http.StatusBadRequest, "The field "+Header+" must carry the fencing token of a lease, as a decimal number.")
			return
		}
		outer := w.Header().Clone()
		rw := respwriter.New(w, func(int) bool { return true })
		if err := write(rw, r, token); err != nil {
			refuse(rw, r, err, outer)
		}
	})
}

// refuse answers in place of a write that has failed.
func refuse(w *respwriter.Writer, r *http.Request, err error, outer http.Header) {
	stale := errors.Is(err, ErrStale)
	if stale {
		// Worth knowing, though nothing is broken: a holder went on after the
		// end of its lease.
		slog.WarnContext(r.Context(), "fence: a write with a stale token was refused", "error", err)
	} else {
		slog.ErrorContext(r.Context(), "fence: a write failed", "error", err)
	}
	if w.Status() != 0 {
		panic(http.ErrAbortHandler)
	}
	h := w.Header()
	clear(h)
	maps.Copy(h, outer)
	if stale {
		answer(w, http.StatusConflict, "A later holder of the lease has been here. Acquire a new lease and begin again.")
	} else {
		answer(w, http.StatusInternalServerError, "")
	}
}

// problem is a problem document (RFC 9457).
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
}

func answer(w http.ResponseWriter, status int, detail string) {
	body, _ := json.Marshal(problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail}) // never fails
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body) // fails only when the client has gone
}
