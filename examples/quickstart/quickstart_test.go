package quickstart_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
)

func TestMain(m *testing.M) { os.Exit(redistest.Run(m)) }

// The programs of the README do what it says, as two processes on one Redis.
func TestQuickstart(t *testing.T) {
	for _, program := range []string{"nethttp", "gin"} {
		binary := filepath.Join(t.TempDir(), program)
		if out, err := exec.Command("go", "build", "-race", "-o", binary, "./"+program).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		t.Run(program, func(t *testing.T) {
			env := "REDIS_URL=" + redistest.NewStandalone(t).URL()
			visit(t, start(t, binary, env), start(t, binary, env))
		})
	}
}

// visit counts visits and reads the report, in turns at a and b.
func visit(t *testing.T, a, b string) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar}
	get := func(url string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "shop.test" // one site, as behind a load balancer
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	for i, url := range []string{a, b, a, b} {
		if resp, body := get(url + "/"); resp.StatusCode != 200 || !strings.Contains(body, fmt.Sprint(i+1)) {
			t.Errorf("visit %d: got %d %q", i+1, resp.StatusCode, body)
		}
	}
	_, first := get(a + "/report")
	resp, second := get(b + "/report")
	if strings.TrimSpace(first) == "" || first != second || !strings.Contains(resp.Header.Get("Cache-Status"), "hit") {
		t.Errorf("the report was computed twice: %q, %q with %q", first, second, resp.Header.Get("Cache-Status"))
	}
	denied := 0
	for i := range 110 {
		if resp, _ := get([]string{a, b}[i%2] + "/none"); resp.StatusCode == http.StatusTooManyRequests {
			denied++
		}
	}
	if denied == 0 {
		t.Error("110 requests and none was denied, want a limit of 100 a minute over all processes")
	}
}

// start starts a program on a free port and waits until it listens.
func start(t *testing.T, binary string, env ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	cmd := exec.Command(binary)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "LISTEN=" + addr, "GIN_MODE=release"}, env...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err == nil {
			conn.Close()
			return "http://" + addr
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s does not listen: %v", binary, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
