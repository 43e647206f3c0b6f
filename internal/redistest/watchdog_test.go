package redistest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/internal/redistest"
)

// A process id of which the watchdog has heard that it has ended may belong to
// anybody by now. Here one that still runs stands for that anybody.
func TestWatchdogSparesWhoHasEnded(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "servers")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "log"), nil, 0o600))
	dog, err := redistest.NewWatchdog(dir)
	require.NoError(t, err)

	start := func() *exec.Cmd {
		// It says "ready" after it has told the watchdog, and ends with its input.
		return dog.Command("/bin/sh", "-c", "echo ready; read -r x; echo spared")
	}
	spared, doomed := newTalker(t, start()), newTalker(t, start())
	require.Equal(t, "ready", spared.line())
	require.Equal(t, "ready", doomed.line())

	dog.Forget(spared.cmd.Process.Pid)
	require.NoError(t, dog.Close())
	require.Equal(t, "", doomed.line(), "the watchdog left a process")
	require.NoError(t, spared.in.Close())
	require.Equal(t, "spared", spared.line(), "the watchdog killed a process that it had been told to forget")
	require.NoDirExists(t, dir)
}
