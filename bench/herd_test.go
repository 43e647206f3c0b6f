package bench

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/herdless/herdless/bench/internal/report"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/viccon/sturdyc"
)

const (
	herdProcesses = 3
	herdWork      = 100 * time.Millisecond // what the handler takes
	// Of what expires: its lifetime, and how long it is stale.
	herdTTL   = time.Second
	herdStale = time.Minute

	stampedeClients = 500 // of each process
	expiryClients   = 200
	steadyClients   = 10
	steadyPause     = 5 * time.Millisecond
	steadyLength    = 3500 * time.Millisecond
)

// herdLibraries cache a page for several processes. The last two are data
// behind a handler, as one does it by hand.
var herdLibraries = []pageLibrary{
	{"herdless", report.Ours, false, herdlessOnRedis(0)},
	{"gin-cache", report.Peer, false, ginOnRedis},
	{"gofiber cache", report.Peer, false, fiberOnRedis},
	{"sturdyc over Redis", report.Peer, false, sturdycPages},
	{"redsync around GET and SET", report.Peer, false, redsyncPages},
}

// sturdycPages keeps pages in sturdyc, with Redis as its distributed storage.
// What is stale may be had while it is loaded anew.
func sturdycPages(addr string, p *pages, keep policy) (site, func(), error) {
	rdb := newClient(addr)
	options := []sturdyc.Option{sturdyc.WithDistributedStorage(sturdyStorage{rdb, keep.ttl})}
	ttl := keep.ttl
	if keep.stale > 0 {
		ttl += keep.stale
		options = []sturdyc.Option{
			sturdyc.WithEarlyRefreshes(keep.ttl, keep.ttl, ttl, 10*time.Millisecond),
			sturdyc.WithDistributedStorageEarlyRefreshes(sturdyStorage{rdb, ttl}, keep.ttl),
		}
	}
	c := sturdyc.New[[]byte](10_000, 10, ttl, 10, options...)
	return httpSite{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := c.GetOrFetch(r.Context(), r.URL.Path, func(context.Context) ([]byte, error) {
			p.work()
			p.runs.Add(1)
			return p.body, nil
		})
		serveBytes(w, body, err)
	})}, func() { _ = rdb.Close() }, nil
}

func serveBytes(w http.ResponseWriter, body []byte, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write(body)
}

// sturdyStorage is a sturdyc.DistributedStorageWithDeletions.
type sturdyStorage struct {
	rdb *redis.Client
	ttl time.Duration
}

func (s sturdyStorage) Get(ctx context.Context, key string) ([]byte, bool) {
	v, err := s.rdb.Get(ctx, key).Bytes()
	return v, err == nil
}

func (s sturdyStorage) Set(ctx context.Context, key string, value []byte) {
	s.rdb.Set(ctx, key, value, s.ttl)
}

func (s sturdyStorage) GetBatch(ctx context.Context, keys []string) map[string][]byte {
	out := map[string][]byte{}
	for _, k := range keys {
		if v, ok := s.Get(ctx, k); ok {
			out[k] = v
		}
	}
	return out
}

func (s sturdyStorage) SetBatch(ctx context.Context, records map[string][]byte) {
	for k, v := range records {
		s.Set(ctx, k, v)
	}
}

func (s sturdyStorage) Delete(ctx context.Context, key string)         { s.rdb.Del(ctx, key) }
func (s sturdyStorage) DeleteBatch(ctx context.Context, keys []string) { s.rdb.Del(ctx, keys...) }

// redsyncPages reads a page from Redis, and has one make it under a lock of
// redsync's with its defaults.
func redsyncPages(addr string, p *pages, keep policy) (site, func(), error) {
	rdb := newClient(addr)
	locks := redsync.New(goredis.NewPool(rdb))
	get := func(ctx context.Context, key string) ([]byte, error) {
		body, err := rdb.Get(ctx, key).Bytes()
		if err == nil || err != redis.Nil { //nolint:errorlint // as it is returned
			return body, err
		}
		m := locks.NewMutex("lock:" + key)
		if err := m.LockContext(ctx); err != nil {
			return nil, err
		}
		defer func() { _, _ = m.UnlockContext(ctx) }()
		body, err = rdb.Get(ctx, key).Bytes() // somebody else may have made it
		if err == nil || err != redis.Nil {   //nolint:errorlint // as it is returned
			return body, err
		}
		p.work()
		p.runs.Add(1)
		return p.body, rdb.Set(ctx, key, p.body, keep.ttl).Err()
	}
	return httpSite{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := get(r.Context(), r.URL.Path)
		serveBytes(w, body, err)
	})}, func() { _ = rdb.Close() }, nil
}

// The names of their cases.
var (
	stampedeName = fmt.Sprintf("%d × %d clients", herdProcesses, stampedeClients)
	expiryName   = fmt.Sprintf("%d × %d clients", herdProcesses, expiryClients)
	steadyName   = fmt.Sprintf("steady, %d × %d clients", herdProcesses, steadyClients)
)

