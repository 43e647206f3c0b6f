package redistest_test

import (
	"bufio"
	"io"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// talker is a process with which a test speaks.
type talker struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// newTalker starts the process and has it reaped with the test.
func newTalker(t *testing.T, cmd *exec.Cmd) *talker {
	t.Helper()
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return &talker{cmd: cmd, in: in, out: bufio.NewScanner(out)}
}

// line returns the next line, "" after the last.
func (t *talker) line() string {
	t.out.Scan()
	return t.out.Text()
}
