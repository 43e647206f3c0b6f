package main_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
)

// binary is the program, built with the race detector, once for all tests.
var binary string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "webapp-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "webapp")
	if out, err := exec.Command("go", "build", "-race", "-o", binary, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	return redistest.Run(m)
}

// patience is how long a test waits for something that must happen, on a
// machine that is busy with the other tests.
const patience = 30 * time.Second

// program is a running webapp, in a process of its own.
type program struct {
	url    string
	cmd    *exec.Cmd
	stdout []string // until the URL
	stderr *buffer
	exited chan struct{}
}

// command prepares the program with nothing in its environment but env.
func command(env []string, args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	return cmd
}

// start starts the program on a free port and waits until it tells its URL.
func start(t *testing.T, env []string, args ...string) *program {
	t.Helper()
	p := &program{
		cmd:    command(append([]string{"LISTEN=127.0.0.1:0"}, env...), args...),
		stderr: &buffer{}, exited: make(chan struct{}),
	}
	p.cmd.Stderr = p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
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
		p.kill()
		if t.Failed() {
			t.Logf("%v said:\n%s", p.cmd.Args[1:], p.stderr)
		}
		if strings.Contains(p.stderr.String(), "DATA RACE") {
			t.Errorf("%v has a data race:\n%s", p.cmd.Args[1:], p.stderr)
		}
	})
	timeout := time.After(patience)
	for p.url == "" {
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatalf("%v ended: %s", p.cmd.Args[1:], p.stderr)
			}
			p.stdout = append(p.stdout, line)
			if u, ok := strings.CutPrefix(line, "Open "); ok {
				p.url = u
			}
		case <-timeout:
			t.Fatalf("%v does not start", p.cmd.Args[1:])
		}
	}
	go func() {
		for range lines { // nothing more is expected
		}
	}()
	return p
}

// kill is kill -9.
func (p *program) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
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

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// browser is a visitor: it keeps cookies, whatever the port, and follows
// redirects.
type browser struct {
	t      *testing.T
	client *http.Client
}

func newBrowser(t *testing.T) *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &browser{t, &http.Client{Jar: jar, Transport: transport, Timeout: patience}}
}

// page is a response with its body.
type page struct {
	status int
	header http.Header
	body   string
}

func (b *browser) do(req *http.Request) page {
	b.t.Helper()
	resp, err := b.client.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return page{resp.StatusCode, resp.Header, string(body)}
}

func (b *browser) request(method, url string, form url.Values) *http.Request {
	b.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, url, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	return req
}

// get expects a 200.
func (b *browser) get(url string) page {
	b.t.Helper()
	p := b.do(b.request(http.MethodGet, url, nil))
	if p.status != http.StatusOK {
		b.t.Fatalf("GET %s: got %d, want 200: %s", url, p.status, p.body)
	}
	return p
}

// post sends a form and expects a 200, after the redirect.
func (b *browser) post(url string, form url.Values) page {
	b.t.Helper()
	p := b.do(b.request(http.MethodPost, url, form))
	if p.status != http.StatusOK {
		b.t.Fatalf("POST %s: got %d, want 200: %s", url, p.status, p.body)
	}
	return p
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
