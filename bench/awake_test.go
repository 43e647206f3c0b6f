package bench

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"testing"
)

// A processor with nothing to do is put to sleep, and a virtual one takes longer to wake
// than anything here: with one request at a time most of it is that, on both sides. And it
// hits those hardest who do least, because a goroutine more than it needs keeps a library's
// processor from sleeping. A server at work has no such processors. So idlers run where
// one at a time is measured: one on each processor, which computes for as long as nobody
// else wants it. Where many are, the processors do not sleep, and idlers would be in their
// way.
//
// HERDLESS_BENCH_AWAKE=0 has none; `make bench AWAKE=0`.
const awakeVar = "HERDLESS_BENCH_AWAKE"

// idlerVar makes this test binary an idler.
const idlerVar = "HERDLESS_BENCH_IDLER"

// keepsAwake reports whether keepAwake does anything.
func keepsAwake() bool {
	switch v := cmp.Or(os.Getenv(awakeVar), "1"); v {
	case "0":
		return false
	case "1":
		return canIdle
	default:
		panic(fmt.Sprintf("%s is %q; it can be 1 or 0", awakeVar, v))
	}
}

// keepAwake keeps the processors from sleeping until stop is called, or tb ends.
func keepAwake(tb testing.TB) (stop func()) {
	tb.Helper()
	var idlers []func()
	stop = func() {
		for _, end := range idlers {
			end()
		}
		idlers = nil
	}
	if !keepsAwake() {
		return stop
	}
	tb.Cleanup(stop)
	bin, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	for range runtime.NumCPU() {
		cmd := exec.CommandContext(tb.Context(), bin)
		cmd.Env = append(os.Environ(), idlerVar+"=1")
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			tb.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			tb.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			tb.Fatal(err)
		}
		idlers = append(idlers, func() {
			_ = in.Close()
			_ = cmd.Wait()
		})
		if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
			tb.Fatalf("an idler did not begin: %v; AWAKE=0 measures without", err)
		}
	}
	return stop
}

// idleUntilClosed is the main function of an idler, which ends with its input.
func idleUntilClosed() error {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	runtime.LockOSThread()
	if err := leastPriority(); err != nil {
		return fmt.Errorf("idler: %w", err)
	}
	if _, err := os.Stdout.Write([]byte{1}); err != nil {
		return fmt.Errorf("idler: %w", err)
	}
	for { //nolint:staticcheck // it is what an idler does
	}
}
