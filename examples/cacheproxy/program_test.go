package main_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

func TestWrongUse(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	good := []string{"-origin", "http://127.0.0.1:1", "-listen", "127.0.0.1:0"}
	for _, test := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"no origin", nil, 2, `-origin is ""`},
		{"origin without a scheme", []string{"-origin", "127.0.0.1:8000"}, 2, "-origin is"},
		{"origin of another scheme", []string{"-origin", "ftp://127.0.0.1"}, 2, "-origin is"},
		{"origin that is no URL", []string{"-origin", "http://[::1"}, 2, "-origin is"},
		{"origin without a host", []string{"-origin", "http://:8000"}, 2, "-origin is"},
		{"origin with a user", []string{"-origin", "http://user:secret@127.0.0.1:1", "-listen", "127.0.0.1:0"}, 2, "-origin is"},
		{"origin with a query", []string{"-origin", "http://127.0.0.1:1?a", "-listen", "127.0.0.1:0"}, 2, "-origin is"},
		{"origin with a fragment", []string{"-origin", "http://127.0.0.1:1#a", "-listen", "127.0.0.1:0"}, 2, "-origin is"},
		{"origin with a line break", []string{"-origin", "a\nb"}, 2, "-origin is"},
		{"unknown flag", []string{"-nope"}, 2, "-nope"},
		{"flag without a value", []string{"-origin"}, 2, "-origin"},
		{"unknown argument", append(good[:len(good):len(good)], "more"), 2, `"more"`},
		{"unknown profile", append(good[:len(good):len(good)], "-profile", "fast"), 2, `"fast"`},
		{"unknown router", append(good[:len(good):len(good)], "-router", "echo"), 2, `"echo"`},
		{"max-body that is no number", append(good[:len(good):len(good)], "-max-body", "1MB"), 2, `"1MB"`},
		{"max-body of nothing", append(good[:len(good):len(good)], "-max-body", "0"), 2, "-max-body"},
		{"max-size below nothing", append(good[:len(good):len(good)], "-max-size", "-1"), 2, "-max-size"},
		{"drain below nothing", append(good[:len(good):len(good)], "-drain", "-1s"), 2, "-drain"},
		{"purge token with a blank", append(good[:len(good):len(good)], "-purge-token", "not secret"), 2, "-purge-token"},
		{"purge token with a line break", append(good[:len(good):len(good)], "-purge-token", "not\nsecret"), 2, "-purge-token"},
		{"purge token that is not ASCII", append(good[:len(good):len(good)], "-purge-token", "nötsecret"), 2, "-purge-token"},
		{"two faults at once", []string{"-profile", "fast"}, 2, `; -profile is "fast"`},
		{"address that is in use", []string{"-origin", "http://127.0.0.1:1", "-listen", taken.Addr().String()}, 1, "in use"},
		{"address that is none", []string{"-origin", "http://127.0.0.1:1", "-listen", "nowhere"}, 1, "nowhere"},
		{"Redis URL of another scheme", append(good[:len(good):len(good)], "-redis", "http://127.0.0.1"), 1, "redis"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			cmd := command(test.args...)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
			defer stop()
			_ = cmd.Wait()
			if got := cmd.ProcessState.ExitCode(); got != test.code {
				t.Errorf("exit code: got %d, want %d", got, test.code)
			}
			if got := stderr.String(); strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, "cacheproxy: ") || !strings.Contains(got, test.says) {
				t.Errorf("stderr: got %q, want one line from cacheproxy with %q", got, test.says)
			}
			if strings.Contains(stderr.String(), "secret") {
				t.Errorf("stderr: got %q, want no token in it", stderr.String())
			}
			if stdout.Len() > 0 {
				t.Errorf("stdout: got %q, want nothing", stdout.String())
			}
		})
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	cmd := command("-h")
	cmd.Env = append(cmd.Env, "CACHEPROXY_PURGE_TOKEN="+token)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("-h: %v", err)
	}
	for _, name := range []string{"-listen", "-origin", "-redis", "-profile", "-router", "-max-body", "-max-size", "-purge-token", "-drain"} {
		if !strings.Contains(string(out), "  "+name+" ") {
			t.Errorf("-h does not explain %s:\n%s", name, out)
		}
	}
	if strings.Contains(string(out), token) {
		t.Errorf("-h shows the token of the environment:\n%s", out)
	}
}

