package redistraffic_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/middleware/traffic"
	"github.com/herdless/herdless/middleware/traffic/redistraffic"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// In a process with this variable the test binary is a server that counts a request
// every millisecond, on the Redis of this address.
const nodeVariable = "HERDLESS_TRAFFIC_NODE"

func TestMain(m *testing.M) {
	if spec := os.Getenv(nodeVariable); spec != "" {
		if err := countForever(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(redistest.Run(m))
}

// countForever prints how many requests it has counted, until its standard input ends.
func countForever(spec string) error {
	addr, prefix, _ := strings.Cut(spec, " ")
	rdb := redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
	r, err := traffic.New(redistraffic.New(rdb, &redistraffic.Options{Prefix: prefix}), &traffic.Options{Node: "victim"})
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	flushes := uint64(0)
	for n := 0; ; n++ {
		// A flush that is over has sent all that was counted before it began.
		if now := r.Stats().Flushes; now != flushes {
			flushes = now
			fmt.Println(n)
		}
		r.Record(traffic.Hit{Route: "r", Path: "/p", Status: 200})
		time.Sleep(time.Millisecond)
	}
}

// TestAKilledNodeLosesTheLastInterval: what it had counted up to the flush before the
// last one that it saw is there, and nothing twice.
func TestAKilledNodeLosesTheLastInterval(t *testing.T) {
	server, prefix := redistest.Standalone(t), redistest.Prefix(t)
	cmd := exec.Command(os.Args[0]) //nolint:gosec // this very binary, which ends with its standard input
	cmd.Env = append(os.Environ(), nodeVariable+"="+server.Addr()+" "+prefix)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer stdin.Close()
	lines := bufio.NewScanner(stdout)
	var seen []uint64 // at the end of each flush
	for len(seen) < 4 && lines.Scan() {
		var n uint64
		_, err := fmt.Sscan(lines.Text(), &n)
		require.NoError(t, err)
		seen = append(seen, n)
	}
	require.Len(t, seen, 4)
	require.NoError(t, cmd.Process.Kill())
	last := seen[3]
	for lines.Scan() {
		_, _ = fmt.Sscan(lines.Text(), &last)
	}
	_ = cmd.Wait()

	reader, err := traffic.New(redistraffic.New(server.Client(t), &redistraffic.Options{Prefix: prefix}), &traffic.Options{Node: "reader"})
	require.NoError(t, err)
	defer func() { _ = reader.Close(context.Background()) }()
	report := total(t, reader)
	counted := report.Total.Requests()
	t.Logf("after flushes it had counted %d, and %d are there", seen, counted)
	assert.GreaterOrEqual(t, counted, seen[2], "what was counted before the last interval")
	assert.LessOrEqual(t, counted, last+2000, "and not more than it can have counted")
	board, err := reader.Board(traffic.PathsBoard, nil)
	require.NoError(t, err)
	e, ok, err := board.Rank(t.Context(), traffic.AllTime, "/p")
	require.NoError(t, err)
	require.True(t, ok)
	// Not the same number: a request may come between the counters and the board,
	// and the kill between two parts of a batch.
	assert.GreaterOrEqual(t, uint64(e.Score), seen[2])
	assert.LessOrEqual(t, uint64(e.Score), last+2000)
}
