package ratelimit

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/herdless/herdless/internal/nils"
)

// Handler returns a handler that asks for the cost of each request and calls next
// if there was room. Otherwise it answers:
//
//   - 429 (Too Many Requests) when a limit is reached, with the time until there is
//     room in Retry-After, in seconds rounded up (RFC 9110, section 10.2.3), or
//     whatever Options.Denied makes of it. There is no Retry-After if the request costs more
//     than the limit ever has;
//   - 503 (Service Unavailable) when the store fails and a policy is FailClosed;
//   - 400 (Bad Request) when the request has no key, and 503 when it is not known because
//     the KeyFunc fails. Letting it pass would be a way around the limit, and one common key
//     a way to lock others out.
//
// Responses say in RateLimit-Policy what the limits are, and in RateLimit what is left of
// them (draft-ietf-httpapi-ratelimit-headers): r is how many units could be taken at
// once, and t the seconds until there is one more. A limit of a Shadow policy is
// kept to ourselves.
//
// A client that hangs up does not escape: its request is counted all the same.
func (l *Limiter) Handler(next http.Handler) http.Handler {
	nils.MustWrap("ratelimit: Limiter.Handler", next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asks := make([]ask, len(l.policies))
		for i, p := range l.policies {
			var err error
			if asks[i], err = p.ask(r); err != nil {
				l.counters.noKey.Add(1)
				l.keyGate.log(r.Context(), "ratelimit: requests have no key and are refused", "policy", p.Name, "error", err)
				answerNoKey(w, err)
				return
			}
			if l.tier != nil {
				asks[i].plan = p.planOf(*l.tier)
			}
		}

		// Without the cancellation: otherwise a client could close its connection
		// at once, and the decision would fail, and the handler run uncounted.
		result, err := l.decide(context.WithoutCancel(r.Context()), asks, 0)
		l.setFields(w.Header(), asks, &result)
		switch {
		case result.Allowed:
			next.ServeHTTP(w, r)
		case err != nil && len(result.Limits) == 0:
			answerUnavailable(w)
		default:
			setRetryAfter(w.Header(), result.RetryAfter)
			l.options.Denied.ServeHTTP(w, withResult(r, result))
		}
	})
}

// ask returns what a request asks for.
func (p *policy) ask(r *http.Request) (ask, error) {
	key, err := keyOf(p.Key, r)
	if err != nil {
		return ask{}, err
	}
	a := ask{plan: p.base, key: key, n: 1}
	if p.Tier != nil {
		a.plan = p.planOf(p.Tier(r))
	}
	if p.Cost != nil {
		a.n = max(0, p.Cost(r))
	}
	return a, nil
}

// answerDenied answers with the problem type that draft-ietf-httpapi-ratelimit-headers
// registers.
func answerDenied(w http.ResponseWriter, r *http.Request) {
	result, _ := FromContext(r.Context())
	answer(w, http.StatusTooManyRequests, problem{
		Type:     "https://iana.org/assignments/http-problem-types#quota-exceeded",
		Title:    "Request cannot be satisfied as assigned quota has been exceeded",
		Violated: result.Violated(),
	})
}

// answerNoKey answers a request whose key there is not, or cannot be told.
func answerNoKey(w http.ResponseWriter, err error) {
	if errors.Is(err, ErrNoKey) {
		answerPlain(w, http.StatusBadRequest)
		return
	}
	answerUnavailable(w)
}

func answerUnavailable(w http.ResponseWriter) {
	w.Header().Set(retryHeader, "1")
	answerPlain(w, http.StatusServiceUnavailable)
}

func answerPlain(w http.ResponseWriter, status int) {
	answer(w, status, problem{Type: "about:blank", Title: http.StatusText(status)})
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
