package main

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/herdless/herdless/examples/webapp/internal/shop"
)

// newBalancer returns a reverse proxy that sends each request to the next of
// the nodes, and on to the one after it where a node does not answer the phone.
// It keeps the Host, and says in X-Forwarded-For who asked; what the client
// claims there itself is dropped.
func newBalancer(nodes []*url.URL, log *slog.Logger) (http.Handler, error) {
	templates, err := shop.ParseTemplates()
	if err != nil {
		return nil, err
	}
	front, err := shop.New("balancer", 0, log)
	if err != nil {
		return nil, err
	}
	return &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetXForwarded() },
		Transport: newRoundRobin(nodes),
		ErrorLog:  slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				log.Error("no node answered", "error", err)
			}
			body, err := templates.Render("problem.html", front.ProblemStatus(http.StatusServiceUnavailable, ""))
			if err != nil {
				log.Error("a page could not be rendered", "error", err)
			}
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.Header().Set("Content-Security-Policy", policy)
			w.Header().Set("Cache-Control", "no-store")
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write(body)
		},
	}, nil
}

// roundRobin is an http.RoundTripper that fills in the host. It is safe for
// concurrent use.
type roundRobin struct {
	nodes     []*url.URL
	turn      atomic.Uint64
	transport *http.Transport
}

func newRoundRobin(nodes []*url.URL) *roundRobin {
	return &roundRobin{nodes: nodes, transport: &http.Transport{
		DialContext:         boundedDialer(5 * time.Second),
		MaxIdleConnsPerHost: 256,
		IdleConnTimeout:     30 * time.Second,
		// What the node says about encodings is for the client to hear.
		DisableCompression: true,
	}}
}

func (b *roundRobin) RoundTrip(r *http.Request) (*http.Response, error) {
	first := b.turn.Add(1)
	var errs []error
	for i := range b.nodes {
		node := b.nodes[(first+uint64(i))%uint64(len(b.nodes))]
		out := r.WithContext(r.Context()) // a copy
		target := *r.URL
		target.Scheme, target.Host = node.Scheme, node.Host
		out.URL = &target
		if r.Body != nil {
			// The transport closes the body of a request that it could not
			// even begin to send; the next node needs it open.
			out.Body = io.NopCloser(r.Body)
		}
		resp, err := b.transport.RoundTrip(out)
		if err == nil {
			return resp, nil
		}
		errs = append(errs, err)
		// Only where no connection came about is it certain that the node has
		// not begun to act on the request.
		var op *net.OpError
		if !errors.As(err, &op) || op.Op != "dial" || r.Context().Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}
