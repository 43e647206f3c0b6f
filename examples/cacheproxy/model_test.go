package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
)

// This file runs cacheproxy in front of an origin whose pages change all the time, and
// checks each response against a model of what a shared cache may answer.
//
// Every page has a version that grows by writes, through a proxy or behind its back. The
// origin notes when each version begins. A body follows from the page, the version and
// who asks for it, and the ETag names the latter two, so that a response tells what it
// claims to be and each byte of it can be checked.

// class is what the origin says of the pages of one kind.
type class struct {
	name    string
	control string
	vary    string
	// fresh is for how long what the origin has said may be repeated, also by
	// stale-while-revalidate or stale-if-error.
	fresh time.Duration
	// sharing is with whom a response may be shared; others get one of their own.
	sharing sharing
	// personal pages have a body for each user.
	personal  bool
	setCookie bool
	group     string
	modified  time.Duration // how long ago, as the origin says; 0: it says nothing
}

// sharing says which requests may share a response.
type sharing uint8

const (
	withAll       sharing = iota // it is declared public, or as good as that
	withTrusting                 // all but, with -profile safe, those with cookies
	withAnonymous                // neither those with Authorization nor, with -profile safe, those with cookies
	withNobody
)

const forever = 1000 * time.Hour

// classesFor returns what the origin serves. With -profile conformance the cache trusts
// what the origin says of cookies, so it must say the right thing.
func classesFor(profile string) []*class {
	classes := []*class{
		{name: "max-age", control: "max-age=1", fresh: time.Second, sharing: withAnonymous},
		{name: "s-maxage", control: "s-maxage=1, max-age=60", fresh: time.Second},
		{name: "public", control: "public, max-age=1", fresh: time.Second},
		{name: "strict", control: "max-age=1, must-revalidate", fresh: time.Second, sharing: withTrusting},
		{name: "no-cache", control: "no-cache", sharing: withAnonymous},
		{name: "no-store", control: "no-store", personal: true, sharing: withNobody},
		{name: "private", control: "private, max-age=60", personal: true, sharing: withNobody},
		{name: "vary", control: "max-age=1", vary: "X-V", fresh: time.Second, sharing: withAnonymous},
		{name: "vary-long", control: "max-age=3600", vary: "X-V", fresh: forever, sharing: withAnonymous},
		{name: "revalidate", control: "max-age=1, stale-while-revalidate=2", fresh: 3 * time.Second, sharing: withAnonymous},
		{name: "if-error", control: "max-age=1, stale-if-error=3", fresh: 4 * time.Second, sharing: withAnonymous},
		{name: "long", control: "max-age=3600", fresh: forever, sharing: withAnonymous},
		{name: "group", control: "max-age=3600", fresh: forever, group: "all", sharing: withAnonymous},
	}
	if profile == "conformance" {
		return append(classes,
			&class{name: "silent", control: "max-age=60", vary: "Cookie", personal: true, fresh: time.Minute, sharing: withAnonymous},
			&class{name: "cookie", control: "max-age=60", setCookie: true, fresh: time.Minute, sharing: withAnonymous},
			// A tenth of the time since it was modified, and of what is cut off
			// to whole seconds.
			&class{name: "undated", modified: 20 * time.Second, fresh: 2200 * time.Millisecond, sharing: withAnonymous},
		)
	}
	return append(classes,
		&class{name: "silent", control: "max-age=60", personal: true, fresh: time.Minute, sharing: withAnonymous},
		&class{name: "cookie", control: "max-age=60", personal: true, setCookie: true, sharing: withNobody},
		&class{name: "undated", modified: 20 * time.Second, sharing: withNobody},
	)
}

const pagesPerClass = 8

// resource is a page of the origin.
type resource struct {
	class *class
	path  string
	next  *resource // of the same class

	mu       sync.Mutex
	versions []time.Time // when each began
	broken   time.Time   // when the origin has last given up a response of it
	failed   time.Time   // when it has last given up one, or failed
	floors   []floor
}

// floor says that who asks a proxy after a time must see a version at least.
type floor struct {
	version int
	node    int
	from    time.Time
}

// current returns the version of the page.
func (res *resource) current() int {
	res.mu.Lock()
	defer res.mu.Unlock()
	return len(res.versions) - 1
}

// bump begins a new version, and returns it.
func (res *resource) bump() int {
	res.mu.Lock()
	defer res.mu.Unlock()
	res.versions = append(res.versions, time.Now())
	return len(res.versions) - 1
}

