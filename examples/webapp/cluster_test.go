package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/herdless/herdless/internal/redistest"
)

const (
	product = "tansy-bread-board-ochre"
	title   = "Tansy Bread Board, ochre"
)

// startThree starts three processes, one of them on gin, all by environment, as
// docker-compose.yml does.
func startThree(t *testing.T, redisURL string) []*program {
	t.Helper()
	var nodes []*program
	for i, router := range []string{"nethttp", "gin", "nethttp"} {
		nodes = append(nodes, start(t, []string{
			"REDIS_URL=" + redisURL, "NODE_ONLY=true", fmt.Sprintf("NODE_NAME=node-%d", i+1), "ROUTER=" + router,
		}))
	}
	return nodes
}

func TestThreeProcessesOnOneRedis(t *testing.T) {
	testThreeProcesses(t, redistest.NewStandalone(t).URL())
}

func TestThreeProcessesOnSentinel(t *testing.T) {
	testThreeProcesses(t, redistest.SharedSentinels(t).URL())
}

func TestThreeProcessesOnCluster(t *testing.T) {
	testThreeProcesses(t, redistest.SharedCluster(t).URL())
}

// Log in on A, read on B, kill -9 A, still logged in on C; and a cold page is
// computed once for all.
func testThreeProcesses(t *testing.T, redisURL string) {
	nodes := startThree(t, redisURL)
	a, b, c := nodes[0], nodes[1], nodes[2]
	ada := newBrowser(t)
	ada.post(a.url+"/login", url.Values{"name": {"Ada"}})
	if p := ada.get(b.url + "/me"); !strings.Contains(p.body, `"user":"Ada"`) {
		t.Fatalf("logged in on A, but B says %s", p.body)
	}
	ada.post(b.url+"/cart", url.Values{"id": {product}})
	ada.post(c.url+"/cart/quantity", url.Values{"id": {product}, "n": {"3"}})
	for _, n := range nodes {
		p := ada.get(n.url + "/cart")
		if !strings.Contains(p.body, title) || !strings.Contains(p.body, `name="n" value="3"`) || !strings.Contains(p.body, "Ada’s cart") {
			t.Errorf("%s shows another cart: %s", p.header.Get("X-Node"), p.body)
		}
	}
	ada.post(a.url+"/me/viewed", url.Values{"id": {product}})
	if p := ada.get(c.url + "/me"); !strings.Contains(p.body, `"id":"`+product+`"`) {
		t.Errorf("viewed on A, but C has not heard of it: %s", p.body)
	}

	t.Run("a cold page is computed once", func(t *testing.T) { testCold(t, nodes) })

	a.kill()
	if p := ada.get(c.url + "/cart"); !strings.Contains(p.body, "Ada’s cart") || !strings.Contains(p.body, title) {
		t.Errorf("A is dead, and C has forgotten: %s", p.body)
	}
	ada.post(c.url+"/logout", url.Values{})
	if p := ada.get(b.url + "/me"); !strings.Contains(p.body, `"user":""`) {
		t.Errorf("logged out on C, but B says %s", p.body)
	}
}

// testCold sends 300 requests for a page that nobody has asked for yet, over all
// nodes at once.
func testCold(t *testing.T, nodes []*program) {
	const requests = 300
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: patience}
	host := redistest.Prefix(t) + ".test" // part of the page's key
	host = strings.NewReplacer(":", "", "{", "", "}", "").Replace(host)
	var mu sync.Mutex
	computations, faults := map[string]int{}, []string{}
	gate := make(chan struct{})
	var all sync.WaitGroup
	for i := range requests {
		all.Go(func() {
			<-gate
			computation, err := cold(client, nodes[i%len(nodes)].url+"/?category=light", host)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				faults = append(faults, err.Error())
			}
			computations[computation]++
		})
	}
	close(gate)
	all.Wait()
	if len(faults) > 0 {
		t.Errorf("%d of %d requests failed, first: %s", len(faults), requests, faults[0])
	}
	if len(computations) != 1 {
		t.Errorf("the page was computed %d times, want once: %v", len(computations), computations)
	}
}

