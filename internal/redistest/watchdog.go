package redistest

import (
	"fmt"
	"os"
	"os/exec"
)

// watchdogScript collects process ids from its standard input, "+ PID" when a
// server starts and "- PID" when it has been reaped, until the last process
// that can write there is gone: the test binary, however it ended. Then it
// kills who is left and removes the directory $1.
//
// It outlives what ends the test binary: it ignores the signals that a
// terminal sends, and it leads a process group of its own.
const watchdogScript = `
trap '' HUP INT QUIT TERM
pids=
while read -r op pid; do
	case $op in
	+) pids="$pids $pid" ;;
	-)
		rest=
		for p in $pids; do
			[ "$p" = "$pid" ] || rest="$rest $p"
		done
		pids=$rest
		;;
	esac
done
for p in $pids; do
	kill -9 "$p" 2>/dev/null
done
rm -rf "$1" 2>/dev/null || { sleep 1; rm -rf "$1"; }
`

// launchScript becomes the server $0 after it has told the watchdog its
// process id. That the child tells it itself leaves no moment at which the
// server runs, the test binary dies, and the watchdog knows of no server: the
// watchdog sees the end of its input only when this script has let go of it.
const launchScript = `echo "+ $$" >&3 || exit 1; exec 3>&-; exec "$0" "$@"`

// watchdog is the process that cleans up after the test binary.
type watchdog struct {
	cmd  *exec.Cmd
	pipe *os.File // the write end; closing it sets the watchdog off
}

func startWatchdog(dir string) (*watchdog, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("redistest: watchdog: %w", err)
	}
	defer r.Close()
	// Standard output and error stay /dev/null: "go test" waits until nobody
	// holds those of the test binary any more.
	cmd := exec.Command("/bin/sh", "-c", watchdogScript, "redistest-watchdog", dir)
	cmd.Stdin = r
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = ownGroup()
	if err := cmd.Start(); err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("redistest: watchdog: %w", err)
	}
	return &watchdog{cmd: cmd, pipe: w}, nil
}

// command returns the command that runs bin under the watchdog's eyes.
func (w *watchdog) command(bin string, args ...string) *exec.Cmd {
	cmd := exec.Command("/bin/sh", append([]string{"-c", launchScript, bin}, args...)...)
	cmd.ExtraFiles = []*os.File{w.pipe} // descriptor 3
	cmd.SysProcAttr = ownGroup()
	return cmd
}

// forget tells the watchdog that pid has ended. It is called right after the
// process has been reaped, before the system could have come round to give the
// id to somebody else.
func (w *watchdog) forget(pid int) {
	// An error means that the watchdog is gone; close reports that.
	_, _ = fmt.Fprintf(w.pipe, "- %d\n", pid)
}

// close sets the watchdog off and waits until it has cleaned up.
func (w *watchdog) close() error {
	if err := w.pipe.Close(); err != nil {
		return fmt.Errorf("redistest: watchdog: %w", err)
	}
	if err := w.cmd.Wait(); err != nil {
		return fmt.Errorf("redistest: watchdog: %w", err)
	}
	return nil
}