// during reports whether a version was current at any time from begin to end.
func (res *resource) during(v int, begin, end time.Time) bool {
	res.mu.Lock()
	defer res.mu.Unlock()
	if v < 0 || v >= len(res.versions) || res.versions[v].After(end) {
		return false
	}
	return v+1 == len(res.versions) || !res.versions[v+1].Before(begin)
}

func (res *resource) breaks() {
	res.mu.Lock()
	defer res.mu.Unlock()
	res.broken = time.Now()
	res.failed = res.broken
}

func (res *resource) fails() {
	res.mu.Lock()
	defer res.mu.Unlock()
	res.failed = time.Now()
}

func (res *resource) failedSince(begin time.Time) bool {
	res.mu.Lock()
	defer res.mu.Unlock()
	return res.failed.After(begin)
}

func (res *resource) brokeSince(begin time.Time) bool {
	res.mu.Lock()
	defer res.mu.Unlock()
	return res.broken.After(begin)
}

// elsewhere is when a proxy at the latest sees what another one has removed.
const elsewhere = 3 * time.Second

// least returns the version that a request to a proxy must see.
func (res *resource) least(node int, begin time.Time) int {
	res.mu.Lock()
	defer res.mu.Unlock()
	least := 0
	for _, f := range res.floors {
		from := f.from
		if f.node != node {
			from = from.Add(elsewhere)
		}
		if begin.After(from) {
			least = max(least, f.version)
		}
	}
	return least
}

func (res *resource) sees(f floor) {
	res.mu.Lock()
	defer res.mu.Unlock()
	res.floors = append(res.floors, f)
}

// noise is what bodies are cut from: those of different versions differ in every
// part.
var noise = func() []byte {
	b := make([]byte, 2<<20)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}()

const maxSize = 700_000

// body returns the bytes of a page in a version as one user or variant gets it.
func (res *resource) body(v int, variant string) []byte {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %d %s", res.path, v, variant)
	r := rand.New(rand.NewPCG(h.Sum64(), 1))
	size := 0
	switch n := r.IntN(100); {
	case n < 5:
	case n < 70:
		size = 1 + r.IntN(4_000)
	case n < 85:
		size = r.IntN(70_000)
	case n < 95:
		size = r.IntN(300_000)
	default:
		size = 256<<10 + r.IntN(maxSize-256<<10)
	}
	at := r.IntN(len(noise) - maxSize)
	return noise[at : at+size]
}

func etagOf(v int, variant string) string { return fmt.Sprintf("%q", strconv.Itoa(v)+"-"+variant) }

func parseETag(etag string) (v int, variant string, err error) {
	text, err := strconv.Unquote(etag)
	if err != nil {
		return 0, "", fmt.Errorf("the ETag is %q", etag)
	}
	number, variant, _ := strings.Cut(text, "-")
	v, err = strconv.Atoi(number)
	return v, variant, err
}

// userOf returns who sends a request, or "".
func userOf(h http.Header) string {
	if user, ok := strings.CutPrefix(h.Get("Authorization"), "Bearer "); ok {
		return user
	}
	user, _ := strings.CutPrefix(h.Get("Cookie"), "user=")
	return user
}

// variantOf returns whose body the sender of a request gets.
func (c *class) variantOf(h http.Header) string {
	switch {
	case c.personal:
		return userOf(h)
	case c.vary != "": // X-V
		return h.Get(c.vary)
	}
	return ""
}

// world is the origin and what is known of it.
type world struct {
	pages  map[string]*resource
	list   []*resource
	serial atomic.Int64 // of responses
	asked  atomic.Int64
}

func newWorld(profile string) *world {
	w := &world{pages: map[string]*resource{}}
	for _, c := range classesFor(profile) {
		first := len(w.list)
		for i := range pagesPerClass {
			res := &resource{class: c, path: fmt.Sprintf("/%s/%d", c.name, i), versions: []time.Time{time.Now()}}
			w.pages[res.path] = res
			w.list = append(w.list, res)
		}
		for i := range pagesPerClass {
			w.list[first+i].next = w.list[first+(i+1)%pagesPerClass]
		}
	}
	return w
}

