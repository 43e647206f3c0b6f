package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/bench/internal/report"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/redis/go-redis/v9"
)

// TestEveryEntrantDoesItsWork: what the figures are of is the work that is
// meant, by every implementation, also by several goroutines.
func TestEveryEntrantDoesItsWork(t *testing.T) {
	for _, s := range scenarios() {
		entrants := s.entrants
		if len(entrants) == 0 {
			continue // looks at what it measures as it goes
		}
		server := redistest.NewStandalone(t)
		if s.apart {
			entrants = entrants[:min(1, len(entrants))] // the others are larger
		}
		for _, e := range entrants {
			t.Run(s.id+"/"+e.name, func(t *testing.T) {
				got := countOnTheWire(t, server, e, 2, 10)
				if !e.local && !e.free && got["down"] == 0 {
					t.Errorf("nothing came from Redis: %v", got)
				}
			})
		}
	}
}

func TestPageThatIsNotCachedIsCaught(t *testing.T) {
	p := newPages(small)
	o, err := openPages(httpSite{p}, p, func() {}, ownPage)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.worker(0); err == nil {
		t.Error("a handler without a cache passes for one")
	}

	// One that stops to cache later.
	p = newPages(small)
	var first atomic.Pointer[answer]
	web := httpSite{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a := first.Load(); a != nil {
			_, _ = w.Write(a.body)
			return
		}
		p.ServeHTTP(w, r)
		first.Store(&answer{body: p.body})
	})}
	if o, err = openPages(web, p, func() {}, ownPage); err != nil {
		t.Fatal(err)
	}
	do, err := o.worker(0)
	if err = errors.Join(err, do(), o.check()); err != nil {
		t.Fatal(err)
	}
	first.Store(nil)
	if err := errors.Join(do(), o.check()); err == nil {
		t.Error("a hit that ran the handler passes")
	}
	first.Store(&answer{body: p.body[1:]})
	if do() == nil {
		t.Error("a page that is cut off passes")
	}
}

func TestAClientKnowsItsPage(t *testing.T) {
	body := newPages(small).body
	for name, c := range map[string]struct {
		pieces []string
		status int
		same   bool
	}{
		"the page":      {[]string{string(body)}, 200, true},
		"in pieces":     {[]string{string(body[:9]), "", string(body[9:])}, 200, true},
		"cut off":       {[]string{string(body[:9])}, 200, false},
		"too long":      {[]string{string(body), "x"}, 200, false},
		"another":       {[]string{string(body[:9]), string(body[:len(body)-9])}, 200, false},
		"nothing":       {nil, 200, false},
		"not to be had": {nil, 503, false},
	} {
		for _, asString := range []bool{false, true} {
			client := httpSite{http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if c.status != 200 {
					w.WriteHeader(c.status)
				}
				for _, p := range c.pieces {
					if asString {
						_, _ = io.WriteString(w, p)
					} else {
						_, _ = w.Write([]byte(p))
					}
				}
			})}.client("/page", body)
			for range 2 { // it can ask again
				if status, same := client(); status != c.status || same != c.same {
					t.Errorf("%s: %d, %v; want %d, %v", name, status, same, c.status, c.same)
				}
			}
		}
	}
}

// mapBag is a session in a map.
type mapBag map[string]string

func (b mapBag) get(name string) (string, error) {
	if v, ok := b[name]; ok {
		return v, nil
	}
	return "", errNoValue
}
func (b mapBag) set(name, value string) error { b[name] = value; return nil }
func (mapBag) save() error                    { return nil }

func TestSessionThatForgetsIsCaught(t *testing.T) {
	s := &shop{values: valuesOf(valueLength)}
	kept := mapBag{}
	loses, forgets := false, false
	web := httpSite{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := kept
		if forgets || loses && r.URL.Path == "/write" {
			b = mapBag{}
		}
		http.SetCookie(w, &http.Cookie{Name: "session", Value: "token"})
		s.serveHTTP(w, r, b)
	})}
	v := new(visitors)
	write, err := v.enter(web, "/write")
	if err := errors.Join(err, write(), v.check(web, true)); err != nil {
		t.Fatal("one that does not:", err)
	}
	if err := v.check(web, true); err != nil {
		t.Fatal("without a write in between:", err)
	}
	loses = true
	if err := errors.Join(write(), v.check(web, true)); err == nil {
		t.Error("a write that was lost passes")
	}
	loses, forgets = false, true
	read := web.requests("/read", nil, len("ok"))
	if read() == nil {
		t.Error("a read of nothing passes")
	}
}

