// Package shop is a small shop without any web framework: its catalogue, its
// carts, and what its pages show. Two routers, net/http and gin, put thin
// handlers in front of it.
//
// Everything that belongs to a visitor lives in the session of the context, so
// each method that is about a visitor needs a request that went through
// session.Manager's Handler.
package shop

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/herdless/herdless/session"
)

const (
	perPage = 24
	// databaseSlots is how many questions the pretended database of a node
	// answers at a time. More of them wait in line, as in life.
	databaseSlots = 8
)

// Shop is the shop as one node serves it. It is safe for concurrent use.
type Shop struct {
	node      string
	work      time.Duration
	database  chan struct{}
	catalogue *Catalogue
	log       *slog.Logger
}

// New returns the shop on the node of that name. work is how long its
// catalogue page takes to compute.
func New(node string, work time.Duration, log *slog.Logger) (*Shop, error) {
	catalogue, err := LoadCatalogue()
	if err != nil {
		return nil, err
	}
	return &Shop{
		node: node, work: work, catalogue: catalogue, log: log,
		database: make(chan struct{}, databaseSlots),
	}, nil
}

// Node returns the name of the node.
func (s *Shop) Node() string { return s.node }

// Work returns how long the catalogue page takes to compute.
func (s *Shop) Work() time.Duration { return s.work }

// Computation says where and when a page was computed. It is stored with the
// page, so that two responses with the same ID come from the same computation.
type Computation struct {
	ID   string
	Node string
	At   time.Time
}

// Header returns the value for the X-Computation header.
func (c Computation) Header() string { return c.Node + "/" + c.ID }

func (s *Shop) computation() Computation {
	var id [6]byte
	rand.Read(id[:]) // never fails
	return Computation{ID: hex.EncodeToString(id[:]), Node: s.node, At: time.Now()}
}

// CatalogueView is a page of the catalogue.
type CatalogueView struct {
	Page
	Categories []Category
	Category   Category
	Products   []*Product
	Number     int   // of the page, from 1
	Numbers    []int // of all pages
	Work       time.Duration
	Uncached   bool
}

// Catalogue computes one page of the catalogue: slowly, because it pretends to
// ask a busy database. number is the page's, as the client wrote it.
func (s *Shop) Catalogue(ctx context.Context, category, number string) (*CatalogueView, error) {
	shelf, err := s.catalogue.Category(category)
	if err != nil {
		return nil, err
	}
	products := s.catalogue.In(category)
	pages := (len(products) + perPage - 1) / perPage
	n := 1
	if number != "" {
		if n, err = strconv.Atoi(number); err != nil || n < 1 || n > pages {
			return nil, ErrNotFound
		}
	}
	if err := s.askDatabase(ctx); err != nil {
		return nil, err
	}
	v := &CatalogueView{
		Page:       s.page("catalogue", shelf.Name),
		Categories: s.catalogue.Categories,
		Category:   *shelf,
		Products:   products[(n-1)*perPage : min(n*perPage, len(products))],
		Number:     n,
		Work:       s.work,
	}
	for i := range pages {
		v.Numbers = append(v.Numbers, i+1)
	}
	s.log.Info("computed the catalogue", "node", s.node, "category", category, "page", n, "computation", v.Computation.ID)
	return v, nil
}

// CatalogueTwin computes the first page of the catalogue, for the route without
// a cache.
func (s *Shop) CatalogueTwin(ctx context.Context) (*CatalogueView, error) {
	v, err := s.Catalogue(ctx, "", "")
	if err == nil {
		v.Uncached = true
	}
	return v, err
}