// ServeHTTP is the origin.
func (o *world) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.asked.Add(1)
	res := o.pages[r.URL.Path]
	if res == nil {
		http.NotFound(w, r)
		return
	}
	id := strconv.FormatInt(o.serial.Add(1), 10)
	w.Header().Set("X-Id", id)
	if r.Method == http.MethodPost {
		o.write(w, res)
		return
	}
	fate := rand.IntN(1000)
	if fate < 20 {
		res.fails()
		w.Header().Set("X-Failed", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, "failed")
		return
	}
	variant := res.class.variantOf(r.Header)
	v, made := res.current(), time.Now()
	if fate < 60 { // slow after it has looked: what it says may be old by then
		time.Sleep(rand.N(150 * time.Millisecond))
	}
	if fate >= 60 && fate < 75 {
		res.breaks()
		panic(http.ErrAbortHandler)
	}
	h := w.Header()
	if res.class.control != "" {
		h.Set("Cache-Control", res.class.control)
	}
	if res.class.modified > 0 {
		h.Set("Last-Modified", made.Add(-res.class.modified).UTC().Format(http.TimeFormat))
	}
	h.Set("Etag", etagOf(v, variant))
	h.Set("X-Made", strconv.FormatInt(made.UnixNano(), 10))
	h.Set("Content-Type", "application/octet-stream")
	if res.class.vary != "" {
		h.Set("Vary", res.class.vary)
	}
	if res.class.setCookie {
		h.Set("Set-Cookie", "id="+id)
	}
	if res.class.group != "" {
		h.Set("Cache-Groups", fmt.Sprintf("%q", res.class.group))
	}
	h.Set("Cache-Tag", res.class.name+", "+res.path)
	body := res.body(v, variant)
	switch {
	case fate >= 500 && len(body) > 0: // knows conditions and ranges
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
		return
	case strings.Contains(r.Header.Get("If-None-Match"), h.Get("Etag")):
		w.WriteHeader(http.StatusNotModified)
		return
	case fate%2 == 0: // otherwise chunked, if it is long
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	if r.Method == http.MethodHead {
		return
	}
	half := len(body) / 2
	switch {
	case fate >= 75 && fate < 100 && len(body) > 1:
		_, _ = w.Write(body[:half])
		_ = http.NewResponseController(w).Flush()
		time.Sleep(rand.N(20 * time.Millisecond))
		res.breaks()
		panic(http.ErrAbortHandler)
	case fate < 160: // slow, in parts
		for part := range slices.Chunk(body, len(body)/4+1) {
			_, _ = w.Write(part)
			_ = http.NewResponseController(w).Flush()
			time.Sleep(rand.N(50 * time.Millisecond))
		}
	default:
		_, _ = w.Write(body)
	}
}

