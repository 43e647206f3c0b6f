package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/herdless/herdless/examples/webapp/internal/shop"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/middleware/clientip"
	"github.com/herdless/herdless/middleware/ratelimit"
	"github.com/herdless/herdless/middleware/traffic"
	"github.com/herdless/herdless/responsecache"
	"github.com/herdless/herdless/session"
)

// How long the shared pages are fresh, and what a visitor may do in a minute.
const (
	catalogueTTL = time.Minute
	productTTL   = 5 * time.Minute

	searchesPerMinute = 20
	herdsPerMinute    = 12
)

// node is one server of the cluster. Nodes have nothing in common but the
// stores: each has its own sessions, pages, locks and limiters on top of them.
type node struct {
	shop      *shop.Shop
	templates *shop.Templates
	sessions  *session.Manager
	figures   *traffic.Recorder
	carts     *traffic.Board // what is put into carts
	herd      *herd
	log       *slog.Logger
	ping      func(ctx context.Context) error
	draining  atomic.Bool

	// Middleware. Both routers put them around their handlers.
	withSession     func(http.Handler) http.Handler
	cacheCatalogue  func(http.Handler) http.Handler
	cacheProduct    func(http.Handler) http.Handler
	limitSearch     func(http.Handler) http.Handler
	limitHerd       func(http.Handler) http.Handler
	sameOriginForms func(http.Handler) http.Handler
}

type nodeConfig struct {
	name          string
	work          time.Duration
	secureCookies bool
	trusted       []netip.Prefix
	herdTarget    string
}

func newNode(c nodeConfig, s *stores, log *slog.Logger) (*node, error) {
	theShop, err1 := shop.New(c.name, c.work, log)
	templates, err2 := shop.ParseTemplates()
	locker, err3 := lock.New(s.locks, nil)
	clients, err4 := clientip.New(c.trusted, nil)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	n := &node{shop: theShop, templates: templates, log: log, ping: s.ping}

	pages, err1 := responsecache.New(s.pages, &responsecache.Options{
		Locker: locker, Name: c.name, Logger: log,
		// Visitors, nodes and Redis of a demonstration share one small machine,
		// on which a herd of 500 can keep everybody waiting.
		StoreTimeout: 2 * time.Second,
	})
	sessions, err2 := session.New(s.sessions, &session.Options{
		DangerouslyAllowHTTP: !c.secureCookies,
		ErrorHandler:         n.sessionFailed,
		Device: func(r *http.Request) session.Device {
			d := session.Device{UserAgent: r.UserAgent()}
			if addr, err := clients.Addr(r); err == nil {
				d.Address = addr.String()
			}
			return d
		},
		Logger: log,
	})
	search, err3 := ratelimit.NewPolicies(s.limits, []ratelimit.Policy{
		{Name: "search", Limits: []ratelimit.Limit{ratelimit.PerMinute(searchesPerMinute)}, Key: clients.Key},
	}, &ratelimit.Options{Denied: http.HandlerFunc(n.tooFast), Logger: log})
	herds, err4 := ratelimit.NewPolicies(s.limits, []ratelimit.Policy{
		{Name: "herd", Limits: []ratelimit.Limit{ratelimit.PerMinute(herdsPerMinute)}, Key: clients.Key},
	}, &ratelimit.Options{Denied: http.HandlerFunc(n.tooManyHerds), Logger: log})
	figures, err5 := traffic.New(s.figures, &traffic.Options{Node: c.name, Addr: clients.Addr, Logger: log})
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return nil, err
	}
	n.figures = figures
	if n.carts, err1 = figures.Board("put into carts", nil); err1 != nil {
		return nil, err1
	}
	n.herd = &herd{target: c.herdTarget, work: c.work, purge: pages.Purge}

	// Public says that these pages are the same for everybody, so that visitors
	// with a cookie share them, too. What is a visitor's own comes from /me.
	n.cacheCatalogue = pages.With(responsecache.Policy{TTL: catalogueTTL, Public: true}).Handler
	n.cacheProduct = pages.With(responsecache.Policy{TTL: productTTL, Public: true}).Handler
	n.sessions = sessions
	n.withSession = sessions.Handler
	n.limitSearch = search.Handler
	n.limitHerd = herds.Handler
	forms := http.NewCrossOriginProtection()
	forms.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n.problem(w, n.shop.ProblemStatus(http.StatusForbidden, ""))
	}))
	n.sameOriginForms = forms.Handler
	return n, nil
}

