package traffic

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"html/template"
	"log/slog"
	"net/http"
	"strconv"
	"time"
)

var (
	//go:embed dashboard.html
	pageSource string
	page       = template.Must(template.New("dashboard").Parse(pageSource))

	//go:embed dashboard.css
	style string
	//go:embed dashboard.js
	script string

	// policy allows the style and the script by their digests, and nothing else.
	// With nonces the page could not take itself apart when it renews itself.
	policy = "default-src 'none'; style-src " + digest(style) + "; script-src " + digest(script) +
		"; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// view is a time that the dashboard can show.
type view struct {
	Name   string
	Title  string
	length time.Duration
	step   Unit
	boards Window
}

var views = []view{
	{"hour", "Last hour", time.Hour, UnitMinute, Hour},
	{"day", "Last day", 24 * time.Hour, UnitHour, Day},
	{"month", "Last 30 days", 30 * 24 * time.Hour, UnitDay, AllTime},
}

// shownEntries is how many members of a board, and rows, the dashboard shows.
const shownEntries = 10

// Dashboard returns a handler that shows what happens, to those for whom authorise
// returns true; the others get 403. If authorise is nil everybody gets 404.
//
// It answers with a page that renews itself every five seconds, and says so if it cannot,
// because the server is away or the visitor is logged out; or with JSON if the
// query has format=json. The query's window is hour, day or month. The page is one
// document with pictures in it: it loads nothing from anywhere, and its
// Content-Security-Policy allows nothing but its own style and script.
func (r *Recorder) Dashboard(authorise func(*http.Request) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		switch {
		case authorise == nil:
			http.NotFound(w, req)
			return
		case !authorise(req):
			http.Error(w, "This page is not for you.", http.StatusForbidden)
			return
		case req.Method != http.MethodGet && req.Method != http.MethodHead:
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "Ask with GET.", http.StatusMethodNotAllowed)
			return
		}
		query := req.URL.Query()
		v, ok := viewOf(query.Get("window"))
		if !ok {
			http.Error(w, "The window is hour, day or month.", http.StatusBadRequest)
			return
		}
		f, err := r.figures(req.Context(), v)
		if err != nil {
			r.opts.Logger.LogAttrs(req.Context(), slog.LevelWarn, "traffic: the figures cannot be shown", slog.Any("error", err))
			http.Error(w, "The figures cannot be read at the moment.", http.StatusServiceUnavailable)
			return
		}
		var body bytes.Buffer
		if query.Get("format") == "json" {
			h.Set("Content-Type", "application/json")
			err = json.NewEncoder(&body).Encode(f)
		} else {
			h.Set("Content-Type", "text/html; charset=utf-8")
			h.Set("Content-Security-Policy", policy)
			h.Set("Referrer-Policy", "no-referrer")
			err = page.Execute(&body, f.page(v))
		}
		if err != nil { // a mistake of this package
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		h.Set("Content-Length", strconv.Itoa(body.Len()))
		_, _ = w.Write(body.Bytes()) // fails only when the client has gone
	})
}

func viewOf(name string) (view, bool) {
	if name == "" {
		return views[0], true
	}
	for _, v := range views {
		if v.Name == name {
			return v, true
		}
	}
	return view{}, false
}

// figures are what the dashboard shows, and what it says as JSON.
type figures struct {
	From   time.Time          `json:"from"`
	To     time.Time          `json:"to"`
	Total  sums               `json:"total"`
	Points []point            `json:"points"`
	Routes []named            `json:"routes"`
	Nodes  []named            `json:"nodes"`
	Boards map[string][]Entry `json:"boards"`
	step   Unit
}

// sums are counters as one wants to see them.
type sums struct {
	Requests  uint64            `json:"requests"`
	PerSecond float64           `json:"perSecond"`
	Status    map[string]uint64 `json:"status"`
	Bytes     uint64            `json:"bytes"`
	Latency   latency           `json:"latencyMs"`
	Cache     cacheSums         `json:"cache"`
	Visitors  *uint64           `json:"visitors,omitempty"`
}

type latency struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
}

type cacheSums struct {
	Lookups uint64  `json:"lookups"`
	Hits    uint64  `json:"hits"`
	Ratio   float64 `json:"hitRatio"`
}

type point struct {
	Start time.Time `json:"start"`
	sums
}

type named struct {
	Name string `json:"name"`
	sums
}

func sumsOf(c *Counters, length time.Duration) sums {
	s := sums{
		Requests: c.Requests(), Bytes: c.Bytes, Status: make(map[string]uint64),
		Latency: latency{millis(c.Mean()), millis(c.Percentile(0.5)), millis(c.Percentile(0.9)), millis(c.Percentile(0.99))},
		Cache:   cacheSums{c.CacheLookups, c.CacheHits, c.HitRatio()},
	}
	if length > 0 {
		s.PerSecond = float64(s.Requests) / length.Seconds()
	}
	for i, n := range c.Status {
		s.Status[strconv.Itoa(i+1)+"xx"] = n
	}
	return s
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (r *Recorder) figures(ctx context.Context, v view) (*figures, error) {
	ctx, cancel := context.WithTimeout(ctx, r.opts.Timeout)
	defer cancel()
	now := r.clock.now()
	report, err := r.Report(ctx, now.Add(-v.length), now, v.step)
	if err != nil {
		return nil, err
	}
	length := report.To.Sub(report.From)
	f := &figures{From: report.From, To: report.To, Total: sumsOf(&report.Total, length), Boards: make(map[string][]Entry), step: v.step}
	f.Total.Visitors = &report.Visitors
	for i := range report.Points {
		p := &report.Points[i]
		s := sumsOf(&p.Counters, p.Length)
		s.Visitors = &p.Visitors
		f.Points = append(f.Points, point{p.Start, s})
	}
	f.Routes, f.Nodes = namedOf(report.Routes, length), namedOf(report.Nodes, length)
	boards := r.allBoards()
	tops, err := r.tops(ctx, boards, v.boards.bucket(now), shownEntries)
	if err != nil {
		return nil, err
	}
	for i, b := range boards {
		f.Boards[b.table.board] = append([]Entry{}, tops[i]...) // null is no list
	}
	return f, nil
}

func namedOf(rows []Row, length time.Duration) []named {
	out := make([]named, 0, len(rows)) // null is no list
	for i := range rows {
		out = append(out, named{rows[i].Name, sumsOf(&rows[i].Counters, length)})
	}
	return out
}