// write answers a POST: it changes the page, others of its group, or the next one.
func (o *world) write(w http.ResponseWriter, res *resource) {
	if rand.IntN(20) == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	h := w.Header()
	changed := []*resource{res}
	switch {
	case res.class.group != "":
		for other := res.next; other != res; other = other.next {
			changed = append(changed, other)
		}
		h.Set("Cache-Group-Invalidation", fmt.Sprintf("%q", res.class.group))
	case rand.IntN(4) == 0:
		changed = append(changed, res.next)
		h.Set([]string{"Location", "Content-Location"}[rand.IntN(2)], res.next.path)
	}
	for _, res := range changed {
		h.Add("X-Changed", fmt.Sprintf("%s %d", res.path, res.bump()))
	}
	if rand.IntN(20) == 0 { // it has changed, but nobody learns that
		res.breaks()
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader([]int{http.StatusOK, http.StatusCreated, http.StatusNoContent}[rand.IntN(3)])
}

// soak is one run of the model.
type soak struct {
	t           *testing.T
	world       *world
	conformance bool
	nodes       []*program
	stop        context.CancelFunc

	requests, hits, collapsed, stale, validated, notModified, parts, writes, purges, failed, cut, gone, wrong atomic.Int64
	bytes                                                                                                     atomic.Int64

	mu   sync.Mutex
	seen map[string]recipient // the first of each response, by its id
}

// recipient is who has got a response.
type recipient struct {
	own   bool // it is for nobody else
	node  int
	begin time.Time
	path  string
	asked http.Header
}

const clients = 64

func TestModel(t *testing.T) {
	for _, test := range []struct {
		profile string
		store   string
		routers []string
	}{
		{"safe", "memory", []string{"nethttp"}},
		{"safe", "redis", []string{"nethttp", "gin"}},
		{"conformance", "memory", []string{"gin"}},
		{"conformance", "redis", []string{"gin", "nethttp"}},
	} {
		t.Run(test.profile+"/"+test.store, func(t *testing.T) {
			soaking := os.Getenv("HERDLESS_SOAK") != ""
			length := 3 * time.Second
			if soaking {
				length = time.Minute
			}
			world := newWorld(test.profile)
			server := httptest.NewServer(world)
			t.Cleanup(server.Close)
			s := &soak{t: t, world: world, conformance: test.profile == "conformance", seen: map[string]recipient{}}
			args := []string{"-origin", server.URL, "-profile", test.profile, "-purge-token", token}
			if test.store == "redis" {
				args = append(args, "-redis", redistest.NewStandalone(t).URL())
			}
			for _, router := range test.routers {
				s.nodes = append(s.nodes, start(t, append(args, "-router", router)...))
			}
			missing := s.run(length)
			if len(missing) > 0 && soaking {
				t.Errorf("there was no %s", strings.Join(missing, ", no "))
			} else if len(missing) > 0 {
				t.Logf("the machine is too busy to show any %s", strings.Join(missing, ", "))
			}
		})
	}
}

// run sends requests for a time, and for a while longer if not all has happened that
// may. It names what has not.
func (s *soak) run(length time.Duration) []string {
	ctx, cancel := context.WithTimeout(context.Background(), length+10*time.Second)
	defer cancel()
	s.stop = cancel
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			c := newVisitor(s, i)
			defer c.transport.CloseIdleConnections()
			for ctx.Err() == nil {
				c.step()
			}
		})
	}
	all.Go(func() { // writes that no proxy learns of
		for begin := time.Now(); ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
			s.world.list[rand.IntN(len(s.world.list))].bump()
			if time.Since(begin) > length && len(s.missing()) == 0 {
				cancel()
			}
		}
	})
	all.Wait()
	s.t.Logf("%d requests (%d MB), %d at the origin: %d hits (%d stale), %d collapsed, %d validated, %d times 304, %d times 206, "+
		"%d writes, %d purges, %d failures, %d bodies cut short by the origin, %d clients gone, %d wrong",
		s.requests.Load(), s.bytes.Load()>>20, s.world.asked.Load(), s.hits.Load(), s.stale.Load(),
		s.collapsed.Load(), s.validated.Load(), s.notModified.Load(), s.parts.Load(),
		s.writes.Load(), s.purges.Load(), s.failed.Load(), s.cut.Load(), s.gone.Load(), s.wrong.Load())
	return s.missing()
}

// missing names what has not happened yet: a run in which nothing does shows nothing.
func (s *soak) missing() []string {
	var names []string
	for name, n := range map[string]*atomic.Int64{
		"hit": &s.hits, "hit that is stale": &s.stale, "collapsed request": &s.collapsed, "validation": &s.validated, "304": &s.notModified,
		"206": &s.parts, "write": &s.writes, "purge": &s.purges, "failure": &s.failed, "body that is cut short": &s.cut, "client that goes": &s.gone,
	} {
		if n.Load() == 0 {
			names = append(names, name)
		}
	}
	return names
}

// complain reports a wrong response, and ends the run after some.
func (s *soak) complain(v *visit, format string, args ...any) {
	if s.wrong.Add(1) > 10 {
		s.stop()
		return
	}
	s.t.Errorf("%s\n%s", fmt.Sprintf(format, args...), v)
}

// visitor is a client with a connection of its own to one of the proxies.
type visitor struct {
	soak      *soak
	node      int
	transport *http.Transport
	client    *http.Client
	etags     map[string][]string // that it has got, by path
}

