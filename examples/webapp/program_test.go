package main_test

import (
	"bytes"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestBadInput(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() }) // after the parallel subtests
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := free.Addr().String()
	free.Close()

	for _, test := range []struct {
		name string
		args []string
		env  []string
		code int
		says string
	}{
		{name: "unknown flag", args: []string{"-wool"}, code: 2, says: "-wool"},
		{name: "argument", args: []string{"serve"}, code: 2, says: `"serve"`},
		{name: "not a number", args: []string{"-nodes", "many"}, code: 2, says: `"many"`},
		{name: "no nodes", args: []string{"-nodes", "0"}, code: 2, says: "-nodes is 0"},
		{name: "too many nodes", args: []string{"-nodes", "1000"}, code: 2, says: "-nodes is 1000"},
		{name: "unknown router", args: []string{"-router", "chi"}, code: 2, says: `-router is "chi"`},
		{name: "odd name", args: []string{"-name", "a\nb"}, code: 2, says: "-name is"},
		{name: "odd network", args: []string{"-trust-proxy", "10.0.0.1"}, code: 2, says: `"10.0.0.1"`},
		{name: "odd target", args: []string{"-herd-target", "lb:8080"}, code: 2, says: "-herd-target"},
		{name: "two faults", args: []string{"-nodes", "0", "-router", "chi"}, code: 2, says: "-router"},
		{name: "environment", env: []string{"NODES=many"}, code: 2, says: "environment variable NODES"},
		{name: "unparsable Redis URL", args: []string{"-redis", "redis://[::1"}, code: 1, says: "-redis: "},
		{name: "no Redis URL", args: []string{"-redis", "http://127.0.0.1"}, code: 1, says: "-redis: "},
		{name: "unreachable Redis", args: []string{"-redis", "redis://" + nobody}, code: 1, says: "-redis: "},
		{name: "unreachable Sentinel", env: []string{"REDIS_URL=redis+sentinel://" + nobody + "/herdless"}, code: 1, says: "-redis: "},
		{name: "unreachable Cluster", args: []string{"-redis", "redis+cluster://" + nobody}, code: 1, says: "-redis: "},
		{name: "taken port", args: []string{"-listen", taken.Addr().String()}, code: 1, says: taken.Addr().String()},
		{name: "no address", args: []string{"-listen", "nowhere"}, code: 1, says: "nowhere"},
		{name: "failing health check", args: []string{"-healthcheck", "http://" + nobody + "/healthz"}, code: 1, says: nobody},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			// A later -listen counts.
			cmd := command(test.env, append([]string{"-listen", "127.0.0.1:0"}, test.args...)...)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			stop := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
			defer stop.Stop()
			err := cmd.Run()
			if exit := new(exec.ExitError); !errors.As(err, &exit) {
				t.Fatalf("it ran: %v", err)
			}
			if got := cmd.ProcessState.ExitCode(); got != test.code {
				t.Errorf("the exit code is %d, want %d", got, test.code)
			}
			said := stderr.String()
			if !strings.Contains(said, test.says) {
				t.Errorf("it said %q, want something about %q", said, test.says)
			}
			if n := strings.Count(said, "\n"); n != 1 {
				t.Errorf("it said %d lines, want 1: %s", n, said)
			}
			if strings.Contains(said, "goroutine ") {
				t.Errorf("it shows a stack trace: %s", said)
			}
			if stdout.Len() > 0 {
				t.Errorf("it said %q on stdout, want nothing", &stdout)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	out, err := command(nil, "-h").CombinedOutput()
	if err != nil {
		t.Errorf("-h: %v", err)
	}
	for _, want := range []string{"-redis", "REDIS_URL", "-herd-target", "HERD_TARGET"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("-h does not mention %s: %s", want, out)
		}
	}
}

// A request that is under way when SIGTERM comes gets its answer, the load
// balancer hears that no more are wanted, and the exit code is 0.
func TestGracefulShutdown(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		args []string
	}{
		{"a net/http node", []string{"-node-only", "-router", "nethttp"}},
		{"a gin node", []string{"-node-only", "-router", "gin"}},
		{"three nodes", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := start(t, nil, append(test.args, "-work", "3s", "-drain-delay", "1s")...)
			b := newBrowser(t)
			if out, err := command(nil, "-healthcheck", p.url+"/healthz").CombinedOutput(); err != nil {
				t.Errorf("-healthcheck: %v: %s", err, out)
			}

			sent, answer := make(chan struct{}), make(chan page, 1)
			req := b.request(http.MethodGet, p.url+"/", nil)
			req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
				WroteRequest: func(httptrace.WroteRequestInfo) { close(sent) },
			}))
			go func() { answer <- b.do(req) }()
			<-sent
			p.terminate(t)

			other := newBrowser(t)
			eventually(t, "/readyz and /healthz answer 503", func() bool {
				ready := other.do(other.request(http.MethodGet, p.url+"/readyz", nil))
				health := other.do(other.request(http.MethodGet, p.url+"/healthz", nil))
				return ready.status == http.StatusServiceUnavailable && health.status == http.StatusServiceUnavailable &&
					strings.Contains(health.body, "draining")
			})
			if got := <-answer; got.status != http.StatusOK || !strings.HasSuffix(strings.TrimSpace(got.body), "</html>") {
				t.Errorf("the request under way got %d, want a whole page", got.status)
			}
			if code := p.code(t); code != 0 {
				t.Errorf("the exit code is %d, want 0", code)
			}
		})
	}
}