// A request that is under way when the signal comes is answered in full.
func TestStopsCleanly(t *testing.T) {
	t.Parallel()
	eachRouter(t, func(t *testing.T, router string) {
		inside, release := make(chan struct{}), make(chan struct{})
		url, _ := origin(t, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "first, ")
			_ = http.NewResponseController(w).Flush()
			close(inside)
			<-release
			_, _ = io.WriteString(w, "last")
		})
		p := start(t, "-origin", url, "-router", router)
		done := make(chan page)
		go func() {
			defer close(done)
			done <- get(t, p.url)
		}()
		<-inside
		p.terminate(t)
		eventually(t, "no more connections are taken", func() bool {
			conn, err := net.Dial("tcp", p.addr)
			if err == nil {
				conn.Close()
			}
			return err != nil
		})
		close(release)
		if got := <-done; got.body != "first, last" {
			t.Errorf("body: got %q, want all of it", got.body)
		}
		if got := p.code(t); got != 0 {
			t.Errorf("exit code: got %d, want 0", got)
		}
	})
}

// What goes on for ever is cut off in the end, and the log says so.
func TestStopsInTheEnd(t *testing.T) {
	t.Parallel()
	url, _ := origin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	p := start(t, "-origin", url, "-drain", "100ms")
	resp, err := newClient(t).Do(request(t, http.MethodGet, p.url, "shop.test"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	p.terminate(t)
	if got := p.code(t); got != 0 {
		t.Errorf("exit code: got %d, want 0", got)
	}
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the stream seems to have ended well, want an error")
	}
	if log := p.stderr.String(); !strings.Contains(log, "are cut off") {
		t.Errorf("the log is %q, want a word about what is cut off", log)
	}
}

// The line of a response that broke off says so: its status does not.
func TestAccessLogOfBrokenResponses(t *testing.T) {
	t.Parallel()
	eachRouter(t, func(t *testing.T, router string) {
		url, _ := origin(t, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "12345")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		p := start(t, "-origin", url, "-router", router)
		resp, err := newClient(t).Do(request(t, http.MethodGet, p.url, "shop.test"))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("got %q and no error, want one", body)
		}
		eventually(t, "the request is in the access log", func() bool { return len(p.stderr.requests()) == 1 })
		if line := p.stderr.requests()[0]; !strings.Contains(line, " status=200 bytes=5 ") || !strings.HasSuffix(line, " broken=true") {
			t.Errorf("got %q, want a line with broken=true", line)
		}
	})
}

func TestAccessLog(t *testing.T) {
	t.Parallel()
	eachRouter(t, func(t *testing.T, router string) {
		url, _ := origin(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			_, _ = io.WriteString(w, "12345")
		})
		p := start(t, "-origin", url, "-router", router)
		for i := range 2 {
			got := get(t, p.url+"/a?b")
			// A line is written when the client has got its response already.
			eventually(t, "the request is in the access log", func() bool { return len(p.stderr.requests()) == i+1 })
			line := p.stderr.requests()[i]
			for _, want := range []string{
				" method=GET ", " host=shop.test ", " uri=/a?b ", " status=200 ", " bytes=5 ", " took=",
				fmt.Sprintf(" cache=%q broken=false", got.cacheStatus()),
			} {
				if !strings.Contains(line, want) {
					t.Errorf("line %d: got %q, want %q in it", i, line, want)
				}
			}
		}
	})
}