func newVisitor(s *soak, i int) *visitor {
	transport := &http.Transport{DisableCompression: true, MaxConnsPerHost: 1}
	return &visitor{
		soak: s, node: i % len(s.nodes), transport: transport, etags: map[string][]string{},
		client: &http.Client{Transport: transport, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
}

// visit is a request with its response.
type visit struct {
	res        *resource
	node       int
	req        *http.Request
	begin, end time.Time
	resp       *http.Response
	body       []byte
	err        error // of the body
}

func (v *visit) String() string {
	b := &strings.Builder{}
	fmt.Fprintf(b, "  to node %d at %s: %s %s %v\n", v.node, v.begin.Format("05.000000"), v.req.Method, v.res.path, v.req.Header)
	if v.resp != nil {
		fmt.Fprintf(b, "  until %s: %d with %d bytes, error %v, %v\n", v.end.Format("05.000000"), v.resp.StatusCode, len(v.body), v.err, v.resp.Header)
		if made, err := strconv.ParseInt(v.resp.Header.Get("X-Made"), 10, 64); err == nil {
			fmt.Fprintf(b, "  made at %s\n", time.Unix(0, made).Format("05.000000"))
		}
	}
	v.res.mu.Lock()
	defer v.res.mu.Unlock()
	for i := max(0, len(v.res.versions)-8); i < len(v.res.versions); i++ {
		fmt.Fprintf(b, "  version %d from %s\n", i, v.res.versions[i].Format("05.000000"))
	}
	for _, f := range v.res.floors[max(0, len(v.res.floors)-8):] {
		fmt.Fprintf(b, "  version %d known at node %d at %s\n", f.version, f.node, f.from.Format("05.000000"))
	}
	return b.String()
}

// pick prefers some pages to others, so that requests meet at them.
func (w *world) pick() *resource {
	n := pagesPerClass
	if rand.IntN(2) == 0 {
		n = 2
	}
	return w.list[rand.IntN(len(w.list)/pagesPerClass)*pagesPerClass+rand.IntN(n)]
}

// step sends a request and checks the response.
func (c *visitor) step() {
	s := c.soak
	v := &visit{res: s.world.pick(), node: c.node}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, s.nodes[c.node].url+v.res.path, nil)
	if err != nil {
		s.t.Error(err)
		return
	}
	req.Host = "model.test"
	v.req = req
	user := []string{"alice", "bob", "carol"}[rand.IntN(3)]
	switch rand.IntN(10) {
	case 0:
		req.Header.Set("Authorization", "Bearer "+user)
	case 1:
		req.Header.Set("Cookie", "user="+user)
	}
	if variant := rand.IntN(4); variant > 0 {
		req.Header.Set("X-V", strconv.Itoa(variant))
	}
	switch n := rand.IntN(100); {
	case n < 4:
		req.Header.Set("Cache-Control", "no-cache")
	case n < 6:
		req.Header.Set("Cache-Control", "max-age=0")
	case n < 8:
		req.Header.Set("Cache-Control", "only-if-cached")
	}
	leaves := false
	switch n := rand.IntN(100); {
	case n < 1:
		c.purge(v)
		return
	case n < 4:
		req.Method = http.MethodPost
		req.Header.Del("Cache-Control")
	case n < 10:
		req.Method = http.MethodHead
	case n < 21:
		c.addRange(v)
	case n < 36:
		if known := c.etags[v.res.path]; len(known) > 0 {
			req.Header.Set("If-None-Match", strings.Join(known, ", "))
		}
	case n < 38:
		leaves = true
	}
	s.requests.Add(1)
	v.begin = time.Now()
	v.resp, err = c.client.Do(req)
	if err != nil {
		v.end = time.Now()
		// The header has not come although a proxy answers for an origin
		// that breaks.
		s.complain(v, "no response: %v", err)
		return
	}
	defer v.resp.Body.Close()
	if leaves {
		_, _ = io.CopyN(io.Discard, v.resp.Body, 1)
		s.gone.Add(1)
		return
	}
	v.body, v.err = io.ReadAll(v.resp.Body)
	v.end = time.Now()
	s.bytes.Add(int64(len(v.body)))
	s.count(v)
	if err := s.check(v); err != nil {
		s.complain(v, "%v", err)
		return
	}
	if etag := v.resp.Header.Get("Etag"); etag != "" {
		known := c.etags[v.res.path]
		c.etags[v.res.path] = append(known[max(0, len(known)-2):], etag)
	}
}

// purge changes the page, or all of its class, and tells the proxy.
func (c *visitor) purge(v *visit) {
	s, h := c.soak, http.Header{"Authorization": {"Bearer " + token}}
	changed := []*resource{v.res}
	switch rand.IntN(4) {
	case 0:
		h.Set("Cache-Tag", "nothing, "+v.res.path)
	case 1:
		h.Set("Surrogate-Key", "nothing "+v.res.class.name)
		for other := v.res.next; other != v.res; other = other.next {
			changed = append(changed, other)
		}
	}
	soft := rand.IntN(4) == 0
	if soft {
		h.Set("Soft-Purge", "1")
	}
	v.req.Method, v.req.Header = "PURGE", h
	var floors []int
	for _, res := range changed {
		floors = append(floors, res.bump())
	}
	v.begin = time.Now()
	resp, err := c.client.Do(v.req)
	v.end = time.Now()
	if err != nil {
		s.complain(v, "no response to a PURGE: %v", err)
		return
	}
	defer resp.Body.Close()
	if v.resp = resp; resp.StatusCode != http.StatusNoContent {
		s.complain(v, "a PURGE got %d", resp.StatusCode)
		return
	}
	s.purges.Add(1)
	if soft {
		return // a stale page may be served here and there
	}
	for i, res := range changed {
		res.sees(floor{floors[i], v.node, v.end})
	}
}

// addRange asks for a part, or for several.
func (c *visitor) addRange(v *visit) {
	size := len(v.res.body(v.res.current(), v.res.class.variantOf(v.req.Header))) + 10
	from := rand.IntN(size)
	to := from + rand.IntN(size)
	switch rand.IntN(4) {
	case 0:
		v.req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	case 1:
		v.req.Header.Set("Range", fmt.Sprintf("bytes=-%d", 1+rand.IntN(size)))
	case 2:
		v.req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, to))
	case 3:
		v.req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d, -%d", from, min(to, from+100), 1+rand.IntN(100)))
	}
	if known := c.etags[v.res.path]; len(known) > 0 && rand.IntN(2) == 0 {
		v.req.Header.Set("If-Range", known[len(known)-1])
	}
}