func herdScenarios() []scenario {
	return []scenario{{
		id: "stampede", title: "Stampede on a cold page", headline: "p99",
		text: fmt.Sprintf("%d clients in each of %d processes ask for the same page of 4 KiB at once, which nobody has. Its handler takes %v. Executions and commands are of all "+
			"processes together; failed are answers other than 200. redsync has its 32 tries.", stampedeClients, herdProcesses, herdWork),
		measure: func(b *testing.B, s scenario) []report.Case {
			return herd(b, s, stampedeName, stampede)
		},
	}, {
		id: "expiry", title: "A burst at the expiry of a page that may be served stale", headline: "p99",
		text: fmt.Sprintf("%d clients in each of %d processes ask at once for a page that every process has served and whose second is over. Its handler takes %v. herdless has "+
			"stale-while-revalidate, sturdyc early refreshes; the others have nothing like it. \"Steady\" is %d clients in each process that ask every %v, while the page expires three times.",
			expiryClients, herdProcesses, herdWork, steadyClients, steadyPause),
		measure: func(b *testing.B, s scenario) []report.Case {
			return append(herd(b, s, expiryName, atExpiry),
				herd(b, s, steadyName, steadily)...)
		},
	}}
}

// herd has the libraries take turns at what one turn does.
func herd(b *testing.B, s scenario, name string, turn func(h *herdTurn) (Burst, error)) []report.Case {
	e := theEffort()
	server := redistest.NewStandalone(b)
	processes := startProcesses(b, herdProcesses, server.Addr())
	rows := make([]row, len(herdLibraries))
	for i, lib := range herdLibraries {
		rows[i] = row{lib.name, lib.kind}
	}
	do := func(round, i int, counted bool) report.Sample {
		h := &herdTurn{b: b, server: server, processes: processes, counted: counted, order: SiteOrder{
			Library: herdLibraries[i].name, Path: fmt.Sprintf("/%s-%d-%d", s.id, round, i), Work: herdWork, Length: small,
		}}
		got, err := turn(h)
		if err != nil {
			b.Fatalf("%s: %v", h.order.Library, err)
		}
		if i == 0 && got.Failed > 0 {
			b.Errorf("herdless: %d of %d failed", got.Failed, len(got.Latencies))
		}
		sample := got.sample()
		if counted {
			sample["commands"] = float64(h.commands)
		}
		return sample
	}
	c := inTurn(name, s.headline, e.herds, rows, func(round, i int) report.Sample { return do(round, i, false) })
	for i := range rows {
		c.Rows[i].Values["commands"] = do(e.herds, i, true)["commands"]
	}
	return []report.Case{c}
}

// herdTurn is a library on a page of its own, in all processes.
type herdTurn struct {
	b         *testing.B
	server    *redistest.Server
	processes []process
	order     SiteOrder
	// counted turns count what is sent to Redis, which slows Redis down: their
	// times are not used.
	counted  bool
	commands int
}

// burst has the clients of all processes ask.
func (h *herdTurn) burst(o BurstOrder) error {
	var feed *watched
	if h.counted {
		feed = monitor(h.b, h.server.Addr())
	}
	// When every process has got its order.
	o.At = time.Now().Add(150 * time.Millisecond).UnixNano()
	o.Site = h.order
	_, err := h.all("Process.Burst", o)
	if err == nil && h.counted {
		h.commands = feed.sent().commands
	}
	return err
}

// all asks every process for something at the same time.
func (h *herdTurn) all(method string, order any) (Burst, error) {
	var sum Burst
	results, err := askAll[Burst](h.processes, method, order)
	for _, r := range results {
		sum.add(r)
	}
	return sum, err
}

func stampede(h *herdTurn) (Burst, error) {
	h.order.TTL = pageTTL
	if _, err := h.all("Process.Open", h.order); err != nil {
		return Burst{}, err
	}
	if err := h.burst(BurstOrder{Clients: stampedeClients}); err != nil {
		return Burst{}, err
	}
	return h.all("Process.Close", h.order)
}

func atExpiry(h *herdTurn) (Burst, error) {
	return h.afterPriming(herdTTL+300*time.Millisecond, BurstOrder{Clients: expiryClients}) // gofiber looks at the clock every 300 ms
}

func steadily(h *herdTurn) (Burst, error) {
	return h.afterPriming(0, BurstOrder{Clients: steadyClients, Every: steadyPause, For: steadyLength})
}

// afterPriming has the clients ask for a page some time after every process has
// served it.
func (h *herdTurn) afterPriming(pause time.Duration, o BurstOrder) (Burst, error) {
	h.order.TTL, h.order.Stale = herdTTL, herdStale
	if err := h.prime(); err != nil {
		return Burst{}, err
	}
	time.Sleep(pause)
	if err := h.burst(o); err != nil {
		return Burst{}, err
	}
	time.Sleep(3 * herdWork) // for what goes on in the background
	got, err := h.all("Process.Close", h.order)
	got.Executions-- // the first
	got.FirstEnd = 0 // who is served what is stale waits for none
	return got, err
}

// prime has every process serve the page, one after the other.
func (h *herdTurn) prime() error {
	if _, err := h.all("Process.Open", h.order); err != nil {
		return err
	}
	for i := range h.processes {
		if _, err := askAll[Burst](h.processes[i:i+1], "Process.Burst", BurstOrder{Site: h.order, Clients: 1}); err != nil {
			return err
		}
	}
	_, err := h.all("Process.Forget", h.order)
	return err
}