// failing keeps what a benchmark was told, and goes on.
type failing struct {
	testing.TB
	errors []string
}

func (f *failing) Errorf(format string, args ...any) {
	f.errors = append(f.errors, fmt.Sprintf(format, args...))
}

func TestWhoDoesNotAskRedisIsCaught(t *testing.T) {
	server := redistest.Standalone(t)
	idle := entrant{name: "idle", open: func(string) (*opened, error) {
		return &opened{worker: func(int) (op, error) { return func() error { return nil }, nil }}, nil
	}}
	f := &failing{TB: t}
	countOnTheWire(f, server, idle, 2, 10)
	if len(f.errors) != 1 || !strings.Contains(f.errors[0], "does not ask Redis") {
		t.Errorf("of one who asks nothing: %q", f.errors)
	}
	busy := raw("busy", func(context.Context, *redis.Client) error { return nil }, func(ctx context.Context, rdb redis.Cmdable, _ int) error {
		return rdb.Ping(ctx).Err()
	})[0]
	busy.local = true
	f.errors = nil
	countOnTheWire(f, server, busy, 2, 10)
	if len(f.errors) != 1 || !strings.Contains(f.errors[0], "should need no Redis") {
		t.Errorf("of one who says that he does not: %q", f.errors)
	}
}

func TestCommandsAndRoundTripsAreCounted(t *testing.T) {
	script := redis.NewScript(`redis.call('SET', KEYS[1], ARGV[1], 'EX', 60) return redis.call('GET', KEYS[1])`)
	both := raw("three", func(ctx context.Context, rdb *redis.Client) error { return script.Load(ctx, rdb).Err() },
		func(ctx context.Context, rdb redis.Cmdable, _ int) error {
			if err := rdb.EvalSha(ctx, script.Hash(), []string{"counted"}, "v").Err(); err != nil {
				return err
			}
			_, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
				p.Get(ctx, "counted")
				p.Get(ctx, "counted")
				return nil
			})
			return err
		})[0]
	got := countOnTheWire(t, redistest.Standalone(t), both, 1, 10)
	if got["commands"] != 3 || got["trips"] != 2 {
		t.Errorf("%v; want 3 commands, without those of the script, in 2 round trips", got)
	}
}

func TestMonitorLines(t *testing.T) {
	for line, want := range map[string]bool{
		`+1339518083.107412 [0 127.0.0.1:60866] "get" "key"`:              true,
		`+1339518083.107412 [0 127.0.0.1:60866] "EVALSHA" "abc" "0"`:      true,
		`+1339518083.107412 [0 lua] "get" "key"`:                          false,
		`+1339518083.107412 [0 127.0.0.1:1] "hello" "3"`:                  false,
		`+1339518083.107412 [0 127.0.0.1:1] "client" "setinfo" "x" "y"`:   false,
		`+1339518083.107412 [0 127.0.0.1:1] "set" "a [b] lua] \"c" "lua"`: true,
		`+OK`: false,
	} {
		if got := fromClient(line); got != want {
			t.Errorf("%s: %v", line, got)
		}
	}
}

func TestKeysOfScripts(t *testing.T) {
	for line, want := range map[string]int{
		`+1.1 [0 127.0.0.1:1] "get" "16" "16"`:                          1,
		`+1.1 [0 127.0.0.1:1] "EVALSHA" "abc" "0"`:                      1,
		`+1.1 [0 127.0.0.1:1] "evalsha" "abc" "16" "k" "\x00\"\\ 1"`:    16,
		`+1.1 [0 127.0.0.1:1] "evalsha" "abc" "1" "k] \"evalsha\" \"9"`: 1,
	} {
		if got := keysOfScript(line); got != want {
			t.Errorf("%s: %d keys, want %d", line, got, want)
		}
	}
}

