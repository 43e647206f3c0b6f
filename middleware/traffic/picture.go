package traffic

import (
	"fmt"
	"html/template"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The size of a chart, in units of its own: the page scales it.
const (
	chartWidth  = 640
	chartHeight = 150
)

// pageData is what dashboard.html is made of.
type pageData struct {
	Style  template.CSS
	Script template.JS
	Views  []view
	View   view
	From   string
	To     string
	Tiles  []tile
	Charts []chart
	Tables []rowTable
	Boards []boardList
}

type tile struct{ Title, Value, Detail string }

// chart is a picture over time.
type chart struct {
	Title, Now       string // the last value, as a text
	Width, Height    int
	Top, Left, Right string // what the axes say
	Lines            []line
	Bars             []bar
	Spots            []spot
}

type line struct{ Name, Class, Points, Area string }

type bar struct{ X, Y, Width, Height string }

// spot is where the pointer learns the figures of one point.
type spot struct{ X, Width, Text string }

type rowTable struct {
	Title string
	Rows  []tableRow
}

type tableRow struct {
	Name, Requests, PerSecond, Errors, P50, P99, Bytes, Hits string
	Share                                                    string // in percent of the first one
}

type boardList struct {
	Title string
	Rows  []boardRow
}

type boardRow struct {
	Rank          int
	Member, Score string
	Share         string
}

func (f *figures) page(v view) pageData {
	d := pageData{Style: template.CSS(style), Script: template.JS(script), Views: views, View: v, From: f.clock(f.From), To: f.To.UTC().Format("2 January 2006, 15:04:05 UTC")}
	t := &f.Total
	d.Tiles = []tile{
		{"Requests", short(float64(t.Requests)), short(t.PerSecond) + " a second"},
		{"Visitors", short(float64(*t.Visitors)), "different ones"},
		{"Latency", ms(t.Latency.P50), "99 %: " + ms(t.Latency.P99)},
		{"Errors", percent(ratio(t.Status["5xx"], t.Requests)), short(float64(t.Status["5xx"])) + " answers 5xx"},
		{"Cache hits", percent(t.Cache.Ratio), "of " + short(float64(t.Cache.Lookups)) + " lookups"},
		{"Sent", size(t.Bytes), "in bodies"},
	}
	f = f.drawn()
	d.Charts = []chart{
		f.lines("Requests per second", short, "", series{"all", "a", func(s *sums) float64 { return s.PerSecond }},
			series{"5xx", "bad", func(s *sums) float64 { return s.PerSecond * ratio(s.Status["5xx"], s.Requests) }}),
		f.lines("Latency", ms, "", series{"50 %", "a", latencyOf(func(l *latency) float64 { return l.P50 })},
			series{"90 %", "b", latencyOf(func(l *latency) float64 { return l.P90 })}, series{"99 %", "c", latencyOf(func(l *latency) float64 { return l.P99 })}),
		f.lines("Cache hit ratio", percent, "whole", series{"hits", "a", func(s *sums) float64 {
			if s.Cache.Lookups == 0 {
				return math.NaN()
			}
			return s.Cache.Ratio
		}}),
		f.bars("Unique visitors", func(s *sums) float64 { return float64(*s.Visitors) }),
	}
	d.Tables = []rowTable{{"Routes", rows(f.Routes)}, {"Servers", rows(f.Nodes)}}
	for _, name := range slices.Sorted(maps.Keys(f.Boards)) {
		b := boardList{Title: name}
		list := f.Boards[name]
		for _, e := range list {
			b.Rows = append(b.Rows, boardRow{e.Rank, e.Member, short(float64(e.Score)), share(float64(e.Score), float64(list[0].Score))})
		}
		d.Boards = append(d.Boards, b)
	}
	return d
}

// drawn returns figures without a last point that has only begun: it would say
// nothing but that.
func (f *figures) drawn() *figures {
	if n := len(f.Points); n > 1 && f.To.Sub(f.Points[n-1].Start) < f.step.Duration()/6 {
		c := *f
		c.Points = f.Points[:n-1]
		return &c
	}
	return f
}

// series is one line of a chart. Where its value is not a number there is none.
type series struct {
	name, class string
	value       func(*sums) float64
}

func latencyOf(which func(*latency) float64) func(*sums) float64 {
	return func(s *sums) float64 {
		if s.Requests == 0 {
			return math.NaN()
		}
		return which(&s.Latency)
	}
}

// lines draws a line for each series. The scale goes up to 1 if it is "whole".
func (f *figures) lines(title string, text func(float64) string, scale string, all ...series) chart {
	c := f.chart(title)
	top := 0.0
	for i := range f.Points {
		for _, s := range all {
			if v := s.value(&f.Points[i].sums); v > top {
				top = v
			}
		}
	}
	top = roof(top)
	if scale == "whole" {
		top = 1
	}
	c.Top = text(top)
	for _, s := range all {
		var points []string
		first, last := 0.0, 0.0
		for i := range f.Points {
			v := s.value(&f.Points[i].sums)
			if math.IsNaN(v) {
				continue
			}
			last = f.x(i)
			if len(points) == 0 {
				first = last
			}
			points = append(points, number(last)+","+number(chartHeight*(1-v/top)))
		}
		if len(points) == 1 {
			points = append(points, points[0]) // a line of one point is not drawn, not even as a dot
		}
		l := line{Name: s.name, Class: s.class, Points: strings.Join(points, " ")}
		if s.class == "a" && first < last {
			l.Area = fmt.Sprintf("%s,%d %s %s,%d", number(first), chartHeight, l.Points, number(last), chartHeight)
		}
		c.Lines = append(c.Lines, l)
	}
	f.spots(&c, func(s *sums) string {
		var parts []string
		for _, line := range all {
			if v := line.value(s); !math.IsNaN(v) {
				parts = append(parts, line.name+" "+text(v))
			}
		}
		if len(parts) == 0 {
			return "nothing"
		}
		return strings.Join(parts, ", ")
	})
	return c
}

func (f *figures) bars(title string, value func(*sums) float64) chart {
	c := f.chart(title)
	top := 0.0
	for i := range f.Points {
		top = max(top, value(&f.Points[i].sums))
	}
	top = roof(top)
	c.Top = short(top)
	width := chartWidth / float64(max(len(f.Points), 1))
	for i := range f.Points {
		h := chartHeight * value(&f.Points[i].sums) / top
		c.Bars = append(c.Bars, bar{number(float64(i)*width + width*0.1), number(chartHeight - h), number(width * 0.8), number(h)})
	}
	f.spots(&c, func(s *sums) string { return short(value(s)) })
	return c
}

func (f *figures) chart(title string) chart {
	c := chart{Title: title, Width: chartWidth, Height: chartHeight}
	if n := len(f.Points); n > 0 {
		c.Left, c.Right = f.clock(f.Points[0].Start), f.clock(f.Points[n-1].Start)
	}
	return c
}

// x returns where the i-th point is.
func (f *figures) x(i int) float64 {
	return (float64(i) + 0.5) * chartWidth / float64(len(f.Points))
}

func (f *figures) spots(c *chart, text func(*sums) string) {
	width := chartWidth / float64(max(len(f.Points), 1))
	for i := range f.Points {
		t := text(&f.Points[i].sums)
		c.Spots = append(c.Spots, spot{number(float64(i) * width), number(width), f.clock(f.Points[i].Start) + ": " + t})
		c.Now = t
	}
}

// clock writes a time as exactly as the points are.
func (f *figures) clock(t time.Time) string {
	if f.step == UnitDay {
		return t.UTC().Format("2 Jan")
	}
	return t.UTC().Format("15:04")
}

func rows(list []named) (out []tableRow) {
	for i := range list[:min(len(list), shownEntries)] {
		n := &list[i]
		name := n.Name
		if name == "" {
			name = "(no route)"
		}
		out = append(out, tableRow{
			Name: name, Requests: short(float64(n.Requests)), PerSecond: short(n.PerSecond), Errors: percent(ratio(n.Status["5xx"], n.Requests)),
			P50: ms(n.Latency.P50), P99: ms(n.Latency.P99), Bytes: size(n.Bytes), Hits: percent(n.Cache.Ratio),
			Share: share(float64(n.Requests), float64(list[0].Requests)),
		})
	}
	return out
}

func share(part, whole float64) string {
	if whole <= 0 {
		return "0"
	}
	return number(100 * max(part, 0) / whole)
}

// roof returns the next round number that is not below v, and is positive.
func roof(v float64) float64 {
	if v <= 0 {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(v)))
	for _, f := range []float64{1, 2, 5} {
		if v <= f*unit {
			return f * unit
		}
	}
	return 10 * unit
}

func number(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }

func percent(v float64) string { return number(100*v) + " %" }

// short writes a number in three digits or so.
func short(v float64) string {
	switch a := math.Abs(v); {
	case a >= 1e9:
		return significant(v/1e9) + " G"
	case a >= 1e6:
		return significant(v/1e6) + " M"
	case a >= 1e4:
		return significant(v/1e3) + " k"
	}
	return significant(v)
}

func significant(v float64) string {
	switch a := math.Abs(v); {
	case a == math.Trunc(a) || a >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

func ms(v float64) string {
	if v >= 1000 {
		return significant(v/1000) + " s"
	}
	return significant(v) + " ms"
}

func size(n uint64) string {
	v := float64(n)
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if v < 1024 {
			return significant(v) + " " + unit
		}
		v /= 1024
	}
	return significant(v) + " TiB"
}
