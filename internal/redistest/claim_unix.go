//go:build unix

package redistest

import (
	"io"
	"os"
	"syscall"
)

// A process claims a port by a lock on the byte of that number, which the
// system takes back when the process ends, however it ends.

// claim says whether the port is this process's now. A second claim of the same
// process succeeds.
func claim(f *os.File, port int) bool { return lockByte(f, port, syscall.F_WRLCK) == nil }

func unclaim(f *os.File, port int) {
	// It fails only where claim would have failed.
	_ = lockByte(f, port, syscall.F_UNLCK)
}

func lockByte(f *os.File, at int, kind int16) error {
	return syscall.FcntlFlock(f.Fd(), syscall.F_SETLK, &syscall.Flock_t{Type: kind, Whence: io.SeekStart, Start: int64(at), Len: 1})
}
