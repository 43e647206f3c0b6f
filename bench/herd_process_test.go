package bench

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/herdless/herdless/bench/internal/report"
)

// askAll has every process do something at the same time.
func askAll[R any](processes []process, method string, order any) ([]R, error) {
	results := make([]R, len(processes))
	errs := make([]error, len(processes))
	var wg sync.WaitGroup
	for i, p := range processes {
		wg.Go(func() { errs[i] = p.Call(method, order, &results[i]) })
	}
	wg.Wait()
	return results, errors.Join(errs...)
}

// SiteOrder names a page on a library, and how it is kept and made.
type SiteOrder struct {
	Library, Path    string
	TTL, Stale, Work time.Duration
	Length           int
}

// BurstOrder has clients ask for a page from a time on, once, or every so often
// for a while.
type BurstOrder struct {
	Site       SiteOrder
	Clients    int
	At         int64
	Every, For time.Duration
}

// Burst is what came of it. Times are in nanoseconds since 1970.
type Burst struct {
	Latencies []time.Duration
	Arrivals  []int64
	Failed    int // were not answered with the page
	// FirstEnd is when the first execution of the handler ended; 0 for none.
	FirstEnd   int64
	Executions int
}

func (b *Burst) add(c Burst) {
	b.Latencies = append(b.Latencies, c.Latencies...)
	b.Arrivals = append(b.Arrivals, c.Arrivals...)
	b.Failed += c.Failed
	b.Executions += c.Executions
	if b.FirstEnd == 0 || c.FirstEnd != 0 && c.FirstEnd < b.FirstEnd {
		b.FirstEnd = c.FirstEnd
	}
}

func (b *Burst) sample() report.Sample {
	s := report.Sample{
		"executions": float64(b.Executions),
		"failed":     float64(b.Failed),
		"p50":        millis(report.Median(b.Latencies)),
		"p99":        millis(report.Percentile(b.Latencies, 99)),
		"max":        millis(report.Percentile(b.Latencies, 100)),
	}
	if b.FirstEnd != 0 {
		after := make([]time.Duration, len(b.Arrivals))
		for i, at := range b.Arrivals {
			after[i] = max(0, time.Duration(at-b.FirstEnd))
		}
		s["wake99"] = millis(report.Percentile(after, 99))
	}
	return s
}

// openSite is a site of a process, and what came of its bursts.
type openSite struct {
	site
	close func()
	pages *pages

	mu  sync.Mutex
	got Burst
}

func libraryNamed(name string) (pageLibrary, error) {
	for _, lib := range slices.Concat(herdLibraries, redisPageLibraries, localPageLibraries) {
		if lib.name == name {
			return lib, nil
		}
	}
	return pageLibrary{}, fmt.Errorf("no library %q", name)
}

// Open opens a site and connects it to Redis with as many connections as it
// will have.
func (s *service) Open(o SiteOrder, _ *Burst) error {
	lib, err := libraryNamed(o.Library)
	if err != nil {
		return err
	}
	p := newPages(o.Length)
	web, closeSite, err := lib.open(s.addr, p, policy{o.TTL, o.Stale})
	if err != nil {
		return err
	}
	opened := &openSite{site: web, close: closeSite, pages: p}
	// A page beside the one that is asked for: opens connections, loads scripts.
	var wg sync.WaitGroup
	errs := make([]error, 20)
	for i := range errs {
		wg.Go(func() { _, errs[i] = must200(web, fmt.Sprintf("%s-warm-%d", o.Path, i), nil) })
	}
	wg.Wait()
	p.runs.Store(0)
	p.work = func() {
		time.Sleep(o.Work)
		opened.mu.Lock()
		defer opened.mu.Unlock()
		if opened.got.FirstEnd == 0 {
			opened.got.FirstEnd = time.Now().UnixNano()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sites[o.Path] = opened
	return errors.Join(errs...)
}

func (s *service) siteOf(o SiteOrder) (*openSite, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if web, ok := s.sites[o.Path]; ok {
		return web, nil
	}
	return nil, fmt.Errorf("no site %s", o.Path)
}

// Burst has clients ask.
func (s *service) Burst(o BurstOrder, _ *Burst) error {
	web, err := s.siteOf(o.Site)
	if err != nil {
		return err
	}
	start := time.Unix(0, o.At)
	clients := make([]func() (int, bool), o.Clients)
	for i := range clients {
		clients[i] = web.client(o.Site.Path, web.pages.body)
	}
	results := make([]Burst, o.Clients)
	errs := make([]error, o.Clients)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() { errs[i] = ask(clients[i], &results[i], o, start) })
	}
	wg.Wait()
	web.mu.Lock()
	defer web.mu.Unlock()
	for _, r := range results {
		web.got.add(r)
	}
	return errors.Join(errs...)
}

// ask is one client.
func ask(do func() (status int, same bool), got *Burst, o BurstOrder, start time.Time) error {
	for due := start; ; due = due.Add(o.Every) {
		from := due
		if wait := time.Until(due); wait > 0 {
			time.Sleep(wait)
			from = time.Now() // that the timer is late is not the cache's doing,
			due = from        // nor that the next one is
		} else if o.At == 0 {
			from = time.Now()
		}
		status, same := do()
		arrived := time.Now()
		if status != http.StatusOK {
			got.Failed++
		} else if !same {
			return fmt.Errorf("%s: the bytes are not the page's", o.Site.Library)
		}
		got.Latencies = append(got.Latencies, arrived.Sub(from))
		got.Arrivals = append(got.Arrivals, arrived.UnixNano())
		if o.Every == 0 || arrived.Sub(start) > o.For {
			return nil
		}
	}
}

// Forget drops what came of the bursts so far, but for the executions.
func (s *service) Forget(o SiteOrder, _ *Burst) error {
	web, err := s.siteOf(o)
	if err != nil {
		return err
	}
	web.mu.Lock()
	defer web.mu.Unlock()
	web.got = Burst{}
	return nil
}

// Close closes a site and returns what came of its bursts.
func (s *service) Close(o SiteOrder, got *Burst) error {
	web, err := s.siteOf(o)
	if err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.sites, o.Path)
	s.mu.Unlock()
	web.close()
	web.mu.Lock()
	defer web.mu.Unlock()
	*got = web.got
	got.Executions = int(web.pages.runs.Load())
	return nil
}