// addToCart puts something into the visitor's cart, and counts it.
func (n *node) addToCart(ctx context.Context, id string) error {
	err := n.shop.AddToCart(ctx, id)
	if err == nil {
		n.carts.Add(id, 1)
	}
	return err
}

// anybody may see the figures of this shop, which is a demonstration. A real one asks
// who it is.
func anybody(*http.Request) bool { return true }

// page answers with a page, or with the page about err.
func (n *node) page(w http.ResponseWriter, name string, view interface{ Base() *shop.Page }, err error) {
	if err != nil {
		n.problem(w, n.shop.Problem(err))
		return
	}
	w.Header().Set("X-Computation", view.Base().Computation.Header())
	n.write(w, http.StatusOK, name, view)
}

func (n *node) problem(w http.ResponseWriter, view *shop.ProblemView) {
	w.Header().Set("Cache-Control", "no-store")
	if view.Wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(view.Wait))
	}
	n.write(w, view.Status, "problem.html", view)
}

func (n *node) write(w http.ResponseWriter, status int, name string, view any) {
	body, err := n.templates.Render(name, view)
	if err != nil {
		n.log.Error("a page could not be rendered", "node", n.shop.Node(), "error", err)
		http.Error(w, "This page is broken.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(body) // fails only when the visitor has gone
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // fails only when the visitor has gone
}

type jsonError struct {
	Error string `json:"error"`
}

func (n *node) sessionFailed(w http.ResponseWriter, _ *http.Request, err error) {
	if errors.Is(err, session.ErrGone) {
		n.problem(w, n.shop.ProblemStatus(http.StatusUnauthorized, ""))
		return
	}
	n.problem(w, n.shop.Problem(err))
}

func (n *node) tooFast(w http.ResponseWriter, _ *http.Request) {
	n.problem(w, n.shop.TooMany(retryAfter(w)))
}

func (n *node) tooManyHerds(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusTooManyRequests, jsonError{
		fmt.Sprintf("the herd is tired, try again in %v", retryAfter(w)),
	})
}

// retryAfter reads what the limiter has told the client.
func retryAfter(w http.ResponseWriter) time.Duration {
	s, _ := strconv.Atoi(w.Header().Get("Retry-After"))
	return time.Duration(max(1, s)) * time.Second
}

// runHerd is the same in both routers.
func (n *node) runHerd(w http.ResponseWriter, r *http.Request) {
	requests, err := strconv.Atoi(r.PostFormValue("requests"))
	if err != nil {
		requests = -1
	}
	result, err := n.herd.run(r.Context(), r.Host, r.PostFormValue("mode"), requests)
	switch {
	case errors.Is(err, errHerdBusy):
		writeJSON(w, http.StatusConflict, jsonError{err.Error()})
	case errors.Is(err, shop.ErrInvalid):
		writeJSON(w, http.StatusBadRequest, jsonError{err.Error()})
	case err != nil:
		n.log.Error("the herd stumbled", "node", n.shop.Node(), "error", err)
		writeJSON(w, http.StatusServiceUnavailable, jsonError{"the cache does not answer"})
	default:
		n.log.Info("the herd ran", "node", n.shop.Node(), "mode", result.Mode, "requests", result.Requests,
			"computations", result.Computations, "p50_ms", result.P50, "p99_ms", result.P99)
		writeJSON(w, http.StatusOK, result)
	}
}

// ready says whether a load balancer should send requests here. It does not
// look at the stores: the nodes share them, and a load balancer that took every
// node out because of them would make a small trouble a large one.
func (n *node) ready(w http.ResponseWriter, _ *http.Request) {
	n.state(w, nil)
}

// health says whether this node is well: it is not about to end, and its stores
// answer.
func (n *node) health(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), time.Second)
	defer cancel()
	n.state(w, n.ping(ctx))
}

func (n *node) state(w http.ResponseWriter, storeError error) {
	status, text := http.StatusOK, "ok"
	switch {
	case n.draining.Load():
		status, text = http.StatusServiceUnavailable, "draining"
	case storeError != nil:
		status, text = http.StatusServiceUnavailable, "the store does not answer"
	}
	writeJSON(w, status, map[string]string{"node": n.shop.Node(), "status": text})
}