// cold asks for a page and returns which computation it came from.
func cold(client *http.Client, url, host string) (string, error) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	req.Host = host
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	node, id, _ := strings.Cut(resp.Header.Get("X-Computation"), "/")
	if resp.StatusCode != http.StatusOK || id == "" || !strings.Contains(string(body), id) || !strings.Contains(string(body), node) {
		return "", fmt.Errorf("status %d, computation %q does not stand in the page", resp.StatusCode, id)
	}
	return id, nil
}

// The default: one process, three nodes, a balancer, no Redis.
func TestInProcessCluster(t *testing.T) {
	p := start(t, nil)
	if out := strings.Join(p.stdout, "\n"); !strings.Contains(out, "3 nodes behind a round-robin balancer") ||
		!strings.Contains(out, "node-2 (gin)") || !strings.Contains(out, "in-process stores") {
		t.Errorf("the first lines do not tell what runs: %s", out)
	}
	testBalanced(t, p, 500)
}

// The same nodes in one process, on each kind of Redis.
func TestClusterOnRedis(t *testing.T) {
	for name, url := range map[string]string{
		"standalone": redistest.NewStandalone(t).URL(),
		"sentinel":   redistest.SharedSentinels(t).URL(),
		"cluster":    redistest.SharedCluster(t).URL(),
	} {
		t.Run(name, func(t *testing.T) { testBalanced(t, start(t, nil, "-redis", url), 500) })
	}
}

func testBalanced(t *testing.T, p *program, requests int) {
	ada := newBrowser(t)
	ada.post(p.url+"/login", url.Values{"name": {"Ada"}})
	ada.post(p.url+"/cart", url.Values{"id": {product}})
	served := map[string]int{}
	for range 10 {
		cart := ada.get(p.url + "/cart")
		served[cart.header.Get("X-Node")]++
		if !strings.Contains(cart.body, title) || !strings.Contains(cart.body, "Ada’s cart") {
			t.Fatalf("%s shows another cart: %s", cart.header.Get("X-Node"), cart.body)
		}
	}
	if len(served) != 3 || min(served["node-1"], served["node-2"], served["node-3"]) < 3 {
		t.Errorf("10 requests were served by %v, want each node in turn", served)
	}

	var herd struct {
		Requests     int
		Computations int
		Statuses     map[string]int
		Nodes        []string
		P50, P99     float64
		Served       []map[string]any
		Samples      []struct{ Outcome string }
	}
	body := ada.post(p.url+"/herd/run", url.Values{"requests": {strconv.Itoa(requests)}, "mode": {"herdless"}}).body
	if err := json.Unmarshal([]byte(body), &herd); err != nil {
		t.Fatal(err)
	}
	t.Logf("herd: %d computations for %d requests, p50 %v ms, p99 %v ms, %v", herd.Computations, herd.Requests, herd.P50, herd.P99, herd.Served)
	if herd.Computations != 1 || herd.Statuses["200"] != requests || len(herd.Samples) != requests {
		t.Errorf("got %d computations and %v for %d requests, want 1 and as many times 200", herd.Computations, herd.Statuses, requests)
	}
	if !slices.Equal(herd.Nodes, []string{"node-1", "node-2", "node-3"}) {
		t.Errorf("the herd met %v, want all three nodes", herd.Nodes)
	}
	outcomes := map[string]int{}
	for _, s := range herd.Samples {
		outcomes[s.Outcome]++
	}
	if outcomes["computed"] != 1 || outcomes["computed"]+outcomes["waited"]+outcomes["hit"] != requests {
		t.Errorf("outcomes are %v, want one computed and the rest waited or hit", outcomes)
	}

	// It was the visitor's own catalogue page that expired and came back.
	catalogue := ada.get(p.url + "/")
	if got := catalogue.header.Get("Server-Timing"); !strings.Contains(got, `cache;desc="hit"`) {
		t.Errorf("after the herd the catalogue is %q, want a hit", got)
	}

	body = ada.post(p.url+"/herd/run", url.Values{"requests": {"12"}, "mode": {"uncached"}}).body
	if err := json.Unmarshal([]byte(body), &herd); err != nil {
		t.Fatal(err)
	}
	if herd.Computations != 12 {
		t.Errorf("without the cache: %d computations for 12 requests, want 12", herd.Computations)
	}
}