func (s *soak) count(v *visit) {
	status := v.resp.Header.Get("Cache-Status")
	for n, is := range map[*atomic.Int64]bool{
		&s.hits:        strings.Contains(status, "; hit"),
		&s.stale:       strings.Contains(status, "; hit") && v.res.class.name == "revalidate" && v.resp.Header.Get("Age") != "0",
		&s.collapsed:   strings.Contains(status, "; collapsed"),
		&s.validated:   strings.Contains(status, "fwd-status=304"),
		&s.notModified: v.resp.StatusCode == http.StatusNotModified,
		&s.parts:       v.resp.StatusCode == http.StatusPartialContent,
		&s.failed:      v.resp.StatusCode >= 500,
		&s.cut:         v.err != nil,
	} {
		if is {
			n.Add(1)
		}
	}
}

// check is the model: it returns what is wrong with a response.
func (s *soak) check(v *visit) error {
	code, h := v.resp.StatusCode, v.resp.Header
	if len(h["Cache-Status"]) != 1 {
		return fmt.Errorf("Cache-Status is %q, want one", h["Cache-Status"])
	}
	if len(h["Cache-Tag"]) > 0 {
		return fmt.Errorf("Cache-Tag is %q, which is not for clients", h["Cache-Tag"])
	}
	broken := v.res.brokeSince(v.begin.Add(-inFlight))
	switch {
	case v.err != nil && !broken:
		return fmt.Errorf("the body broke off, but not at the origin: %w", v.err)
	case code == http.StatusBadGateway:
		if !broken {
			return errors.New("a 502, but the origin did not break")
		}
		return nil
	case code == http.StatusGatewayTimeout:
		if v.req.Header.Get("Cache-Control") != "only-if-cached" {
			return errors.New("a 504 without only-if-cached")
		}
		return nil
	case v.req.Method == http.MethodPost:
		return s.checkWrite(v)
	case code == http.StatusServiceUnavailable:
		if h.Get("X-Failed") == "" {
			return errors.New("a 503 that is not the origin's")
		}
		return nil
	case code == http.StatusRequestedRangeNotSatisfiable:
		return s.checkUnsatisfiable(v)
	}
	n, variant, err := parseETag(h.Get("Etag"))
	if err != nil {
		return err
	}
	if want := v.res.class.variantOf(v.req.Header); variant != want {
		return fmt.Errorf("a response for %q, want %q", variant, want)
	}
	if err := s.checkAge(v, n); err != nil {
		return err
	}
	if err := s.checkOwn(v); err != nil {
		return err
	}
	return v.checkContent(n, variant)
}

// checkWrite takes note of what a POST has changed.
func (s *soak) checkWrite(v *visit) error {
	if v.resp.StatusCode >= 400 {
		return nil
	}
	s.writes.Add(1)
	for _, changed := range v.resp.Header["X-Changed"] {
		path, number, _ := strings.Cut(changed, " ")
		n, err := strconv.Atoi(number)
		if err != nil {
			return err
		}
		s.world.pages[path].sees(floor{n, v.node, v.end})
	}
	return nil
}

