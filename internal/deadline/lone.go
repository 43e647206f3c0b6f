package deadline

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Alarms make contexts for calls that ask for Done, but hardly ever wait for it. Their
// timers are used again. The zero value is ready, and safe for concurrent use.
type Alarms struct{ spare sync.Pool }

// Lone returns a context for one call that is waited for, which is to be ended after it.
// It ends like ctx, but who waits for its Done hears of the deadline only. Of the end of
// what ctx was made of it tells those who ask anew: for a call that looks whether to begin,
// and does not break off. One allocation does for that, where Done of ctx takes five or
// more.
//
// It is ctx itself, and nothing is to be ended, if that is not of this package, or has been
// needed in full already.
func (a *Alarms) Lone(ctx context.Context) (context.Context, *Call) {
	s, ok := ctx.(*step)
	if !ok || s.until.IsZero() || s.state.Load() != light {
		return ctx, nil
	}
	c := &s.call
	if !s.called.CompareAndSwap(false, true) {
		c = new(Call) // somebody may have kept the first one
	}
	c.step, c.alarms = s, a
	return c, c
}

// A Call is a context that Lone has returned. The nil Call has ended.
type Call struct {
	*step
	alarms *Alarms
	over   atomic.Bool

	mu     sync.Mutex
	done   chan struct{} // nil until it is asked for
	closed bool
	alarm  *alarm // that closes it
}

// Done implements context.Context.
func (c *Call) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.Err() == nil {
			c.alarm = c.alarms.set(c)
		}
	}
	if !c.closed && c.Err() != nil {
		c.close()
	}
	return c.done
}

// Err implements context.Context. It may say before Done that what the context was made of
// has ended.
func (c *Call) Err() error {
	if err := c.step.Err(); err != nil {
		return err
	}
	if c.over.Load() {
		return context.Canceled
	}
	return nil
}

// End ends the context, for those who have kept it beyond the call.
func (c *Call) End() {
	if c == nil {
		return
	}
	c.over.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil || c.closed {
		return
	}
	c.close()
}

// close is called with mu held, once.
func (c *Call) close() {
	c.closed = true
	close(c.done)
	if c.alarm != nil {
		c.alarms.stop(c.alarm)
	}
}

func (c *Call) ring() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.close()
	}
}

// alarm is a timer that may be used again.
type alarm struct {
	timer *time.Timer
	whose *Call
}

// set returns an alarm that rings at the deadline of c.
func (a *Alarms) set(c *Call) *alarm {
	left := time.Until(c.until)
	s, ok := a.spare.Get().(*alarm)
	if ok {
		s.whose = c
		s.timer.Reset(left)
		return s
	}
	s = &alarm{whose: c}
	s.timer = time.AfterFunc(left, func() { s.whose.ring() })
	return s
}

// stop keeps s for the next one, unless it rings already.
func (a *Alarms) stop(s *alarm) {
	if s.timer.Stop() {
		s.whose = nil
		a.spare.Put(s)
	}
}
