package middleware

import (
	"fmt"
	"net/http"
)

// Middleware wraps a handler in another one. It is an alias: any function of
// this shape is a Middleware, wherever it comes from.
type Middleware = func(http.Handler) http.Handler

// Chain puts middleware around each other. The first is the outermost: it sees
// the request first and the response last. Without any, the handler stays as it
// is.
//
// It panics if one of them is nil, because that is found when the program
// starts, and not by the first request. The result is safe for concurrent use
// if every mw is.
func Chain(mw ...Middleware) Middleware {
	chain := make([]Middleware, len(mw))
	for i, m := range mw {
		if m == nil {
			panic(fmt.Sprintf("middleware: Chain: argument %d of %d is nil", i+1, len(mw)))
		}
		chain[i] = m
	}
	return func(h http.Handler) http.Handler {
		for i := len(chain) - 1; i >= 0; i-- {
			h = chain[i](h)
		}
		return h
	}
}
