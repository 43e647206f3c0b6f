package main

import (
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
)

const maxForm = 64 << 10

// policy lets a page have nothing that does not come from this server.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// edge is what every response has, whichever router made it, and whether it came
// from the cache or not. Only the figures are counted further out.
func (n *node) edge(router http.Handler) http.Handler {
	router = http.MaxBytesHandler(n.sameOriginForms(router), maxForm)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := &lastMoment{ResponseWriter: w, before: n.sign}
		defer func() {
			p := recover()
			if p == nil {
				out.run()
				return
			}
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(p)
			}
			n.log.Error("a handler panicked", "node", n.shop.Node(), "panic", p, "stack", string(debug.Stack()))
			if out.done {
				panic(http.ErrAbortHandler) // it is too late for another answer
			}
			n.problem(out, n.shop.ProblemStatus(http.StatusInternalServerError, ""))
		}()
		router.ServeHTTP(out, r)
	})
}

// sign adds to a response who served it and how. It must not happen further in:
// there the cache would store it and hand it on to others.
func (n *node) sign(h http.Header) {
	h.Set("X-Node", n.shop.Node())
	timing := fmt.Sprintf("node;desc=%q", n.shop.Node())
	if o := outcome(h); o != "" {
		timing += fmt.Sprintf(", cache;desc=%q", o)
	}
	h.Set("Server-Timing", timing)
	h.Set("X-Content-Type-Options", "nosniff")
	if h.Get("Content-Security-Policy") == "" { // the page of the figures has one of its own
		h.Set("Content-Security-Policy", policy)
		h.Set("Referrer-Policy", "same-origin")
	}
}

// What became of a request for a page that is cached.
const (
	computed = "computed" // its handler ran for this request
	waited   = "waited"   // it waited for the handler of another request
	hit      = "hit"      // the page was there
)

// outcome reads the response cache's word from Cache-Status (RFC 9211); "" if
// there is none.
func outcome(h http.Header) string {
	member, _, _ := strings.Cut(h.Get("Cache-Status"), ",")
	_, parameters, _ := strings.Cut(member, ";")
	if parameters == "" {
		return ""
	}
	for p := range strings.SplitSeq(parameters, ";") {
		switch strings.TrimSpace(p) {
		case "hit":
			return hit
		case "collapsed":
			return waited
		}
	}
	return computed
}

// lastMoment calls before when the header goes out.
type lastMoment struct {
	http.ResponseWriter
	before func(http.Header)
	done   bool
}

func (w *lastMoment) run() {
	if !w.done {
		w.done = true
		w.before(w.Header())
	}
}

func (w *lastMoment) WriteHeader(status int) {
	if status >= 200 {
		w.run()
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *lastMoment) Write(b []byte) (int, error) {
	w.run()
	return w.ResponseWriter.Write(b)
}

// FlushError serves http.ResponseController, Flush everybody else.
func (w *lastMoment) FlushError() error {
	w.run()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *lastMoment) Flush() { _ = w.FlushError() }

func (w *lastMoment) Unwrap() http.ResponseWriter { return w.ResponseWriter }
