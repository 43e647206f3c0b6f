// Package redistest starts real redis-server processes for tests: a standalone
// server, a primary with replicas under Sentinel, and a cluster, each on free
// loopback ports, and a TCP proxy that puts faults between a client and a
// server.
//
// The shared deployments (Standalone, SharedSentinels, SharedCluster) start at
// their first use in a test binary and serve all of its tests, which keep out
// of each other's way with a Prefix. A test that breaks its servers — kills
// them, stops them, fails them over — takes a private deployment from
// NewStandalone, NewSentinels or NewCluster, which ends with the test.
//
// A package that uses it has this TestMain, so that the shared servers end in
// order:
//
//	func TestMain(m *testing.M) { os.Exit(redistest.Run(m)) }
//
// Without it, after a panic, a timeout or a SIGKILL of the test binary, a
// watchdog process ends the servers and removes their files all the same.
// No process is ever ended but by the id of one that this package started.
//
// A test that cannot have its servers fails; it never skips. Everything here
// is safe for concurrent use by parallel tests. As long as a server runs, one
// goroutine waits for its end; where goleak looks at a test that leaves shared
// servers running, ignore it with
//
//	goleak.IgnoreAnyFunction("github.com/herdless/herdless/internal/redistest.(*process).reap")
//
// After Run no goroutine of this package is left.
package redistest

import (
	"fmt"
	"os"
	"testing"
)

// Run runs m's tests, ends every server that they left running, and returns
// the exit code for os.Exit. It is meant for TestMain.
func Run(m *testing.M) int {
	code := m.Run()
	if err := servers.close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	return code
}
