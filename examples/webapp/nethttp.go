package main

import (
	"net/http"
	"strconv"

	"github.com/herdless/herdless/examples/webapp/internal/shop"
	"github.com/herdless/herdless/middleware/traffic"
	"github.com/herdless/herdless/session"
)

// netHTTP returns the node's routes on net/http. gin.go has the same on gin.
func (n *node) netHTTP() http.Handler {
	mux := http.NewServeMux()

	// The same for everybody: from the shared cache, without a session.
	mux.Handle("GET /{$}", n.cacheCatalogue(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, err := n.shop.Catalogue(r.Context(), r.FormValue("category"), r.FormValue("page"))
		n.page(w, "catalogue.html", v, err)
	})))
	mux.Handle("GET /p/{id}", n.cacheProduct(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, err := n.shop.Product(r.PathValue("id"))
		n.page(w, "product.html", v, err)
	})))
	mux.HandleFunc("GET /uncached", func(w http.ResponseWriter, r *http.Request) {
		v, err := n.shop.CatalogueTwin(r.Context())
		n.page(w, "catalogue.html", v, err)
	})

	mux.Handle("GET /search", n.limitSearch(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.page(w, "search.html", n.shop.Search(r.FormValue("q")), nil)
	})))

	mux.HandleFunc("GET /herd", func(w http.ResponseWriter, _ *http.Request) {
		n.page(w, "herd.html", n.shop.Herd(), nil)
	})
	mux.Handle("POST /herd/run", n.limitHerd(http.HandlerFunc(n.runHerd)))

	mux.Handle("GET /traffic", n.figures.Dashboard(anybody))

	// A visitor's own.
	personal := func(pattern string, h http.HandlerFunc) { mux.Handle(pattern, n.withSession(h)) }
	personal("GET /cart", func(w http.ResponseWriter, r *http.Request) {
		v, err := n.shop.Cart(r.Context())
		n.page(w, "cart.html", v, err)
	})
	personal("POST /cart", func(w http.ResponseWriter, r *http.Request) {
		n.redirect(w, r, "/cart", n.addToCart(r.Context(), r.PostFormValue("id")))
	})
	personal("POST /cart/quantity", func(w http.ResponseWriter, r *http.Request) {
		quantity, err := strconv.Atoi(r.PostFormValue("n"))
		if err != nil {
			n.problem(w, n.shop.Problem(shop.ErrInvalid))
			return
		}
		n.redirect(w, r, "/cart", n.shop.SetQuantity(r.Context(), r.PostFormValue("id"), quantity))
	})
	personal("GET /login", func(w http.ResponseWriter, r *http.Request) {
		v, err := n.shop.Login(r.Context())
		n.page(w, "login.html", v, err)
	})
	personal("POST /login", func(w http.ResponseWriter, r *http.Request) {
		visitor := session.FromContext(r.Context())
		n.redirect(w, r, "/", n.shop.LogIn(r.Context(), visitor, r.PostFormValue("name")))
	})
	personal("POST /logout", func(w http.ResponseWriter, r *http.Request) {
		n.redirect(w, r, "/", n.shop.LogOut(r.Context(), session.FromContext(r.Context())))
	})
	personal("POST /visits/end", func(w http.ResponseWriter, r *http.Request) {
		visitor := session.FromContext(r.Context())
		n.redirect(w, r, "/login", n.shop.EndVisit(r.Context(), n.sessions, visitor, r.PostFormValue("id")))
	})
	personal("POST /visits/end-others", func(w http.ResponseWriter, r *http.Request) {
		n.redirect(w, r, "/login", n.shop.EndOtherVisits(r.Context(), session.FromContext(r.Context())))
	})
	personal("GET /me", func(w http.ResponseWriter, r *http.Request) { n.me(w, r, nil) })
	personal("POST /me/viewed", func(w http.ResponseWriter, r *http.Request) {
		n.me(w, r, n.shop.View(r.Context(), r.PostFormValue("id")))
	})

	mux.Handle("GET /static/{file}", shop.Static())
	mux.HandleFunc("GET /healthz", n.health)
	mux.HandleFunc("GET /readyz", n.ready)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		n.problem(w, n.shop.ProblemStatus(http.StatusNotFound, ""))
	})
	return traffic.Routed(mux) // http.MaxBytesHandler, outside, replaces the request
}

// redirect leads the visitor on after a form.
func (n *node) redirect(w http.ResponseWriter, r *http.Request, to string, err error) {
	if err != nil {
		n.problem(w, n.shop.Problem(err))
		return
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// me answers a script, unless err says that something went wrong before.
func (n *node) me(w http.ResponseWriter, r *http.Request, err error) {
	var me *shop.Me
	if err == nil {
		me, err = n.shop.Me(r.Context())
	}
	if err != nil {
		p := n.shop.Problem(err)
		writeJSON(w, p.Status, jsonError{p.Text})
		return
	}
	writeJSON(w, http.StatusOK, me)
}
