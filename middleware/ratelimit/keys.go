package ratelimit

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// ErrNoKey says that a request has no key, or that one is empty: that is the client's mistake
// or the program's, and answered with 400. Any other error of a KeyFunc is a fault, such as of
// a store that it asks, and answered with 503.
var ErrNoKey = errors.New("ratelimit: no key")

// errEmptyKey is the ErrNoKey of an empty key.
var errEmptyKey = fmt.Errorf("%w: it is empty", ErrNoKey)

// KeyFunc says who is limited: it returns what the requests of one client have
// in common. What decides about it must not be the client's to choose, or one
// client is many: a header that anybody can send is no key. Package clientip
// has the one for addresses.
//
// An empty key and ErrNoKey say that the request has no key. With any other error it is
// not known, and the request does not pass either: if it did, whoever can bring the error
// about would not be limited. Keys end up
// in the store as they are, so they should be short and hold no secret; one of
// more than 200 bytes is replaced by its SHA-256.
type KeyFunc func(*http.Request) (string, error)

// keyOf returns the key of r as the store gets it.
func keyOf(f KeyFunc, r *http.Request) (string, error) {
	key, err := f(r)
	if err == nil && key == "" {
		err = errEmptyKey
	}
	if err != nil {
		return "", err
	}
	return bounded(key), nil
}

// maxKey is how long a key may be that goes into the store as it is.
const maxKey = 200

// bounded returns a key that takes no more room than maxKey.
func bounded(key string) string {
	if len(key) <= maxKey {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return "sha256-" + hex.EncodeToString(sum[:])
}

// Everybody is a KeyFunc that is the same for all requests: for a limit on what a
// whole service does.
func Everybody(*http.Request) (string, error) { return "everybody", nil }

// ByHeader returns a KeyFunc that tells clients apart by a request field, such as
// one with an API key. Only what an outer handler has checked makes sense: what the client can
// make up gives it as many limits as it likes. What goes into the store is a digest of the value. A
// request with no such field, or with several, has no key.
func ByHeader(name string) KeyFunc {
	name = http.CanonicalHeaderKey(name)
	return func(r *http.Request) (string, error) {
		values := r.Header[name]
		if len(values) != 1 || values[0] == "" {
			return "", fmt.Errorf("%w: the request has %d fields %s, and must have one", ErrNoKey, len(values), name)
		}
		sum := sha256.Sum256([]byte(values[0]))
		return hex.EncodeToString(sum[:16]), nil
	}
}

// ByUser returns a KeyFunc for logged-in users. user returns the name of the one
// who sent the request, or "" if nobody is logged in; then the key is that of
// otherwise, most often clientip.Key, or there is none if otherwise is nil. Users and
// the keys of otherwise never get into each other's way. With sessions:
//
//	ratelimit.ByUser(func(r *http.Request) (string, error) {
//		return session.FromContext(r.Context()).User(r.Context())
//	}, clientip.Key)
//
// Such a Limiter belongs inside of the session. An error of user is not passed to
// otherwise: while the sessions' store is away the answer is 503. Where requests are to be
// counted by address then, have user return "" for it.
func ByUser(user, otherwise KeyFunc) KeyFunc {
	if user == nil {
		return nil // which New reports
	}
	return func(r *http.Request) (string, error) {
		name, err := user(r)
		switch {
		case err != nil:
			return "", err
		case name != "":
			return "user:" + name, nil
		case otherwise == nil:
			return "", fmt.Errorf("%w: nobody is logged in", ErrNoKey)
		}
		key, err := otherwise(r)
		if err != nil || key == "" {
			return "", err
		}
		return "other:" + key, nil
	}
}

// ByRoute is a KeyFunc for the pattern of http.ServeMux that has matched the request,
// such as "GET /items/{id}", or of a gin router. It works inside of the mux only; around
// it, give ByRouteOf the mux. Most often it is one of several in Join.
func ByRoute(r *http.Request) (string, error) {
	if r.Pattern == "" {
		return "", fmt.Errorf("%w: no route has matched yet: use ByRouteOf around a mux", ErrNoKey)
	}
	return r.Pattern, nil
}

// ByRouteOf returns a KeyFunc for the pattern that mux, such as a *http.ServeMux, has for
// the request. What no pattern matches has one key together.
func ByRouteOf(mux interface {
	Handler(r *http.Request) (h http.Handler, pattern string)
},
) KeyFunc {
	return func(r *http.Request) (string, error) {
		if _, pattern := mux.Handler(r); pattern != "" {
			return pattern, nil
		}
		return "no route", nil
	}
}

// Join returns a KeyFunc that tells requests apart that differ in any of the keys:
// Join(clientip.Key, ByRoute) limits each client on each route. All must be there.
func Join(keys ...KeyFunc) KeyFunc {
	for _, key := range keys {
		if key == nil {
			return nil // which New reports
		}
	}
	return func(r *http.Request) (string, error) {
		var b strings.Builder
		for i, f := range keys {
			key, err := keyOf(f, r)
			if err != nil {
				return "", err
			}
			// With its length, so that no two lists of keys look the same.
			if i < len(keys)-1 {
				b.WriteString(strconv.Itoa(len(key)))
				b.WriteByte(':')
			}
			b.WriteString(key)
			if i < len(keys)-1 {
				b.WriteByte('|')
			}
		}
		return b.String(), nil
	}
}
