// Package deadline bounds steps that nearly always end in time, for the cost of one
// allocation each.
package deadline

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// step is what context.WithDeadlineCause returns, and behaves like it, also in
// context.Cause and as the parent of other contexts. But it has no timer and no
// channel, and its parent does not know of it, until somebody asks for Done or it is
// over. That is most of what a deadline would cost otherwise.
type step struct {
	parent context.Context //nolint:containedctx // it is a context
	until  time.Time       // zero if the parent has an earlier one
	cause  error

	state atomic.Int32
	mu    sync.Mutex      // held by who makes
	full  context.Context //nolint:containedctx // what stands for the step if it is inFull
	stop  context.CancelFunc

	called atomic.Bool // call is taken
	call   Call        // for the first one of Lone: most steps have one
}

// What a step is. It changes once at most.
const (
	light = iota
	inFull
	canceled // before it was needed in full
)

// over stands for those that are canceled. It knows no values.
var over = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// After is context.WithTimeoutCause, but that an end which nobody has asked about has not
// come yet, so that cancel comes before it.
//
// It is short enough to be inlined: a function to cancel with that stays with the caller
// needs no memory then.
func After(parent context.Context, d time.Duration, cause error) (context.Context, context.CancelFunc) {
	s := after(parent, d, cause)
	return s, s.cancel
}

// At is to context.WithDeadlineCause what After is to context.WithTimeoutCause.
func At(parent context.Context, until time.Time, cause error) (context.Context, context.CancelFunc) {
	s := at(parent, until, cause)
	return s, s.cancel
}

func after(parent context.Context, d time.Duration, cause error) *step {
	return at(parent, time.Now().Add(d), cause)
}

func at(parent context.Context, until time.Time, cause error) *step {
	if theirs, ok := parent.Deadline(); ok && theirs.Before(until) {
		until = time.Time{}
	}
	return &step{parent: parent, until: until, cause: cause}
}

func (s *step) cancel() {
	if !s.state.CompareAndSwap(light, canceled) && s.state.Load() == inFull {
		s.stop()
	}
}

// Deadline implements context.Context.
func (s *step) Deadline() (time.Time, bool) {
	if s.until.IsZero() {
		return s.parent.Deadline()
	}
	return s.until, true
}

// Done implements context.Context.
func (s *step) Done() <-chan struct{} { return s.made().Done() }

// Err implements context.Context. What is over is needed in full: so it stays what it
// is, and context.Cause, which asks Err first, finds the cause by Value.
func (s *step) Err() error {
	late := !s.until.IsZero() && !time.Now().Before(s.until)
	if s.state.Load() == light && s.parent.Err() == nil && !late {
		return nil
	}
	ctx := s.made()
	if late {
		<-ctx.Done() // its timer is due, and who has waited with another one asks for the reason
	}
	return ctx.Err()
}

// Value implements context.Context. The standard library finds its own contexts by a
// key that only it knows.
func (s *step) Value(key any) any {
	if s.state.Load() != light {
		if value := s.made().Value(key); value != nil {
			return value
		}
	}
	return s.parent.Value(key)
}

// String keeps package fmt from reading what others may write.
func (s *step) String() string { return fmt.Sprintf("%v until %v", s.parent, s.until) }

// made returns what stands for s, and makes it if need be.
func (s *step) made() context.Context {
	if s.state.Load() == light {
		s.make()
	}
	if s.state.Load() == canceled {
		return over
	}
	return s.full
}

func (s *step) make() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.Load() != light {
		return // another one has made it
	}
	if s.until.IsZero() {
		s.full, s.stop = context.WithCancel(s.parent)
	} else {
		s.full, s.stop = context.WithDeadlineCause(s.parent, s.until, s.cause)
	}
	if !s.state.CompareAndSwap(light, inFull) {
		s.stop()
	}
}

// Apart returns what ends ctx: a time, which is zero if there is none, and another
// context. Who waits for the time and for that one's Done waits for ctx, and a ctx of
// this package needs no Done of its own. Only that ctx is cancelled they do not notice,
// which is for when nobody waits any more.
func Apart(ctx context.Context) (until time.Time, rest context.Context) {
	for {
		s, ok := ctx.(*step)
		if !ok || s.state.Load() != light {
			return until, ctx
		}
		if !s.until.IsZero() && (until.IsZero() || s.until.Before(until)) {
			until = s.until
		}
		ctx = s.parent
	}
}
