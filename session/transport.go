package session

import (
	"net/http"
	"net/textproto"
	"strings"
	"time"
)

// transport carries tokens between the client and the server.
type transport interface {
	// read adds to values those that may be tokens, in the client's order.
	read(values []string, r *http.Request) []string
	// write hands token to the client, who keeps it for maxAge, or as long as
	// it runs if that is zero. An empty token makes the client forget its own.
	write(h http.Header, token string, maxAge time.Duration)
	// vary is the request field that a response depends on.
	vary() string
}

// cookieTransport is the default one.
type cookieTransport struct{ cookie http.Cookie }

// read takes the cookies apart as net/http does, which makes a Cookie of each.
func (t *cookieTransport) read(values []string, r *http.Request) []string {
	for _, line := range r.Header["Cookie"] {
		for line != "" {
			var pair string
			pair, line, _ = strings.Cut(line, ";")
			name, value, _ := strings.Cut(textproto.TrimString(pair), "=")
			if textproto.TrimString(name) != t.cookie.Name {
				continue
			}
			if n := len(value); n > 1 && value[0] == '"' && value[n-1] == '"' {
				value = value[1 : n-1]
			}
			values = append(values, value)
		}
	}
	return values
}

func (t *cookieTransport) write(h http.Header, token string, maxAge time.Duration) {
	c := t.cookie
	c.Value = token
	switch {
	case token == "":
		c.MaxAge = -1
	case maxAge > 0:
		c.MaxAge = int(min(maxAge, maxCookieAge) / time.Second)
	}
	h.Add("Set-Cookie", c.String())
}

// maxCookieAge is for how long browsers keep a cookie at most (RFC 6265bis,
// section 5.5).
const maxCookieAge = 400 * 24 * time.Hour

func (*cookieTransport) vary() string { return "Cookie" }

// headerTransport is for clients that are no browsers.
type headerTransport struct {
	request  string // the field of requests, in its canonical form
	scheme   string // in front of the token, "Bearer" for Authorization
	response string // the field of responses; empty says that there is no token any more
}

// newHeaderTransport answers in the field that it reads, so that two Managers
// with different fields do not take each other's. Authorization is none of
// responses.
func newHeaderTransport(field string) *headerTransport {
	t := &headerTransport{request: http.CanonicalHeaderKey(field)}
	t.response = t.request
	if t.request == "Authorization" {
		t.scheme, t.response = "Bearer", "Session-Token"
	}
	return t
}

func (t *headerTransport) read(values []string, r *http.Request) []string {
	for _, v := range r.Header.Values(t.request) {
		v = strings.TrimSpace(v)
		if t.scheme != "" {
			scheme, rest, found := strings.Cut(v, " ")
			if !found || !strings.EqualFold(scheme, t.scheme) {
				continue
			}
			v = strings.TrimSpace(rest)
		}
		values = append(values, v)
	}
	return values
}

func (t *headerTransport) write(h http.Header, token string, _ time.Duration) {
	h.Set(t.response, token)
}

func (t *headerTransport) vary() string { return t.request }
