package redistest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// process is one run of redis-server: started once, reaped once.
type process struct {
	cmd  *exec.Cmd
	log  string        // the file that holds its output
	done chan struct{} // closed once it has been reaped
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// reap waits for the end of the process, so that it does not stay a zombie.
func (p *process) reap(w *watchdog) {
	// How it ended does not matter: who waits for done reads the log.
	_ = p.cmd.Wait()
	w.forget(p.pid())
	close(p.done)
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// kill ends the process and returns when it is gone. It does nothing to one
// that is gone already, whoever has its id now: os.Process knows.
func (p *process) kill() error {
	_ = p.cmd.Process.Kill() // fails only when it has ended
	select {
	case <-p.done:
		return nil
	case <-time.After(30 * time.Second):
		return fmt.Errorf("redistest: redis-server, process %d, did not end within 30 s of SIGKILL", p.pid())
	}
}

// logTail returns the end of the process's output for a failure message.
func (p *process) logTail() string {
	const maxLines = 15
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	lines = lines[max(0, len(lines)-maxLines):]
	return fmt.Sprintf("the end of its output:\n\t%s", strings.Join(lines, "\n\t"))
}

// processState returns the first letter of a process's state as ps shows it:
// T for stopped, Z for dead but not reaped, "" for none such.
func processState(pid int) string {
	if _, err := os.Stat("/proc/self/stat"); err == nil { // Linux, where ps may not be installed
		data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil {
			return ""
		}
		// The state follows the name, which stands in brackets and may hold some.
		_, state, _ := strings.Cut(string(data[strings.LastIndexByte(string(data), ')'):]), " ")
		return state[:min(1, len(state))]
	}
	out, _ := exec.Command("/bin/ps", "-o", "state=", "-p", strconv.Itoa(pid)).Output() // fails if there is none
	state := strings.TrimSpace(string(out))
	return state[:min(1, len(state))]
}
