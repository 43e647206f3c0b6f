package main_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
)

// binary is the program, built with the race detector, once for all tests.
var binary string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "cacheproxy-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "cacheproxy")
	if out, err := exec.Command("go", "build", "-race", "-o", binary, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	return redistest.Run(m)
}

// patience is how long a test waits for something that must happen, on a
// machine that is busy with the other tests.
const patience = 30 * time.Second

// command prepares the program with nothing in its environment.
func command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	return cmd
}

// program is a running cacheproxy, in a process of its own.
type program struct {
	addr   string
	url    string
	cmd    *exec.Cmd
	stderr *logs
	exited chan struct{}
}

// start starts the program on a free port and waits until it tells its URL.
func start(t *testing.T, args ...string) *program {
	t.Helper()
	return startIn(t, nil, args...)
}

// startIn is start with variables in the environment.
func startIn(t *testing.T, env []string, args ...string) *program {
	t.Helper()
	p := &program{
		cmd:    command(append([]string{"-listen", "127.0.0.1:0"}, args...)...),
		stderr: &logs{}, exited: make(chan struct{}),
	}
	p.cmd.Env = append(p.cmd.Env, env...)
	p.cmd.Stderr = p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 10)
	go func() {
		s := bufio.NewScanner(stdout)
		for s.Scan() {
			lines <- s.Text()
		}
		close(lines)
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
		if t.Failed() {
			t.Logf("%v said:\n%s", p.cmd.Args[1:], p.stderr)
		}
		if strings.Contains(p.stderr.String(), "DATA RACE") {
			t.Errorf("%v has a data race:\n%s", p.cmd.Args[1:], p.stderr)
		}
	})
	select {
	case line, ok := <-lines:
		if !ok {
			<-p.exited
			t.Fatalf("%v ended: %s", p.cmd.Args[1:], p.stderr)
		}
		rest, ok := strings.CutPrefix(line, "herdless cacheproxy: http://")
		if !ok {
			t.Fatalf("%v began with %q", p.cmd.Args[1:], line)
		}
		p.addr, _, _ = strings.Cut(rest, " ")
		p.url = "http://" + p.addr
	case <-time.After(patience):
		t.Fatalf("%v does not start", p.cmd.Args[1:])
	}
	return p
}

// missedStore reports whether the program had to do without its store for a moment, as
// it happens where the machine is busy. It asks the origin then. What it has logged
// comes a moment later.
func (p *program) missedStore() bool {
	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if strings.Contains(p.stderr.String(), "the store fails") {
			return true
		}
	}
	return false
}

// terminate sends SIGTERM.
func (p *program) terminate(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

// code waits for the end of the program and returns its exit code.
func (p *program) code(t *testing.T) int {
	t.Helper()
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatal("the program does not end")
		return 0
	}
}

// logs keeps what the program writes, but of the access log only the end: a soak
// writes a line for each of a hundred thousand requests.
type logs struct {
	mu      sync.Mutex
	rest    []byte // of a line that is not complete
	other   strings.Builder
	request []string
}

const keptRequests = 100

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, p...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		l.rest = rest
		if !bytes.Contains(line, []byte(" msg=request ")) {
			if l.other.Len() < 1<<20 {
				fmt.Fprintf(&l.other, "%s\n", line)
			}
			continue
		}
		if l.request = append(l.request, string(line)); len(l.request) > 2*keptRequests {
			l.request = append([]string(nil), l.request[keptRequests:]...)
		}
	}
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.other.String() + string(l.rest)
}

// requests returns the last lines of the access log.
func (l *logs) requests() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.request...)
}

// routers and stores are what the program can be run with.
var routers = []string{"nethttp", "gin"}

func eachRouter(t *testing.T, fn func(t *testing.T, router string)) {
	for _, router := range routers {
		t.Run(router, func(t *testing.T) {
			t.Parallel()
			fn(t, router)
		})
	}
}

// origin starts an origin that counts what it is asked.
func origin(t *testing.T, h http.HandlerFunc) (url string, asked *atomic.Int64) {
	asked = new(atomic.Int64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		h(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL, asked
}

// deadOrigin returns the URL of an origin at which nobody listens any more.
func deadOrigin(t *testing.T) string {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	return server.URL
}

// page is a response with its body.
type page struct {
	status int
	header http.Header
	body   string
}

// cacheStatus is what the cache says of the page, without its name and key.
func (p page) cacheStatus() string { return p.header.Get("Cache-Status") }

func (p page) isHit() bool { return strings.Contains(p.cacheStatus(), "; hit") }

// client never asks for a coding, so that what it gets is what was sent.
func newClient(t *testing.T) *http.Client {
	transport := &http.Transport{DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

func do(t *testing.T, client *http.Client, req *http.Request) page {
	t.Helper()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return page{resp.StatusCode, resp.Header, string(body)}
}

// request makes a request for host, whatever the address.
func request(t *testing.T, method, url, host string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	return req
}

func get(t *testing.T, url string) page {
	t.Helper()
	return do(t, newClient(t), request(t, http.MethodGet, url, "shop.test"))
}

// stored returns a page that the program has in its store. The client gets it a
// moment before that, and where the machine is busy it may not be stored at once.
func stored(t *testing.T, url string) (got page) {
	t.Helper()
	eventually(t, url+" is stored", func() bool {
		got = get(t, url)
		return got.isHit()
	})
	return got
}

// eventually polls until check is satisfied.
func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if check() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("never happened: %s", what)
}
