package shop_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/herdless/herdless/examples/webapp/internal/shop"
)

func newShop(t *testing.T) *shop.Shop {
	t.Helper()
	s, err := shop.New("node-1", 0, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCatalogue(t *testing.T) {
	c, err := shop.LoadCatalogue()
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Products) != 300 || len(c.Categories) != 10 {
		t.Errorf("got %d products in %d categories, want 300 in 10", len(c.Products), len(c.Categories))
	}
	for _, p := range c.Products {
		if _, err := c.Category(p.Category); err != nil || p.ID == "" || p.Name == "" || p.Text == "" || p.Emoji == "" || p.Cents <= 0 {
			t.Errorf("an odd product: %+v, %v", p, err)
		}
	}
	for q, want := range map[string]int{"": 0, "  ": 0, "lantern": 3, "LANTERN": 3, "lantern knife": 0} {
		if got := len(c.Search(q)); got != want {
			t.Errorf("search for %q: got %d products, want %d", q, got, want)
		}
	}
}

// products.json is what the generator makes.
func TestGenerated(t *testing.T) {
	dir := t.TempDir()
	gen := filepath.Join(dir, "gen")
	if out, err := exec.Command("go", "build", "-o", gen, "./gen").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(gen)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got, err1 := os.ReadFile(filepath.Join(dir, "products.json"))
	want, err2 := os.ReadFile("products.json")
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("products.json is not what the generator makes; run go generate")
	}
}

func TestCataloguePages(t *testing.T) {
	s := newShop(t)
	seen := map[string]bool{}
	for _, number := range []string{"", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13"} {
		v, err := s.Catalogue(context.Background(), "", number)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range v.Products {
			seen[p.ID] = true
		}
	}
	if len(seen) != 300 {
		t.Errorf("the pages show %d products, want all 300", len(seen))
	}
	for _, odd := range []struct{ category, number string }{
		{"", "0"}, {"", "14"}, {"", "-1"}, {"", "x"}, {"none", ""}, {"light", "3"},
	} {
		if _, err := s.Catalogue(context.Background(), odd.category, odd.number); !errors.Is(err, shop.ErrNotFound) {
			t.Errorf("page %+v: got %v, want %v", odd, err, shop.ErrNotFound)
		}
	}
}

// Every page can be rendered, and a fault in one leaves nothing of it.
func TestTemplates(t *testing.T) {
	s := newShop(t)
	templates, err := shop.ParseTemplates()
	if err != nil {
		t.Fatal(err)
	}
	c, err := shop.LoadCatalogue()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range c.Products {
		v, err := s.Product(p.ID)
		if err != nil {
			t.Fatal(err)
		}
		body, err := templates.Render("product.html", v)
		if err != nil || !strings.Contains(string(body), v.Computation.ID) {
			t.Errorf("%s: the page is not whole: %v", p.ID, err)
		}
	}
	for _, status := range []int{400, 401, 403, 404, 500, 503} {
		if _, err := templates.Render("problem.html", s.ProblemStatus(status, "")); err != nil {
			t.Error(err)
		}
	}
	if body, err := templates.Render("product.html", struct{}{}); err == nil || body != nil {
		t.Errorf("a fault in a template: got %d bytes and error %v", len(body), err)
	}
}
