package main

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"

	"github.com/herdless/herdless/responsecache"
)

// withPurge answers PURGE requests, for those who know the token. None of them gets
// to the origin, which may trust this proxy more than it does its clients.
func withPurge(pages *responsecache.Cache, token string, next http.Handler) http.Handler {
	purge := pages.PurgeHandler(knows(token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "PURGE" {
			purge.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// knows returns what tells requests with the token (RFC 6750 §2.1) from others, in a
// time that says nothing about it. Without a token it is nil: nobody may.
func knows(token string) func(*http.Request) bool {
	if token == "" {
		return nil
	}
	want := sha256.Sum256([]byte(token))
	return func(r *http.Request) bool {
		scheme, got, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		sum := sha256.Sum256([]byte(got))
		return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(sum[:], want[:]) == 1
	}
}
