package redislock

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/herdless/herdless/internal/push"
)

const (
	// maxUnanswered is how many commands one server may leave unanswered at a
	// time. One that hangs would otherwise collect a goroutine for each.
	maxUnanswered = 256
	// maxOwed is how many releases that a server may not have heard of are kept
	// for it. What comes on top ends by itself.
	maxOwed = 1000
	// collectEvery is how often a server that is owed releases is tried.
	collectEvery = 250 * time.Millisecond
)

// errHung is why a server of a quorum is not asked.
var errHung = errors.New("the server does not answer")

// server is one of a quorum.
type server struct {
	client     Client
	hub        *push.Hub
	timeout    time.Duration
	unanswered chan struct{} // one value for each command under way

	mu        sync.Mutex
	hung      bool      // the last that is known of it: it let a command wait for timeout
	asked     time.Time // when it was asked last, while it is hung
	releasing map[keys]*releasing
	owed      map[string]debt // by owner
	collects  bool            // a timer is set to collect what is owed, or that is under way
}

// enter reports whether the server may be asked. If so, leave must be called when
// it has answered. One that hangs is asked once in each timeout only: whoever asks
// at the same time as others and gets no majority would wait for it, and keep them
// all from one meanwhile.
func (s *server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hung && time.Since(s.asked) < s.timeout {
		return false
	}
	select {
	case s.unanswered <- struct{}{}:
		s.asked = time.Now()
		return true
	default:
		return false
	}
}

// hangs notes whether the server hangs.
func (s *server) hangs(hung bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hung = hung
}

func (s *server) leave() { <-s.unanswered }

// releasing are the releases of a name that are under way.
type releasing struct {
	count int
	over  chan struct{} // closed when there are none
}

// releases notes a release, until the function that it returns is called.
//
// redsync goes on when a majority has answered, so an acquire can get to the last
// servers after that, and is released there a moment later. Those who come next
// wait on each server for that, or two of three could refuse them a lease that
// nobody holds:
//
//	A: takes 1 2, releases 1 2                     takes 3               releases 3
//	B:                        takes 1 3, releases 1 3      takes 2               releases 2
//	C:                                                            refused by 2 3
func (s *server) releases(k keys) (over func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.releasing[k]
	if r == nil {
		r = &releasing{over: make(chan struct{})}
		s.releasing[k] = r
	}
	r.count++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if r.count--; r.count == 0 {
			close(r.over)
			delete(s.releasing, k)
		}
	}
}

// released returns a channel that is closed when no release is under way, or nil if
// none is.
func (s *server) released(k keys) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.releasing[k]; r != nil {
		return r.over
	}
	return nil
}

// debt is a release that a server may not have heard of.
type debt struct {
	release *step
	until   time.Time // when the lease has ended by itself
}

// owe has a release tried again until the server has heard of it, or the lease is
// over. It does nothing if there are too many.
func (s *server) owe(release *step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	owner := release.req.Owner
	if _, known := s.owed[owner]; known || len(s.owed) == maxOwed {
		return
	}
	s.owed[owner] = debt{release, time.Now().Add(release.req.TTL)}
	if !s.collects {
		s.collects = true
		time.AfterFunc(collectEvery, s.collect)
	}
}

// collect sends the releases that are owed, one at a time.
func (s *server) collect() {
	for {
		owed := s.nextOwed()
		if owed == nil {
			return
		}
		again := &step{kind: releases, server: s, req: owed.req, keys: owed.keys, wake: owed.wake, over: func() {}}
		if _, err := again.release(context.Background()); err != nil {
			time.AfterFunc(collectEvery, s.collect)
			return
		}
		s.mu.Lock()
		delete(s.owed, owed.req.Owner)
		s.mu.Unlock()
	}
}

// nextOwed returns one of those that are owed, and nil if none is any more.
func (s *server) nextOwed() *step {
	s.mu.Lock()
	defer s.mu.Unlock()
	for owner, d := range s.owed {
		if time.Now().Before(d.until) {
			return d.release
		}
		delete(s.owed, owner)
	}
	s.collects = false
	return nil
}
