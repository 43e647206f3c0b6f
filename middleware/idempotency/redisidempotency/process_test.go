package redisidempotency_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/middleware/idempotency"
	"github.com/herdless/herdless/middleware/idempotency/redisidempotency"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// In a process with this variable the test binary is a server that takes
// payments, on the Redis of this address.
const nodeVariable = "HERDLESS_IDEMPOTENCY_NODE"

func TestMain(m *testing.M) {
	if spec := os.Getenv(nodeVariable); spec != "" {
		if err := serve(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(redistest.Run(m))
}

// serve runs a server until its standard input ends. A payment counts in Redis
// and takes as long as the query says.
func serve(spec string) error {
	addr, prefix, _ := strings.Cut(spec, " ")
	rdb := redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
	store := redisidempotency.New(rdb, &redisidempotency.Options{Prefix: prefix})
	everybody := func(*http.Request) (string, error) { return "everybody", nil }
	g, err := idempotency.New(store, everybody, time.Hour, &idempotency.Options{Lease: time.Second, Timeout: 10 * time.Second, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: g.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := rdb.Incr(context.WithoutCancel(r.Context()), prefix+"payments").Result()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		ms, _ := strconv.Atoi(r.FormValue("ms"))
		time.Sleep(time.Duration(ms) * time.Millisecond)
		fmt.Fprintf(w, "payment %d, attempt %d, receipt %s", n, idempotency.Attempt(r.Context()), rand.Text())
	}))}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	fmt.Println(l.Addr())
	return server.Serve(l)
}

// node is a server in a process of its own.
type node struct {
	url string
	cmd *exec.Cmd
}

func startNode(t *testing.T, addr, prefix string) *node {
	t.Helper()
	cmd := exec.Command(os.Args[0]) //nolint:gosec // this very binary, which ends with its standard input
	cmd.Env = append(os.Environ(), nodeVariable+"="+addr+" "+prefix)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	return &node{"http://" + strings.TrimSpace(line), cmd}
}

// pay sends a payment and returns the answer, or the error of the connection.
func (n *node) pay(client *http.Client, key string, ms int) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, fmt.Sprintf("%s/?ms=%d", n.url, ms), strings.NewReader("5 €"))
	if err != nil {
		return 0, "", err
	}
	req.Host = "shop.test" // the same behind every balancer
	req.Header.Set("Idempotency-Key", key)
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// Three servers get a hundred duplicates each: one runs the handler, once, and
// three hundred responses are the same.
func TestThreeProcessesPayOnce(t *testing.T) {
	server, prefix := redistest.Standalone(t), redistest.Prefix(t)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}, Timeout: time.Minute}
	var mu sync.Mutex
	bodies := map[string]int{}
	var running sync.WaitGroup
	for range 3 {
		n := startNode(t, server.Addr(), prefix)
		for range 100 {
			running.Go(func() {
				status, body, err := n.pay(client, "key", 500)
				assert.NoError(t, err)
				assert.Equal(t, http.StatusOK, status, body)
				mu.Lock()
				defer mu.Unlock()
				bodies[body]++
			})
		}
	}
	running.Wait()
	assert.Len(t, bodies, 1, "all must get the same response")
	payments, err := server.Client(t).Get(t.Context(), prefix+"payments").Int()
	require.NoError(t, err)
	assert.Equal(t, 1, payments)
}

// The server that runs the handler is killed: exactly one other runs it again,
// and knows that it is not the first.
func TestTheRunnerIsKilled(t *testing.T) {
	server, prefix := redistest.Standalone(t), redistest.Prefix(t)
	rdb := server.Client(t)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}, Timeout: time.Minute}
	first, others := startNode(t, server.Addr(), prefix), []*node{startNode(t, server.Addr(), prefix), startNode(t, server.Addr(), prefix)}
	dead := make(chan error, 1)
	go func() {
		_, _, err := first.pay(client, "key", 1500)
		dead <- err
	}()
	require.Eventually(t, func() bool {
		n, _ := rdb.Get(t.Context(), prefix+"payments").Int()
		return n == 1
	}, 20*time.Second, 5*time.Millisecond)
	var mu sync.Mutex
	bodies := map[string]int{}
	var running sync.WaitGroup
	for _, n := range others {
		for range 20 {
			running.Go(func() {
				status, body, err := n.pay(client, "key", 1500)
				assert.NoError(t, err)
				assert.Equal(t, http.StatusOK, status, body)
				mu.Lock()
				defer mu.Unlock()
				bodies[body]++
			})
		}
	}
	require.NoError(t, first.cmd.Process.Kill())
	require.Error(t, <-dead)
	running.Wait()
	require.Len(t, bodies, 1, "all must get the same response")
	for body := range bodies {
		assert.True(t, strings.HasPrefix(body, "payment 2, attempt 2, "), body)
	}
	payments, err := rdb.Get(t.Context(), prefix+"payments").Int()
	require.NoError(t, err)
	assert.Equal(t, 2, payments, "exactly one more")
}
