// Package deadline bounds steps that nearly always end in time, for the cost of one
// allocation each.
package deadline

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// Context is what context.WithDeadlineCause returns, and behaves like it, also in
// context.Cause and as the parent of other contexts. But it has no timer and no
// channel, and its parent does not know of it, until somebody asks for Done or it is
// over. That is most of what a bounded step would cost otherwise.
//
// One thing is different: an end that nobody has asked about has not come yet, so that
// Cancel comes before it.
type Context struct {
	parent context.Context //nolint:containedctx // it is a context
	until  time.Time       // zero if the parent has an earlier one
	cause  error
	full   atomic.Pointer[full] // nil until it is needed, and the same from then on
}

// full is a context of the standard library that stands for a Context.
type full struct {
	context.Context //nolint:containedctx // it is one
	cancel          context.CancelFunc
}

// canceled stands for all that were cancelled before they were needed in full. It
// knows no values.
var canceled = func() *full {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return &full{ctx, cancel}
}()

// After returns a Context that ends after d at the latest, with that cause. A nil
// cause is context.DeadlineExceeded. Cancel is to be called when the step is over.
func After(parent context.Context, d time.Duration, cause error) *Context {
	return At(parent, time.Now().Add(d), cause)
}

// At is After with a time.
func At(parent context.Context, until time.Time, cause error) *Context {
	if theirs, ok := parent.Deadline(); ok && theirs.Before(until) {
		until = time.Time{}
	}
	return &Context{parent: parent, until: until, cause: cause}
}

// Cancel ends c, unless it has ended, and frees what it holds. It may be called more
// than once, and while others use c.
func (c *Context) Cancel() {
	if !c.full.CompareAndSwap(nil, canceled) {
		c.full.Load().cancel()
	}
}

// Deadline implements context.Context.
func (c *Context) Deadline() (time.Time, bool) {
	if c.until.IsZero() {
		return c.parent.Deadline()
	}
	return c.until, true
}

// Done implements context.Context.
func (c *Context) Done() <-chan struct{} { return c.inFull().Done() }

// Err implements context.Context. What is over is needed in full: so it stays what it
// is, and context.Cause, which asks Err first, finds the cause by Value.
func (c *Context) Err() error {
	if f := c.full.Load(); f != nil {
		return f.Err()
	}
	if c.parent.Err() == nil && (c.until.IsZero() || time.Now().Before(c.until)) {
		return nil
	}
	return c.inFull().Err()
}

// Value implements context.Context. The standard library finds its own contexts by a
// key that only it knows.
func (c *Context) Value(key any) any {
	if f := c.full.Load(); f != nil {
		if value := f.Value(key); value != nil {
			return value
		}
	}
	return c.parent.Value(key)
}

// String keeps package fmt from reading what others may write.
func (c *Context) String() string { return fmt.Sprintf("%v until %v", c.parent, c.until) }

func (c *Context) inFull() *full {
	if f := c.full.Load(); f != nil {
		return f
	}
	f := &full{}
	if c.until.IsZero() {
		f.Context, f.cancel = context.WithCancel(c.parent)
	} else {
		f.Context, f.cancel = context.WithDeadlineCause(c.parent, c.until, c.cause)
	}
	if !c.full.CompareAndSwap(nil, f) {
		f.cancel()
	}
	return c.full.Load()
}

// Apart returns what ends ctx: a time, which is zero if there is none, and another
// context. Who waits for the time and for that one's Done waits for ctx, and ctx needs
// no Done of its own. Only Cancel it does not notice, which is for who made ctx to call
// when nobody waits any more.
func Apart(ctx context.Context) (until time.Time, rest context.Context) {
	for {
		c, ok := ctx.(*Context)
		if !ok || c.full.Load() != nil {
			return until, ctx
		}
		if !c.until.IsZero() && (until.IsZero() || c.until.Before(until)) {
			until = c.until
		}
		ctx = c.parent
	}
}