const (
	// inFlight is how long a response may be under way that a request joins.
	inFlight = 5 * time.Second
	// failing is for how long a stale page is served without asking an origin that
	// has failed.
	failing = time.Second
	// late is how long it may take until a lifetime begins: it is counted by the
	// store, from when the page gets there, and on a busy machine that is a moment
	// after the page was made. HTTP counts in seconds.
	late = time.Second
)

// since is from when what the origin said may be repeated to v.
func (s *soak) since(v *visit) time.Time {
	c, wants := v.res.class, v.req.Header.Get("Cache-Control")
	fresh := c.fresh
	if s.conformance && c.mayBeStale() && wants != "no-cache" && v.res.failedSince(v.begin.Add(-inFlight-failing)) {
		fresh = forever
	} else if wants == "no-cache" || wants == "max-age=0" {
		// One that another request has brought meanwhile will do, and that may be
		// under way already. It is called a hit if this one did not wait for it.
		fresh = min(fresh, inFlight)
	}
	if s.owns(v) {
		fresh = 0
	}
	if strings.Contains(v.resp.Header.Get("Cache-Status"), "; collapsed") {
		fresh += inFlight
	}
	return v.begin.Add(-fresh - late)
}

// mayBeStale reports whether the origin does not forbid to serve a stale page while it
// fails (RFC 9111 §4.2.4).
func (c *class) mayBeStale() bool {
	return !strings.Contains(c.control, "s-maxage") && !strings.Contains(c.control, "must-revalidate") && c.control != "no-cache"
}

// checkAge checks that the version may still, and must already, be seen.
func (s *soak) checkAge(v *visit, n int) error {
	since := s.since(v)
	if !v.res.during(n, since, v.end) {
		return fmt.Errorf("version %d was not current between %s and %s", n, since.Format("05.000000"), v.end.Format("05.000000"))
	}
	if least := v.res.least(v.node, v.begin); n < least {
		return fmt.Errorf("version %d after version %d was written", n, least)
	}
	made, err := strconv.ParseInt(v.resp.Header.Get("X-Made"), 10, 64)
	if err != nil {
		return err
	}
	if at := time.Unix(0, made); at.Before(since) {
		return fmt.Errorf("the origin said so at %s, too long ago by %v", at.Format("05.000000"), since.Sub(at))
	}
	return nil
}

// owns reports whether the response to v is for nobody else.
func (s *soak) owns(v *visit) bool {
	authorized, cookie := v.req.Header.Get("Authorization") != "", v.req.Header.Get("Cookie") != "" && !s.conformance
	switch v.res.class.sharing {
	case withAll:
		return false
	case withTrusting:
		return cookie
	case withAnonymous:
		return cookie || authorized
	}
	return true
}

