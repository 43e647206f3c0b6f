package ratelimit

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// Handler returns a handler that takes one unit per request and calls next if
// there was room. Otherwise it answers:
//
//   - 429 (Too Many Requests) when the limit is reached, with the time until
//     there is room in Retry-After, in seconds rounded up (RFC 9110, section
//     10.2.3), or whatever Options.Denied makes of it;
//   - 503 (Service Unavailable) when the store fails and Options.FailClosed is set;
//   - 400 (Bad Request) when the request has no key. Letting it pass would be a
//     way around the limit, and one common key a way to lock others out.
//
// A client that hangs up does not escape: its request is counted all the same.
func (l *Limiter) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, err := l.key(r)
		if err == nil && key == "" {
			err = errNoKey
		}
		if err != nil {
			l.keyMissing.log(r.Context(), "ratelimit: requests have no key and are refused",
				"limiter", l.name, "error", err)
			answer(w, http.StatusBadRequest, problem{
				Type:  "about:blank",
				Title: http.StatusText(http.StatusBadRequest),
			})
			return
		}

		// Without the cancellation: otherwise a client could close its connection
		// at once, and the decision would fail, and the handler run uncounted.
		d, err := l.Allow(context.WithoutCancel(r.Context()), key)
		switch {
		case d.Allowed:
			next.ServeHTTP(w, r)
		case err != nil:
			w.Header().Set("Retry-After", "1")
			answer(w, http.StatusServiceUnavailable, problem{
				Type:  "about:blank",
				Title: http.StatusText(http.StatusServiceUnavailable),
			})
		default:
			w.Header().Set("Retry-After", retryAfter(d))
			l.denied.ServeHTTP(w, r)
		}
	})
}

// retryAfter returns the seconds until every check has room, rounded up: a
// client that comes back then, and no earlier, gets through.
func retryAfter(d Decision) string {
	var wait time.Duration
	for _, s := range d.States {
		wait = max(wait, s.RetryAfter)
	}
	return strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10)
}

// answerDenied answers with the problem type that draft-ietf-httpapi-ratelimit-headers
// registers.
func (l *Limiter) answerDenied(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusTooManyRequests, problem{
		Type:     "https://iana.org/assignments/http-problem-types#quota-exceeded",
		Title:    "Request cannot be satisfied as assigned quota has been exceeded",
		Violated: []string{l.name},
	})
}

// problem is a problem document (RFC 9457).
type problem struct {
	Type     string   `json:"type"`
	Title    string   `json:"title"`
	Status   int      `json:"status"`
	Violated []string `json:"violated-policies,omitempty"`
}

func answer(w http.ResponseWriter, status int, p problem) {
	p.Status = status
	body, _ := json.Marshal(p) // never fails
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body) // fails only when the client has gone
}
