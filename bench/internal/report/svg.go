package report

import (
	"encoding/xml"
	"fmt"
	"strings"
)

// The measures of a picture, in its own units (pixels at its natural size).
const (
	svgWidth  = 860
	svgLabels = 290 // where the bars begin
	svgBars   = 440 // the longest bar
	svgRow    = 22
	svgBar    = 15
	svgTop    = 76 // title, subtitle, legend
)

// Colours that are told apart also without colour vision, on white.
var colours = map[Kind]string{Ours: "#0b5cad", Peer: "#e08a2e", Floor: "#b5bcc4"}

// SVG draws the headline metric of a scenario: a group of bars for each case,
// in a scale of its own that begins at zero. A bar with a gap is longer than
// there is room for.
func SVG(s Scenario) []byte {
	m := metric(s.Headline)
	better := "more is better"
	if m.Less {
		better = "less is better"
	}
	height := svgTop
	for _, c := range s.Cases {
		height += svgRow * (len(c.Rows) + 2)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" font-family="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif" font-size="13" fill="#1f2328">`+"\n",
		svgWidth, height, svgWidth, height)
	fmt.Fprintf(&b, "<title>%s</title>\n", escape(s.Title))
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", svgWidth, height)
	text := func(x, y int, attributes, s string) {
		fmt.Fprintf(&b, `<text x="%d" y="%d"%s>%s</text>`+"\n", x, y, attributes, escape(s))
	}
	text(16, 26, ` font-size="17" font-weight="600"`, s.Title)
	text(16, 46, ` fill="#59636e"`, m.Label+", "+better+"; measured "+s.Measured.UTC().Format("2006-01-02"))
	for i, k := range []Kind{Ours, Peer, Floor} {
		x := 16 + i*110
		fmt.Fprintf(&b, `<rect x="%d" y="56" width="11" height="11" fill="%s"/>`+"\n", x, colours[k])
		text(x+17, 66, ` font-size="12"`, string(k))
	}
	y := svgTop
	for _, c := range s.Cases {
		y += svgRow
		text(16, y+12, ` font-weight="600"`, c.Name)
		y += svgRow
		longest := scale(c, s.Headline)
		for _, r := range c.Rows {
			v, ok := r.Values[s.Headline]
			width, label := 0.0, "–"
			if ok {
				label = Num(v)
			}
			if longest > 0 {
				width = min(max(1, svgBars*v/longest), svgBars)
			}
			text(svgLabels-8, y+12, ` text-anchor="end"`, r.Name)
			fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", svgLabels, y, width, svgBar, colours[r.Kind])
			if v > longest {
				// It goes on: a gap in the bar.
				fmt.Fprintf(&b, `<path d="M%d %d l6 %d h5 l-6 -%d z" fill="#ffffff"/>`+"\n", svgLabels+svgBars-40, y, svgBar, svgBar)
			}
			text(svgLabels+int(width)+6, y+12, "", label)
			y += svgRow
		}
	}
	b.WriteString("</svg>\n")
	return []byte(b.String())
}

// scale returns the value of the longest bar of a case. Floors that are far
// longer than what is compared are cut off.
func scale(c Case, headline string) float64 {
	compared, all := 0.0, 0.0
	for _, r := range c.Rows {
		all = max(all, r.Values[headline])
		if r.Kind != Floor {
			compared = max(compared, r.Values[headline])
		}
	}
	if compared > 0 && all > 3*compared {
		return compared
	}
	return all
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes everything
	return b.String()
}
