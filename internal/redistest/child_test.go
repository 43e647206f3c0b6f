//go:build unix

package redistest_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/internal/redistest"
)

// childVar selects what TestInChild does in a child process; without it,
// TestInChild does nothing.
const childVar = "HERDLESS_REDISTEST_CHILD"

// TestInChild is the other side of the tests below, which run this test binary
// once more, to see how it ends.
func TestInChild(t *testing.T) {
	switch os.Getenv(childVar) {
	case "":
	case "missing":
		redistest.Standalone(t)
	case "missing twice":
		t.Run("first", func(t *testing.T) { redistest.Standalone(t) })
		t.Run("second", func(t *testing.T) { redistest.Standalone(t) })
	case "pass":
		report(redistest.Standalone(t), redistest.NewStandalone(t))
	case "panic":
		report(redistest.Standalone(t), redistest.NewStandalone(t))
		panic("on purpose")
	case "exit":
		report(redistest.Standalone(t), redistest.NewStandalone(t))
		os.Exit(3)
	case "hang":
		s := redistest.NewStandalone(t)
		restarted, stopped := redistest.NewStandalone(t), redistest.NewStandalone(t)
		restarted.Restart(t)
		stopped.Stop(t)
		report(redistest.Standalone(t), s, restarted, stopped)
		select {}
	case "hang cluster":
		c, s := redistest.SharedCluster(t), redistest.SharedSentinels(t)
		report(slices.Concat(c.Masters(t), s.Replicas(t))...)
		select {}
	case "hang killed":
		s := redistest.NewStandalone(t)
		s.Kill(t)
		fmt.Print("\nREPORT ", s.Addr(), " ", s.PID(), "\n")
		select {}
	case "start for ever":
		report(redistest.Standalone(t))
		for {
			t.Run("test", func(t *testing.T) { redistest.NewStandalone(t) })
		}
	}
}

// report tells the parent the directory of the servers and their process ids.
func report(list ...*redistest.Server) {
	fmt.Print("\nREPORT ", redistest.Root())
	for _, s := range list {
		fmt.Print(" ", s.PID())
	}
	fmt.Println()
}

// child is a run of this test binary that stays within TestInChild.
type child struct {
	cmd  *exec.Cmd
	root string
	pids []int
}

func childCommand(t *testing.T, what string) *exec.Cmd {
	t.Helper()
	bin, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, bin, "-test.run=^TestInChild$", "-test.v")
	cmd.Env = append(os.Environ(), childVar+"="+what)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// startChild starts it and returns when it has reported.
func startChild(t *testing.T, what string) *child {
	t.Helper()
	c := &child{cmd: childCommand(t, what)}
	out, err := c.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.cmd.Start())
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), "REPORT ")
		if !ok {
			continue
		}
		fields := strings.Fields(rest)
		c.root = fields[0]
		for _, f := range fields[1:] {
			var pid int
			_, err := fmt.Sscan(f, &pid)
			require.NoError(t, err)
			c.pids = append(c.pids, pid)
		}
		return c
	}
	_ = c.cmd.Wait()
	t.Fatal("the child ended without a report")
	return nil
}

// cleanedUp polls until nothing of the child is left.
func (c *child) cleanedUp(t *testing.T) {
	t.Helper()
	require.NotEmpty(t, c.pids)
	for _, pid := range c.pids {
		eventually(t, fmt.Sprintf("redis-server %d of the child is gone", pid), func() bool { return redistest.Gone(pid) })
	}
	eventually(t, c.root+" is gone", func() bool {
		_, err := os.Stat(c.root)
		return os.IsNotExist(err)
	})
}

func TestNothingIsLeftOfATestBinary(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		code int
	}{{"pass", 0}, {"panic", 2}, {"exit", 3}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := startChild(t, test.name)
			_ = c.cmd.Wait()
			require.Equal(t, test.code, c.cmd.ProcessState.ExitCode())
			c.cleanedUp(t)
		})
	}
}

func TestNothingIsLeftOfAKilledTestBinary(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, what string
		group      bool // all of its process group, as a shell's or a CI's kill does it
		signal     syscall.Signal
	}{
		{"killed", "hang", false, syscall.SIGKILL},
		{"with its process group", "hang", true, syscall.SIGKILL},
		{"terminated", "hang", true, syscall.SIGTERM},
		{"with all deployments", "hang cluster", false, syscall.SIGKILL},
		{"amid starts", "start for ever", false, syscall.SIGKILL},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := startChild(t, test.what)
			for _, pid := range c.pids {
				require.False(t, redistest.Gone(pid), "server %d has ended too early", pid)
			}
			target := c.cmd.Process.Pid
			if test.group {
				target = -target
			}
			require.NoError(t, syscall.Kill(target, test.signal))
			_ = c.cmd.Wait()
			c.cleanedUp(t)
		})
	}
}

// The nodes of a Cluster whose place a killed one held would strike it from their
// lists if they met another process's server there.
func TestThePortOfAKilledServerIsItsOwnInEveryProcess(t *testing.T) {
	t.Parallel()
	c := startChild(t, "hang killed")
	_, port, err := net.SplitHostPort(c.root)
	require.NoError(t, err)
	number, err := strconv.Atoi(port)
	require.NoError(t, err)
	require.False(t, redistest.ClaimPort(number), "the port of a killed server could be had")
	require.NoError(t, c.cmd.Process.Kill())
	_ = c.cmd.Wait()
	require.True(t, redistest.ClaimPort(number), "the port of a killed process's server could not be had")
}

func TestMissingServerFails(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		times int
	}{{"missing", 1}, {"missing twice", 2}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cmd := childCommand(t, test.name)
			cmd.Env = append(cmd.Env, "PATH=")
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, "a missing redis-server went unnoticed")
			require.NotZero(t, exit.ExitCode())
			for _, hint := range []string{"make deps", "apt-get install redis-server", "brew install redis"} {
				require.Equal(t, test.times, strings.Count(string(out), hint), "want %q in each failure: %s", hint, out)
			}
			require.NotContains(t, string(out), "SKIP")
		})
	}
}
