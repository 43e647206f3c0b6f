package redistest

import (
	"errors"
	"os/exec"
)

// Root returns the directory of this test binary's servers.
func Root() string {
	servers.mu.Lock()
	defer servers.mu.Unlock()
	return servers.dir
}

// Gone says whether a process has ended, reaped or not.
func Gone(pid int) bool {
	state := processState(pid)
	return state == "" || state == "Z"
}

// FreePort returns a port as a server would get it.
func FreePort() (int, error) { return ports.take() }

// ClaimPort says whether no other process holds the port; then this one does.
func ClaimPort(port int) bool {
	ports.mu.Lock()
	defer ports.mu.Unlock()
	return ports.open() == nil && claim(ports.claims, port)
}

// StartOn starts a server on the first of the ports that nobody has, ends it,
// and returns that port.
func StartOn(list []int, args ...string) (int, error) {
	take := func() (int, error) {
		if len(list) == 0 {
			return 0, errors.New("no ports left")
		}
		port := list[0]
		list = list[1:]
		return port, nil
	}
	s, err := startServerOn(take, nil, args...)
	if err != nil {
		return 0, err
	}
	return s.port, s.end()
}

// Watchdog watches processes that the test starts itself.
type Watchdog struct{ dog *watchdog }

// NewWatchdog starts a watchdog that will remove dir.
func NewWatchdog(dir string) (Watchdog, error) {
	dog, err := startWatchdog(dir)
	return Watchdog{dog}, err
}

// Command returns the command that runs bin under the watchdog's eyes.
func (w Watchdog) Command(bin string, args ...string) *exec.Cmd { return w.dog.command(bin, args...) }

// Forget tells it that a process has ended.
func (w Watchdog) Forget(pid int) { w.dog.forget(pid) }

// Close sets it off and waits until it is through.
func (w Watchdog) Close() error { return w.dog.close() }

// SlotOwner parses the reply to CLUSTER NODES and returns the address of the
// node with the slot.
func SlotOwner(nodes string, slot int) (string, error) {
	list, err := parseClusterNodes(nodes)
	if err != nil {
		return "", err
	}
	for _, n := range list {
		if n.owns(slot) {
			return n.addr, nil
		}
	}
	return "", nil
}
