package bench

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const canIdle = true

// leastPriority has the scheduler run this thread where nobody else wants to.
func leastPriority() error {
	return unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
}

// TestIdlersGiveWay: there is one for each processor, it runs only where nobody else wants
// to, and it ends.
func TestIdlersGiveWay(t *testing.T) {
	t.Setenv(awakeVar, "1")
	t.Run("", func(t *testing.T) {
		stop := keepAwake(t)
		if n := idlers(t); n != runtime.NumCPU() {
			t.Errorf("%d threads of the least priority, want one for each processor", n)
		}
		stop()
		if n := idlers(t); n != 0 {
			t.Errorf("%d are left when they were stopped", n)
		}
		keepAwake(t)
	})
	if n := idlers(t); n != 0 {
		t.Errorf("%d are left", n)
	}
}

// idlers counts the threads of this process's children that have the least priority.
func idlers(tb testing.TB) (n int) {
	tb.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/task/[0-9]*/stat")
	if err != nil {
		tb.Fatal(err)
	}
	for _, name := range stats {
		text, _ := os.ReadFile(name) // others come and go
		_, after, _ := strings.Cut(string(text), ") ")
		fields := strings.Fields(after) // from the third on, of proc(5)
		if len(fields) > 38 && fields[1] == strconv.Itoa(os.Getpid()) && fields[38] == strconv.Itoa(unix.SCHED_IDLE) {
			n++
		}
	}
	return n
}
