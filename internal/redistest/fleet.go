package redistest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// fleet is all processes of this test binary. Its directory and its watchdog
// come with the first process.
type fleet struct {
	mu     sync.Mutex
	closed bool
	dir    string
	dog    *watchdog
	procs  map[*process]struct{}
	reaps  sync.WaitGroup
}

var servers fleet

// mkdir returns a new directory, which the watchdog removes with all others
// at the end if its user has not done so before.
func (f *fleet) mkdir() (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.open(); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(f.dir, "server-")
	if err != nil {
		return "", fmt.Errorf("redistest: %w", err)
	}
	return dir, nil
}

// open is called with mu held.
func (f *fleet) open() error {
	if f.closed {
		return errors.New("redistest: Run has ended the servers of this test binary")
	}
	if f.dog != nil {
		return nil
	}
	dir, err := os.MkdirTemp("", "herdless-redistest-")
	if err != nil {
		return fmt.Errorf("redistest: %w", err)
	}
	dog, err := startWatchdog(dir)
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	f.dir, f.dog, f.procs = dir, dog, make(map[*process]struct{})
	return nil
}

// start starts redis-server in dir, its output appended to a file there.
func (f *fleet) start(dir string, args ...string) (*process, error) {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, fmt.Errorf("redistest: redis-server is not installed, and these tests need it: "+
			"run `make deps`, or `apt-get install redis-server`, or `brew install redis`: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.open(); err != nil {
		return nil, err
	}
	p := &process{log: filepath.Join(dir, "output.log"), done: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_TRUNC|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("redistest: %w", err)
	}
	defer out.Close()
	p.cmd = f.dog.command(bin, args...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, out, out
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("redistest: start redis-server: %w", err)
	}
	f.procs[p] = struct{}{}
	f.reaps.Go(func() {
		p.reap(f.dog)
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.procs, p)
	})
	return p, nil
}

// close ends all processes, lets no new one start, and returns when everything
// that the fleet has started is gone.
func (f *fleet) close() error {
	f.mu.Lock()
	f.closed = true
	var procs []*process
	for p := range f.procs {
		procs = append(procs, p)
	}
	dog := f.dog
	f.mu.Unlock()
	if dog == nil {
		return nil
	}
	var errs []error
	for _, p := range procs {
		errs = append(errs, p.kill())
	}
	if errors.Join(errs...) == nil {
		f.reaps.Wait()
	}
	return errors.Join(append(errs, dog.close())...)
}