// checkOwn checks that a response for one request goes to one only.
func (s *soak) checkOwn(v *visit) error {
	id, own := v.resp.Header.Get("X-Id"), s.owns(v)
	if want := "id=" + id; v.res.class.setCookie && v.resp.Header.Get("Set-Cookie") != want {
		return fmt.Errorf("Set-Cookie is %q, want %q", v.resp.Header["Set-Cookie"], want)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	first, again := s.seen[id]
	if id == "" || again && (own || first.own) {
		return fmt.Errorf("response %q is somebody else's: %+v", id, first)
	}
	if !again {
		s.seen[id] = recipient{own, v.node, v.begin, v.res.path, v.req.Header}
	}
	return nil
}

// checkContent checks status and bytes of a response that is of version n.
func (v *visit) checkContent(n int, variant string) error {
	code, h := v.resp.StatusCode, v.resp.Header
	want := v.res.body(n, variant)
	if code == http.StatusNotModified {
		if !strings.Contains(v.req.Header.Get("If-None-Match"), h.Get("Etag")) {
			return errors.New("a 304 for an ETag that was not sent")
		}
		return nil
	}
	if v.req.Method == http.MethodHead {
		if length := h.Get("Content-Length"); code != http.StatusOK || length != "" && length != strconv.Itoa(len(want)) {
			return fmt.Errorf("HEAD: Content-Length is %q, want %d", length, len(want))
		}
		return nil
	}
	switch {
	case code == http.StatusOK:
		return sameBytes(v.body, want, v.err != nil)
	case code != http.StatusPartialContent || v.req.Header.Get("Range") == "":
		return fmt.Errorf("status %d was not asked for", code)
	case v.req.Header.Get("If-Range") != "" && v.req.Header.Get("If-Range") != h.Get("Etag"):
		return errors.New("a part of another version than that of If-Range")
	}
	return v.checkParts(want)
}

// sameBytes compares a body with what it should be, or if it is cut short, with the
// beginning of that.
func sameBytes(got, want []byte, cut bool) error {
	if cut && len(got) <= len(want) {
		want = want[:len(got)]
	}
	if bytes.Equal(got, want) {
		return nil
	}
	at := 0
	for at < len(got) && at < len(want) && got[at] == want[at] {
		at++
	}
	return fmt.Errorf("wrong bytes: got %d, want %d, and they differ from %d on", len(got), len(want), at)
}

// span is a part of a body, without its end.
type span struct{ from, to int }

// wanted returns the parts that a request asks for of a body of a size.
func (v *visit) wanted(size int) []span {
	var spans []span
	for spec := range strings.SplitSeq(strings.TrimPrefix(v.req.Header.Get("Range"), "bytes="), ",") {
		first, last, _ := strings.Cut(strings.TrimSpace(spec), "-")
		from, errFrom := strconv.Atoi(first)
		to, errTo := strconv.Atoi(last)
		switch {
		case errFrom != nil:
			from, to = max(0, size-to), size
		case errTo != nil:
			to = size
		default:
			to = min(to+1, size)
		}
		if from < to {
			spans = append(spans, span{from, to})
		}
	}
	return spans
}

// checkParts checks a 206.
func (v *visit) checkParts(want []byte) error {
	type part struct {
		span
		body []byte
		cut  bool
	}
	var parts []part
	add := func(contentRange string, body []byte, cut bool) error {
		var from, last, size int
		if _, err := fmt.Sscanf(contentRange, "bytes %d-%d/%d", &from, &last, &size); err != nil || size != len(want) || from > last || last >= size {
			return fmt.Errorf("Content-Range is %q of a body of %d bytes", contentRange, len(want))
		}
		parts = append(parts, part{span{from, last + 1}, body, cut})
		return sameBytes(body, want[from:last+1], cut)
	}
	typ, params, err := mime.ParseMediaType(v.resp.Header.Get("Content-Type"))
	switch {
	case err != nil:
		return err
	case typ != "multipart/byteranges":
		if err := add(v.resp.Header.Get("Content-Range"), v.body, v.err != nil); err != nil {
			return err
		}
	default:
		r := multipart.NewReader(bytes.NewReader(v.body), params["boundary"])
		for {
			p, err := r.NextPart()
			if errors.Is(err, io.EOF) || err != nil && v.err != nil {
				break
			}
			if err != nil {
				return fmt.Errorf("the parts cannot be read: %w", err)
			}
			body, err := io.ReadAll(p)
			if err != nil && v.err == nil {
				return fmt.Errorf("a part cannot be read: %w", err)
			}
			if err := add(p.Header.Get("Content-Range"), body, err != nil); err != nil {
				return err
			}
		}
	}
	if v.err != nil {
		return nil //nolint:nilerr // the client has seen that the body broke off
	}
	for _, w := range v.wanted(len(want)) {
		if !slices.ContainsFunc(parts, func(p part) bool { return p.from <= w.from && w.to <= p.to }) {
			return fmt.Errorf("bytes %d to %d are not among the parts", w.from, w.to)
		}
	}
	if wanted := v.wanted(len(want)); len(wanted) == 1 && (len(parts) != 1 || parts[0].span != wanted[0]) {
		return fmt.Errorf("got the part %v, want %v", parts[0].span, wanted[0])
	}
	return nil
}

// checkUnsatisfiable checks a 416: of a version that may be seen there is no such part.
func (s *soak) checkUnsatisfiable(v *visit) error {
	variant := v.res.class.variantOf(v.req.Header)
	for n := v.res.current(); n >= 0; n-- {
		size := len(v.res.body(n, variant))
		if s.mayHave(v, n) && v.resp.Header.Get("Content-Range") == fmt.Sprintf("bytes */%d", size) && len(v.wanted(size)) == 0 {
			return nil
		}
	}
	return fmt.Errorf("a 416 with Content-Range %q", v.resp.Header.Get("Content-Range"))
}

// mayHave reports whether v may have got a version.
func (s *soak) mayHave(v *visit, n int) bool {
	return n >= v.res.least(v.node, v.begin) && v.res.during(n, s.since(v), v.end)
}
