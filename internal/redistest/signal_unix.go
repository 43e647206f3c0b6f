//go:build unix

package redistest

import (
	"os"
	"syscall"
)

// ownGroup keeps what is sent to the process group of the test binary, such as
// the interrupt key's signal, from the process.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func suspend(p *os.Process) error { return p.Signal(syscall.SIGSTOP) }
func resume(p *os.Process) error  { return p.Signal(syscall.SIGCONT) }