// askDatabase takes s.work, and longer when the database is busy.
func (s *Shop) askDatabase(ctx context.Context) error {
	select {
	case s.database <- struct{}{}:
		defer func() { <-s.database }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	timer := time.NewTimer(s.work)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ProductView is the page of one product.
type ProductView struct {
	Page
	Product  *Product
	Category Category
	Similar  []*Product
}

// Product computes the page of a product.
func (s *Shop) Product(id string) (*ProductView, error) {
	p, err := s.catalogue.Product(id)
	if err != nil {
		return nil, err
	}
	category, err := s.catalogue.Category(p.Category)
	if err != nil {
		return nil, err
	}
	v := &ProductView{Page: s.page("catalogue", p.Name), Product: p, Category: *category}
	for _, other := range s.catalogue.In(p.Category) {
		if other.Emoji == p.Emoji && other != p && len(v.Similar) < 4 {
			v.Similar = append(v.Similar, other)
		}
	}
	for _, other := range s.catalogue.In(p.Category) {
		if other.Emoji != p.Emoji && len(v.Similar) < 4 {
			v.Similar = append(v.Similar, other)
		}
	}
	return v, nil
}

// SearchView is what a search found.
type SearchView struct {
	Page
	Query    string
	Products []*Product
	Total    int
}

// Search looks for products.
func (s *Shop) Search(q string) *SearchView {
	q = clip(q, 80)
	found := s.catalogue.Search(q)
	v := &SearchView{Page: s.page("search", "Search"), Query: q, Total: len(found)}
	v.Products = found[:min(len(found), 2*perPage)]
	return v
}

// CartView is the page of the visitor's cart.
type CartView struct {
	Page
	Lines  []CartLine
	Cents  int
	Viewed []*Product
}

// CartLine is a line of the cart, as the page shows it.
type CartLine struct {
	*Product
	Quantity int
	Sum      int
}

// Cart shows the visitor's cart.
func (s *Shop) Cart(ctx context.Context) (*CartView, error) {
	page, cart, err := s.personal(ctx, "cart", "Your cart")
	if err != nil {
		return nil, err
	}
	v := &CartView{Page: page}
	for _, l := range cart.Lines {
		// What is no longer for sale leaves the cart without a word.
		if p, err := s.catalogue.Product(l.ID); err == nil {
			v.Lines = append(v.Lines, CartLine{p, l.Quantity, p.Cents * l.Quantity})
			v.Cents += p.Cents * l.Quantity
		}
	}
	v.Viewed, err = s.viewed(ctx)
	return v, err
}

// LoginView is the page on which visitors log in and out.
type LoginView struct {
	Page
	Names  []string
	Visits []session.Info // of a visitor who is logged in, the present one first
}

// Login shows the log-in page, and who is logged in where he is.
func (s *Shop) Login(ctx context.Context) (*LoginView, error) {
	page, _, err := s.personal(ctx, "login", "Log in")
	if err != nil {
		return nil, err
	}
	v := &LoginView{Page: page, Names: []string{"Ada", "Grace", "Linus", "Margaret", "Rob"}}
	if v.User == "" {
		return v, nil
	}
	v.Visits, err = session.FromContext(ctx).Sessions(ctx)
	slices.SortStableFunc(v.Visits, func(a, b session.Info) int {
		switch {
		case a.Current == b.Current:
			return 0
		case a.Current:
			return -1
		}
		return 1
	})
	return v, err
}

// HerdView is the page of the thundering herd.
type HerdView struct {
	Page
	Work time.Duration
}

// Herd shows the herd page.
func (s *Shop) Herd() *HerdView {
	return &HerdView{Page: s.page("herd", "The herd"), Work: s.work}
}

// Me is what the pages, which are the same for everybody, do not know about
// their visitor. The browser asks for it.
type Me struct {
	Node   string     `json:"node"`
	User   string     `json:"user"`
	Cart   int        `json:"cart"`
	Viewed []*Product `json:"viewed"`
}

// Me returns what is the visitor's own.
func (s *Shop) Me(ctx context.Context) (*Me, error) {
	page, _, err := s.personal(ctx, "", "")
	if err != nil {
		return nil, err
	}
	viewed, err := s.viewed(ctx)
	return &Me{Node: s.node, User: page.User, Cart: page.CartCount, Viewed: viewed}, err
}

func (s *Shop) viewed(ctx context.Context) ([]*Product, error) {
	ids, err := viewedKey.Get(ctx)
	list := []*Product{}
	for _, id := range ids {
		if p, err := s.catalogue.Product(id); err == nil {
			list = append(list, p)
		}
	}
	return list, err
}

// Page is what every page has.
type Page struct {
	Title string
	// Section is the part of the shop that the navigation marks.
	Section     string
	Computation Computation
	// User and CartCount are set on pages that know their visitor, and are for
	// them alone. On all others the browser fills them in; see Me.
	User      string
	CartCount int
}

// Base returns the page; every view has it.
func (p *Page) Base() *Page { return p }

func (s *Shop) page(section, title string) Page {
	return Page{Title: title, Section: section, Computation: s.computation()}
}

// personal returns the beginning of a page that knows its visitor.
func (s *Shop) personal(ctx context.Context, section, title string) (Page, Cart, error) {
	page := s.page(section, title)
	cart, err := cartKey.Get(ctx)
	if err != nil {
		return page, cart, err
	}
	page.CartCount = cart.Count()
	page.User, err = session.FromContext(ctx).User(ctx)
	return page, cart, err
}

func clip(s string, runes int) string {
	for i := range s {
		if runes == 0 {
			return s[:i]
		}
		runes--
	}
	return s
}
