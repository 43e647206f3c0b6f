package shop

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/herdless/herdless/session"
)

// What a visitor's session holds. Every node reads and writes the same values,
// whichever router it has and wherever the sessions are stored.
var (
	cartKey   = session.NewKey[Cart]("cart")
	viewedKey = session.NewKey[[]string]("viewed")
)

const (
	maxLines    = 40 // different products in a cart
	maxQuantity = 99 // of one product
	maxViewed   = 6
	maxName     = 30
)

// Cart is what a visitor is about to buy.
type Cart struct {
	Lines []Line `json:"lines"`
}

// Line is so many of one product.
type Line struct {
	ID       string `json:"id"`
	Quantity int    `json:"n"`
}

// Count returns how many things are in the cart.
func (c Cart) Count() int {
	n := 0
	for _, l := range c.Lines {
		n += l.Quantity
	}
	return n
}

// with returns the cart with the quantity of a product set, without changing c.
func (c Cart) with(id string, quantity int) (Cart, error) {
	lines := slices.Clone(c.Lines)
	i := slices.IndexFunc(lines, func(l Line) bool { return l.ID == id })
	switch {
	case quantity <= 0 && i >= 0:
		lines = slices.Delete(lines, i, i+1)
	case quantity <= 0:
	case i >= 0:
		lines[i].Quantity = min(quantity, maxQuantity)
	case len(lines) == maxLines:
		return c, fmt.Errorf("%w: a cart holds %d different things at most", ErrInvalid, maxLines)
	default:
		lines = append(lines, Line{id, min(quantity, maxQuantity)})
	}
	return Cart{lines}, nil
}

// AddToCart puts one more of a product into the visitor's cart. Of many clicks at
// the very same moment, on whichever nodes, each counts.
func (s *Shop) AddToCart(ctx context.Context, id string) error {
	return s.changeCart(ctx, id, func(old int) int { return old + 1 })
}

// SetQuantity sets how many of a product are in the cart; 0 takes it out.
func (s *Shop) SetQuantity(ctx context.Context, id string, quantity int) error {
	return s.changeCart(ctx, id, func(int) int { return quantity })
}

func (s *Shop) changeCart(ctx context.Context, id string, change func(old int) int) error {
	if _, err := s.catalogue.Product(id); err != nil {
		return err
	}
	_, err := cartKey.Update(ctx, func(cart Cart) (Cart, error) {
		old := 0
		for _, l := range cart.Lines {
			if l.ID == id {
				old = l.Quantity
			}
		}
		return cart.with(id, change(old))
	})
	return err
}

// View notes that the visitor looks at a product.
func (s *Shop) View(ctx context.Context, id string) error {
	if _, err := s.catalogue.Product(id); err != nil {
		return err
	}
	_, err := viewedKey.Update(ctx, func(old []string) ([]string, error) {
		list := append([]string{id}, slices.DeleteFunc(slices.Clone(old), func(o string) bool { return o == id })...)
		return list[:min(len(list), maxViewed)], nil
	})
	return err
}

// LogIn logs the visitor in under a name; this is a demonstration, so that
// nobody is asked for a password. The session gets a new token.
func (s *Shop) LogIn(ctx context.Context, visitor *session.Session, name string) error {
	name = strings.Join(strings.Fields(name), " ")
	switch {
	case name == "":
		return fmt.Errorf("%w: please tell us a name", ErrInvalid)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("%w: a name is made of ordinary characters", ErrInvalid)
	case utf8.RuneCountInString(name) > maxName:
		return fmt.Errorf("%w: a name has %d characters at most", ErrInvalid, maxName)
	}
	return visitor.Login(ctx, name)
}

// LogOut ends the visitor's session, with everything in it, on every node.
func (s *Shop) LogOut(ctx context.Context, visitor *session.Session) error {
	return visitor.Destroy(ctx)
}

// EndVisit ends another of the visitor's sessions, as the page of Login lists
// them, wherever that is open.
func (s *Shop) EndVisit(ctx context.Context, sessions *session.Manager, visitor *session.Session, id string) error {
	user, err := visitor.User(ctx)
	if err != nil || user == "" {
		return err
	}
	_, err = sessions.Revoke(ctx, user, id) // one that has ended by itself is fine, too
	return err
}

// EndOtherVisits ends all sessions of the visitor but the present one.
func (s *Shop) EndOtherVisits(ctx context.Context, visitor *session.Session) error {
	user, err := visitor.User(ctx)
	if err != nil || user == "" {
		return err
	}
	_, err = visitor.RevokeOthers(ctx)
	return err
}
