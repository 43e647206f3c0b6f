package main

import (
	"net/http"
	"strconv"

	"github.com/gin-gonic/gin"
	"github.com/gin-gonic/gin/render"

	ginadapter "github.com/herdless/herdless/adapters/gin"
	"github.com/herdless/herdless/examples/webapp/internal/shop"
	"github.com/herdless/herdless/middleware/traffic"
)

// gin returns the node's routes on gin. nethttp.go has the same on net/http.
func (n *node) gin() http.Handler {
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	r.HTMLRender = ginTemplates{n.templates}
	r.Use(func(c *gin.Context) { // what stands around the router does not know its routes
		if route := c.FullPath(); route != "" {
			traffic.SetRoute(c.Writer, c.Request.Method+" "+route)
		}
	})

	// The same for everybody: from the shared cache, without a session.
	get(r, "/", ginadapter.Wrap(n.cacheCatalogue), func(c *gin.Context) {
		v, err := n.shop.Catalogue(c.Request.Context(), c.Query("category"), c.Query("page"))
		n.ginPage(c, "catalogue.html", v, err)
	})
	get(r, "/p/:id", ginadapter.Wrap(n.cacheProduct), func(c *gin.Context) {
		v, err := n.shop.Product(c.Param("id"))
		n.ginPage(c, "product.html", v, err)
	})
	get(r, "/uncached", func(c *gin.Context) {
		v, err := n.shop.CatalogueTwin(c.Request.Context())
		n.ginPage(c, "catalogue.html", v, err)
	})

	get(r, "/search", ginadapter.Wrap(n.limitSearch), func(c *gin.Context) {
		n.ginPage(c, "search.html", n.shop.Search(c.Query("q")), nil)
	})

	get(r, "/herd", func(c *gin.Context) { n.ginPage(c, "herd.html", n.shop.Herd(), nil) })
	r.POST("/herd/run", ginadapter.Wrap(n.limitHerd), gin.WrapF(n.runHerd))

	get(r, "/traffic", gin.WrapH(n.figures.Dashboard(anybody)))

	// A visitor's own.
	personal := r.Group("/", ginadapter.Wrap(n.withSession))
	get(personal, "/cart", func(c *gin.Context) {
		v, err := n.shop.Cart(c.Request.Context())
		n.ginPage(c, "cart.html", v, err)
	})
	personal.POST("/cart", func(c *gin.Context) {
		n.ginRedirect(c, "/cart", n.addToCart(c.Request.Context(), c.PostForm("id")))
	})
	personal.POST("/cart/quantity", func(c *gin.Context) {
		quantity, err := strconv.Atoi(c.PostForm("n"))
		if err != nil {
			n.ginProblem(c, n.shop.Problem(shop.ErrInvalid))
			return
		}
		n.ginRedirect(c, "/cart", n.shop.SetQuantity(c.Request.Context(), c.PostForm("id"), quantity))
	})
	get(personal, "/login", func(c *gin.Context) {
		v, err := n.shop.Login(c.Request.Context())
		n.ginPage(c, "login.html", v, err)
	})
	personal.POST("/login", func(c *gin.Context) {
		n.ginRedirect(c, "/", n.shop.LogIn(c.Request.Context(), ginadapter.Session(c), c.PostForm("name")))
	})
	personal.POST("/logout", func(c *gin.Context) {
		n.ginRedirect(c, "/", n.shop.LogOut(c.Request.Context(), ginadapter.Session(c)))
	})
	personal.POST("/visits/end", func(c *gin.Context) {
		visitor := ginadapter.Session(c)
		n.ginRedirect(c, "/login", n.shop.EndVisit(c.Request.Context(), n.sessions, visitor, c.PostForm("id")))
	})
	personal.POST("/visits/end-others", func(c *gin.Context) {
		n.ginRedirect(c, "/login", n.shop.EndOtherVisits(c.Request.Context(), ginadapter.Session(c)))
	})
	get(personal, "/me", func(c *gin.Context) { n.ginMe(c, nil) })
	personal.POST("/me/viewed", func(c *gin.Context) {
		n.ginMe(c, n.shop.View(c.Request.Context(), c.PostForm("id")))
	})

	get(r, "/static/:file", gin.WrapH(shop.Static()))
	get(r, "/healthz", gin.WrapF(n.health))
	get(r, "/readyz", gin.WrapF(n.ready))
	r.NoRoute(func(c *gin.Context) { n.ginProblem(c, n.shop.ProblemStatus(http.StatusNotFound, "")) })
	return r
}

// get routes GET and HEAD, as net/http does by itself.
func get(r gin.IRoutes, path string, handlers ...gin.HandlerFunc) {
	r.Match([]string{http.MethodGet, http.MethodHead}, path, handlers...)
}

func (n *node) ginPage(c *gin.Context, name string, view interface{ Base() *shop.Page }, err error) {
	if err != nil {
		n.ginProblem(c, n.shop.Problem(err))
		return
	}
	c.Header("X-Computation", view.Base().Computation.Header())
	c.HTML(http.StatusOK, name, view)
}

func (n *node) ginProblem(c *gin.Context, view *shop.ProblemView) {
	c.Header("Cache-Control", "no-store")
	c.HTML(view.Status, "problem.html", view)
}

func (n *node) ginRedirect(c *gin.Context, to string, err error) {
	if err != nil {
		n.ginProblem(c, n.shop.Problem(err))
		return
	}
	c.Redirect(http.StatusSeeOther, to)
}

// ginMe answers a script, unless err says that something went wrong before.
func (n *node) ginMe(c *gin.Context, err error) {
	var me *shop.Me
	if err == nil {
		me, err = n.shop.Me(c.Request.Context())
	}
	c.Header("Cache-Control", "no-store")
	if err != nil {
		p := n.shop.Problem(err)
		c.JSON(p.Status, jsonError{p.Text})
		return
	}
	c.JSON(http.StatusOK, me)
}

// ginTemplates lets c.HTML render the shop's pages.
type ginTemplates struct{ *shop.Templates }

func (t ginTemplates) Instance(name string, view any) render.Render {
	return ginTemplate{t.Templates, name, view}
}

type ginTemplate struct {
	templates *shop.Templates
	name      string
	view      any
}

func (t ginTemplate) Render(w http.ResponseWriter) error {
	body, err := t.templates.Render(t.name, t.view)
	if err != nil {
		http.Error(w, "This page is broken.", http.StatusInternalServerError)
		return err
	}
	t.WriteContentType(w)
	_, err = w.Write(body)
	return err
}

func (ginTemplate) WriteContentType(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
}