func TestTurnsAreTakenInAnotherOrderEachRound(t *testing.T) {
	var order []int
	c := inTurn("case", "ops", 3, []row{{"a", report.Ours}, {"b", report.Peer}, {"c", report.Floor}}, func(round, i int) report.Sample {
		order = append(order, i)
		return report.Sample{"ops": float64((i + 1) * 10 * (round + 1))}
	})
	if want := []int{0, 1, 2, 1, 2, 0, 2, 0, 1}; !slices.Equal(order, want) {
		t.Errorf("turns of %v, want %v", order, want)
	}
	if c.Rows[1].Ratio != 0.5 || c.Rows[2].Values["ops"] != 60 || c.Rows[2].Kind != report.Floor || c.Rounds != 3 {
		t.Errorf("%+v", c)
	}
}

// TestGoalsNameWhatThereIs: a goal with a typing error would never be measured.
func TestGoalsNameWhatThereIs(t *testing.T) {
	all := scenarios()
	ids := map[string]bool{}
	for _, s := range all {
		if ids[s.id] {
			t.Errorf("two scenarios are called %s", s.id)
		}
		ids[s.id] = true
	}
	for _, g := range goals {
		i := slices.IndexFunc(all, func(s scenario) bool { return s.id == g.Scenario })
		if i < 0 {
			if g.Why == "" {
				t.Errorf("%s, %s: no scenario %q", g.Work, g.Text, g.Scenario)
			}
			continue
		}
		s := all[i]
		if len(s.entrants) == 0 {
			continue // names its cases and rows as it goes
		}
		if !slices.ContainsFunc(s.loads, func(l load) bool { return l.name == g.Case }) {
			t.Errorf("%s, %s: no case %q of %s", g.Work, g.Text, g.Case, s.id)
		}
		if g.Versus != "" && g.Versus != report.BestPeer && g.Versus != report.LastRow &&
			!slices.ContainsFunc(s.entrants, func(e entrant) bool { return e.name == g.Versus }) {
			t.Errorf("%s, %s: no row %q of %s", g.Work, g.Text, g.Versus, s.id)
		}
		if s.entrants[0].kind != report.Ours {
			t.Errorf("%s: the first row is not herdless", s.id)
		}
	}
}

func TestAnswersAreRead(t *testing.T) {
	for _, c := range []struct {
		text   string
		length int
		ok     bool
	}{
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello", 5, true},
		{"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\na\r\n0123456789\r\n0\r\n\r\n", 15, true},
		{"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", 0, false},
		{"HTTP/1.1 200 OK\r\n\r\nhello", 0, false},
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", 0, false},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloo\r\n0\r\n\r\n", 0, false},
	} {
		got, err := readAnswer(bufio.NewReader(strings.NewReader(c.text)))
		if (err == nil) != c.ok || c.ok && got != c.length {
			t.Errorf("%q: %d, %v", c.text, got, err)
		}
	}
}

func TestBurstIsSummedUp(t *testing.T) {
	ms := int64(time.Millisecond)
	a := Burst{Latencies: []time.Duration{5 * time.Millisecond}, Arrivals: []int64{105 * ms}, FirstEnd: 100 * ms, Executions: 1}
	b := Burst{Latencies: []time.Duration{time.Millisecond, 9 * time.Millisecond}, Arrivals: []int64{90 * ms, 130 * ms}, FirstEnd: 110 * ms, Executions: 2, Failed: 1}
	a.add(b)
	a.add(Burst{}) // of a process whose handler did not run
	s := a.sample()
	all := report.Sample{"executions": 3, "failed": 1, "p50": 5, "p99": 9, "max": 9, "wake99": 30}
	for id, want := range all {
		if s[id] != want {
			t.Errorf("%s is %v, want %v", id, s[id], want)
		}
	}
}

func TestNumbersAreWrittenInGroups(t *testing.T) {
	for n, want := range map[int]string{1: "1", 100: "100", 1000: "1,000", 1_234_567: "1,234,567"} {
		if got := digitGroups(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
