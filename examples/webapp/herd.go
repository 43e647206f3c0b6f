package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/herdless/herdless/examples/webapp/internal/shop"
)

// herd fires many requests for one page at the same moment. It does so from
// here and not from the browser, because browsers open few connections at once.
type herd struct {
	target string        // scheme and host of the balancer, or of this node
	work   time.Duration // that one computation of the page takes
	purge  func(ctx context.Context, urls ...string) error
	busy   sync.Mutex // one herd at a time
}

const (
	modeHerdless = "herdless" // the catalogue
	modeUncached = "uncached" // its twin without a cache

	maxHerd         = 1000
	maxHerdUncached = 120 // more would keep the database busy for too long
	herdTimeout     = 30 * time.Second
	// failed is the outcome of a request that got no page.
	failed = "failed"
)

var errHerdBusy = errors.New("a herd is on its way on this node already")

// herdResult is what became of a herd. Durations are in milliseconds.
type herdResult struct {
	Mode         string         `json:"mode"`
	URL          string         `json:"url"`
	At           string         `json:"at"`
	Requests     int            `json:"requests"`
	Computations int            `json:"computations"`
	Work         float64        `json:"work"`
	Wall         float64        `json:"wall"`
	P50          float64        `json:"p50"`
	P99          float64        `json:"p99"`
	Statuses     map[string]int `json:"statuses"`
	// Nodes are the names of the nodes that answered, Served counts the
	// outcomes for each.
	Nodes  []string         `json:"nodes"`
	Served []map[string]any `json:"served"`
	// Computed are the computations that the responses came from.
	Computed []computation `json:"computed"`
	// Samples are the requests in the order in which they were sent.
	Samples []sample `json:"samples"`
}

type computation struct {
	Node   string `json:"node"`
	ID     string `json:"id"`
	Served int    `json:"served"`
}

type sample struct {
	Node    int     `json:"node"` // index into Nodes, -1 if no node answered
	Outcome string  `json:"outcome"`
	MS      float64 `json:"ms"`
}

// reply is one response as it came.
type reply struct {
	sent        time.Time
	took        time.Duration
	status      string
	node        string
	outcome     string
	computation string
}

// run lets the page expire and sends n requests for it, with host as their
// Host, so that it is the very page that the visitor's browser asks for.
func (h *herd) run(ctx context.Context, host, mode string, n int) (*herdResult, error) {
	path, most := "/", maxHerd
	switch mode {
	case modeHerdless:
	case modeUncached:
		path, most = "/uncached", maxHerdUncached
	default:
		return nil, fmt.Errorf("%w: the mode must be %s or %s", shop.ErrInvalid, modeHerdless, modeUncached)
	}
	if n < 1 || n > most {
		return nil, fmt.Errorf("%w: a herd has from 1 to %d requests", shop.ErrInvalid, most)
	}
	if !h.busy.TryLock() {
		return nil, errHerdBusy
	}
	defer h.busy.Unlock()
	ctx, cancel := context.WithTimeout(ctx, herdTimeout)
	defer cancel()
	if mode == modeHerdless {
		if err := h.expire(ctx, "http://"+host+path); err != nil {
			return nil, err
		}
	}
	began := time.Now()
	replies := h.fire(ctx, host, path, n)
	r := summarise(replies)
	r.Mode, r.Requests, r.Work, r.Wall = mode, n, ms(h.work), ms(time.Since(began))
	r.URL, r.At = "http://"+host+path, began.UTC().Format("15:04:05 UTC")
	return r, nil
}

// expire returns when no node has the page any more.
func (h *herd) expire(ctx context.Context, url string) error {
	if err := h.purge(ctx, url); err != nil {
		return err
	}
	select {
	case <-time.After(staleness):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fire sends all requests at the same moment, each over a connection of its own.
func (h *herd) fire(ctx context.Context, host, path string, n int) []reply {
	transport := &http.Transport{DialContext: boundedDialer(herdTimeout), DisableCompression: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	replies := make([]reply, n)
	gate := make(chan struct{})
	var all sync.WaitGroup
	for i := range replies {
		all.Go(func() {
			<-gate
			replies[i] = ask(ctx, client, h.target+path, host)
		})
	}
	close(gate)
	all.Wait()
	return replies
}

func ask(ctx context.Context, client *http.Client, url, host string) (r reply) {
	r = reply{sent: time.Now(), status: "no answer", outcome: failed}
	defer func() { r.took = time.Since(r.sent) }()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return r
	}
	req.Host = host
	resp, err := client.Do(req)
	if err != nil {
		return r
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return r
	}
	r.status, r.node = strconv.Itoa(resp.StatusCode), resp.Header.Get("X-Node")
	r.computation = resp.Header.Get("X-Computation")
	if resp.StatusCode == http.StatusOK && r.computation != "" {
		// Without a Cache-Status the page has no cache.
		r.outcome = cmp.Or(outcome(resp.Header), computed)
	}
	return r
}

// boundedDialer dials a bounded number of connections at a time: what a herd
// tests is the cache, not how long a queue of new connections the system has.
func boundedDialer(timeout time.Duration) func(ctx context.Context, network, addr string) (net.Conn, error) {
	slots := make(chan struct{}, 64)
	dialer := net.Dialer{Timeout: timeout}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			return dialer.DialContext(ctx, network, addr)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func summarise(replies []reply) *herdResult {
	slices.SortStableFunc(replies, func(a, b reply) int { return a.sent.Compare(b.sent) })
	r := &herdResult{
		Statuses: map[string]int{}, Nodes: []string{}, Served: []map[string]any{}, Computed: []computation{},
	}
	var latencies []time.Duration
	served := map[string]int{}
	for _, p := range replies {
		latencies = append(latencies, p.took)
		r.Statuses[p.status]++
		if p.node != "" && !slices.Contains(r.Nodes, p.node) {
			r.Nodes = append(r.Nodes, p.node)
		}
		if p.computation != "" {
			served[p.computation]++
		}
	}
	slices.Sort(r.Nodes)
	slices.Sort(latencies)
	r.P50, r.P99 = ms(percentile(latencies, 50)), ms(percentile(latencies, 99))
	for c, n := range served {
		node, id, _ := strings.Cut(c, "/")
		r.Computed = append(r.Computed, computation{node, id, n})
	}
	slices.SortFunc(r.Computed, func(a, b computation) int {
		return cmp.Or(b.Served-a.Served, cmp.Compare(a.Node, b.Node), cmp.Compare(a.ID, b.ID))
	})
	r.Computations = len(r.Computed)

	count := make([]map[string]int, len(r.Nodes))
	for i := range count {
		count[i] = map[string]int{}
	}
	for _, p := range replies {
		i := slices.Index(r.Nodes, p.node)
		if i >= 0 {
			count[i][p.outcome]++
		}
		r.Samples = append(r.Samples, sample{i, p.outcome, ms(p.took)})
	}
	for i, name := range r.Nodes {
		r.Served = append(r.Served, map[string]any{
			"node": name, computed: count[i][computed], waited: count[i][waited], hit: count[i][hit], failed: count[i][failed],
		})
	}
	return r
}

// percentile returns the smallest value that p of 100 values do not exceed.
func percentile(sorted []time.Duration, p int) time.Duration {
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}

// ms is a duration in milliseconds, to the tenth.
func ms(d time.Duration) float64 { return math.Round(float64(d)/1e5) / 10 }
