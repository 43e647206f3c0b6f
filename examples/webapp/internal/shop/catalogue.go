package shop

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

//go:generate go run ./gen

//go:embed products.json
var productsJSON []byte

// Product is something that the shop sells.
type Product struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Category string `json:"category"`
	Cents    int    `json:"cents"`
	Text     string `json:"text"`
	// Emoji, Hue and Pattern make the picture.
	Emoji   string `json:"emoji"`
	Hue     int    `json:"hue"`
	Pattern int    `json:"pattern"`
}

// Category is a shelf of the shop.
type Category struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Emoji string `json:"emoji"`
	Count int    `json:"-"`
}

// Catalogue is all that the shop sells. It is read-only.
type Catalogue struct {
	Categories []Category `json:"categories"`
	Products   []Product  `json:"products"`

	byID map[string]*Product
}

// LoadCatalogue reads the catalogue that is embedded in the program.
func LoadCatalogue() (*Catalogue, error) {
	var c Catalogue
	if err := json.Unmarshal(productsJSON, &c); err != nil {
		return nil, fmt.Errorf("shop: the catalogue: %w", err)
	}
	c.byID = make(map[string]*Product, len(c.Products))
	count := map[string]int{}
	for i := range c.Products {
		p := &c.Products[i]
		if c.byID[p.ID] != nil {
			return nil, fmt.Errorf("shop: the catalogue: two products %q", p.ID)
		}
		c.byID[p.ID] = p
		count[p.Category]++
	}
	for i := range c.Categories {
		c.Categories[i].Count = count[c.Categories[i].ID]
	}
	return &c, nil
}

// Product returns the product called id.
func (c *Catalogue) Product(id string) (*Product, error) {
	if p := c.byID[id]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("%w: there is no product %q", ErrNotFound, id)
}

// Category returns the category called id; "" stands for all products.
func (c *Catalogue) Category(id string) (*Category, error) {
	if id == "" {
		return &Category{Name: "Everything", Emoji: "🐑", Count: len(c.Products)}, nil
	}
	i := slices.IndexFunc(c.Categories, func(c Category) bool { return c.ID == id })
	if i < 0 {
		return nil, fmt.Errorf("%w: there is no category %q", ErrNotFound, id)
	}
	return &c.Categories[i], nil
}

// In returns the products of a category; "" stands for all.
func (c *Catalogue) In(category string) []*Product {
	return c.where(func(p *Product) bool { return category == "" || p.Category == category })
}

// Search returns the products whose name, text or category contain every word
// of q. No word finds nothing.
func (c *Catalogue) Search(q string) []*Product {
	words := strings.Fields(strings.ToLower(q))
	if len(words) == 0 {
		return nil
	}
	return c.where(func(p *Product) bool {
		text := strings.ToLower(p.Name + " " + p.Text + " " + p.Category)
		for _, w := range words {
			if !strings.Contains(text, w) {
				return false
			}
		}
		return true
	})
}

func (c *Catalogue) where(keep func(*Product) bool) []*Product {
	var list []*Product
	for i := range c.Products {
		if keep(&c.Products[i]) {
			list = append(list, &c.Products[i])
		}
	}
	return list
}
