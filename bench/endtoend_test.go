package bench

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/herdless/herdless/bench/internal/report"
	"github.com/herdless/herdless/internal/redistest"
)

const (
	endConnections = 64
	nginxName      = "nginx, a file"
)

// served is a site with those who ask it.
type served struct {
	addr    string   // where it answers
	asks    [][]byte // the request of each connection
	length  int      // of each answer's body
	foreign bool     // another program: its processor time is not this one's
	// answered is told how many requests of each connection were answered, and
	// says whether that was the work that was meant.
	answered func(requests []int64) error
}

// endEntrant is one implementation end to end.
type endEntrant struct {
	name  string
	kind  report.Kind
	serve func(b *testing.B, redisAddr string) *served
}

// request is an HTTP/1.1 request as it is sent.
func request(path string, cookies []*http.Cookie) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: example.com\r\n", path)
	for i, c := range cookies {
		if i == 0 {
			b.WriteString("Cookie: ")
		} else {
			b.WriteString("; ")
		}
		b.WriteString(c.Name + "=" + c.Value)
	}
	if len(cookies) > 0 {
		b.WriteString("\r\n")
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

// listen serves a site until the benchmark ends.
func listen(b *testing.B, web site) string {
	b.Helper()
	l, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- web.serve(l) }()
	b.Cleanup(func() {
		_ = l.Close()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	return l.Addr().String()
}

// endSession asks for path with a session for each connection.
func endSession(lib sessionLibrary, path string) endEntrant {
	return endEntrant{lib.name, lib.kind, func(b *testing.B, redisAddr string) *served {
		web, closeSite, err := lib.open(redisAddr, &shop{values: valuesOf(valueLength)})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(closeSite)
		v := new(visitors)
		s := &served{addr: listen(b, web), length: len("ok"), answered: func(requests []int64) error {
			for i, n := range requests {
				v.all[i].requests += n
			}
			return v.check(web, path == "/write")
		}}
		for i := range endConnections {
			if _, err := v.enter(web, path); err != nil {
				b.Fatal(err)
			}
			s.asks = append(s.asks, request(path, v.all[i].cookies))
		}
		return s
	}}
}

// endPage asks for one page.
func endPage(lib pageLibrary) endEntrant {
	return endEntrant{lib.name, lib.kind, func(b *testing.B, redisAddr string) *served {
		p := newPages(small)
		web, closeSite, err := lib.open(redisAddr, p, policy{ttl: pageTTL})
		if err != nil {
			b.Fatal(err)
		}
		o, err := openPages(web, p, closeSite, ownPage)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(o.close)
		if _, err := o.worker(0); err != nil {
			b.Fatal(err)
		}
		return &served{addr: listen(b, web), length: small, asks: [][]byte{request(pagePath+"0", nil)}, answered: func([]int64) error { return o.check() }}
	}}
}

// endHandler is a handler alone.
func endHandler(name, path string, length int, h http.Handler) endEntrant {
	return endEntrant{name, report.Floor, func(b *testing.B, _ string) *served {
		return &served{
			addr: listen(b, httpSite{h}), length: length, asks: [][]byte{request(path, nil)}, answered: func([]int64) error { return nil },
		}
	}}
}

// endNginx serves the page as a file, where nginx is installed.
func endNginx() []endEntrant {
	bin, err := exec.LookPath("nginx")
	if err != nil {
		return nil
	}
	return []endEntrant{{nginxName, report.Floor, func(b *testing.B, _ string) *served {
		dir := b.TempDir()
		l, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		addr := l.Addr().String()
		_ = l.Close()
		config := fmt.Sprintf(`daemon off; worker_processes %d; pid nginx.pid; error_log stderr error; user root;
events { worker_connections 512; }
http { access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; open_file_cache max=10;
  client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
  server { listen %s; root .; default_type text/plain; } }`, runtime.NumCPU(), addr)
		for name, data := range map[string][]byte{"nginx.conf": []byte(config), "page0": newPages(small).body} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil { //nolint:gosec // as every file that is served
				b.Fatal(err)
			}
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		cmd := exec.Command(bin, "-p", dir, "-c", "nginx.conf")
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			_ = cmd.Process.Signal(os.Interrupt)
			_ = cmd.Wait()
		})
		for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			conn, err := new(net.Dialer).DialContext(b.Context(), "tcp", addr)
			if err == nil {
				_ = conn.Close()
				break
			}
			if time.Now().After(end) {
				b.Fatal("nginx does not answer: ", err)
			}
		}
		return &served{addr: addr, length: small, asks: [][]byte{request(pagePath+"0", nil)}, foreign: true, answered: func([]int64) error { return nil }}
	}}}
}

func endScenarios() []scenario {
	return []scenario{{
		id: "end-to-end", title: "End to end, over loopback", headline: "ops",
		text: fmt.Sprintf("%d connections that are kept alive, from a load generator in a process of its own on the same machine, which competes with the "+
			"server for its cores. CPU is of the server's process. Times are of a request as its client sees it.", endConnections),
		measure: func(b *testing.B, s scenario) []report.Case {
			ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) })
			var reads, writes []endEntrant
			for _, lib := range sessionLibraries {
				reads, writes = append(reads, endSession(lib, "/read")), append(writes, endSession(lib, "/write"))
			}
			reads = append(reads, endHandler("handler without session", "/read", len("ok"), ok))
			var pages []endEntrant
			for _, lib := range append(localPageLibraries, redisPageLibraries[1:]...) {
				pages = append(pages, endPage(lib))
			}
			pages = append(pages, endHandler(plain, pagePath, small, newPages(small)))
			pages = append(pages, endNginx()...)
			return []report.Case{
				endToEnd(b, s.headline, endReads, reads), endToEnd(b, s.headline, endWrites, writes),
				endToEnd(b, s.headline, endPages, pages),
			}
		},
	}}
}

func endToEnd(b *testing.B, headline, name string, entrants []endEntrant) report.Case {
	b.Helper()
	e := theEffort()
	server := redistest.NewStandalone(b)
	generator := startProcesses(b, 1, server.Addr())[0]
	sites := make([]*served, len(entrants))
	for i, en := range entrants {
		sites[i] = en.serve(b, server.Addr())
	}
	length := 5 * e.turn // one connection's share of a turn is a sixty-fourth
	turn := func(i int) report.Sample {
		runtime.GC()
		s := sites[i]
		var got Loaded
		cpu := cpuTime()
		err := generator.Call("Process.Load", LoadOrder{Addr: s.addr, Requests: s.asks, Connections: endConnections, Length: s.length, For: length}, &got)
		cpu = cpuTime() - cpu
		if err == nil {
			err = s.answered(got.Requests[:min(len(got.Requests), len(s.asks))])
		}
		if err != nil {
			b.Fatalf("%s: %v", entrants[i].name, err)
		}
		n := 0.0
		for _, r := range got.Requests {
			n += float64(r)
		}
		sample := report.Sample{"ops": n / got.Took.Seconds(), "p50": millis(got.P50), "p99": millis(got.P99)}
		if !s.foreign {
			sample["cpu"] = micros(cpu) / n
		}
		return sample
	}
	for i := range entrants {
		turn(i)
	}
	rows := make([]row, len(entrants))
	for i, en := range entrants {
		rows[i] = row{en.name, en.kind}
	}
	return inTurn(name, headline, e.rounds, rows, func(_, i int) report.Sample { return turn(i) })
}
