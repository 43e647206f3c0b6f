// Command gen writes the shop's catalogue: the same 300 products at every run.
//
//	go generate ./internal/shop
package main

import (
	"bytes"
	"encoding/json"
	"log"
	"math/rand/v2"
	"os"
	"strings"
)

// Product has the fields of shop.Product.
type Product struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Category string `json:"category"`
	Cents    int    `json:"cents"`
	Text     string `json:"text"`
	Emoji    string `json:"emoji"`
	Hue      int    `json:"hue"`
	Pattern  int    `json:"pattern"`
}

// kind is a kind of thing that the shop sells, in three makes and colours.
type kind struct {
	noun, emoji string
	euros       int
	text        string
}

type category struct {
	id, name string
	kinds    []kind
	endings  []string // how the descriptions of its products end
}

type colour struct {
	name string
	hue  int
}

var makers = []string{
	"Halden", "Mirel", "Osta", "Varde", "Tansy", "Kesti", "Lumo", "Orla", "Fenn", "Sorrel", "Brook", "Ansel",
}

var colours = []colour{
	{"copper", 20},
	{"moss", 95},
	{"slate", 212},
	{"sand", 42},
	{"plum", 310},
	{"lagoon", 184},
	{"rose", 345},
	{"ochre", 36},
	{"ink", 232},
	{"clay", 12},
	{"fern", 132},
	{"lilac", 268},
}

const variants = 3

func main() {
	log.SetFlags(0)
	rnd := rand.New(rand.NewPCG(2, 71))
	products := []Product{}
	for _, c := range categories {
		for _, k := range c.kinds {
			who, how := rnd.Perm(len(makers)), rnd.Perm(len(colours))
			for v := range variants {
				maker, colour := makers[who[v]], colours[how[v]]
				name := maker + " " + k.noun + ", " + colour.name
				// Between 85 % and 130 % of the usual price, ending in .90 or .50.
				euros := max(1, k.euros*(85+rnd.IntN(46))/100)
				products = append(products, Product{
					ID:       slug(name),
					Name:     name,
					Category: c.id,
					Cents:    euros*100 + []int{50, 90}[rnd.IntN(2)],
					Text:     k.text + " " + c.endings[rnd.IntN(len(c.endings))],
					Emoji:    k.emoji,
					Hue:      colour.hue,
					Pattern:  rnd.IntN(4),
				})
			}
		}
	}
	// The front page shows a bit of everything.
	rnd.Shuffle(len(products), func(i, j int) { products[i], products[j] = products[j], products[i] })

	type named struct {
		ID    string `json:"id"`
		Name  string `json:"name"`
		Emoji string `json:"emoji"`
	}
	var names []named
	for _, c := range categories {
		names = append(names, named{c.id, c.name, c.kinds[0].emoji})
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	out.WriteString("{\n\"categories\": [\n")
	lines(&out, enc, names)
	out.WriteString("],\n\"products\": [\n")
	lines(&out, enc, products)
	out.WriteString("]\n}\n")
	if err := os.WriteFile("products.json", out.Bytes(), 0o644); err != nil {
		log.Fatal(err)
	}
}

// lines writes one element a line, so that a change shows as one.
func lines[T any](out *bytes.Buffer, enc *json.Encoder, list []T) {
	for i, e := range list {
		if err := enc.Encode(e); err != nil {
			log.Fatal(err)
		}
		if i < len(list)-1 {
			out.Truncate(out.Len() - 1)
			out.WriteString(",\n")
		}
	}
}

func slug(name string) string {
	return strings.Join(strings.FieldsFunc(strings.ToLower(name), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	}), "-")
}
