package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// OpenBody opens the body of an entry under key that was found. Opening it counts
// as asking the store; reading it is bounded by ctx. If bytes are missing the error
// is ErrNoBody, here or of a Read: what was read without an error up to io.EOF is
// whole. It is an io.Seeker if the store's is.
func (e *Engine) OpenBody(ctx context.Context, key string, body Body) (r io.ReadCloser, err error) {
	store, ok := e.store.(BodyStore)
	if !ok {
		return nil, errNoBodyStore(e.store)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	b := newBudget(ctx, e.storeTimeout, cancel)
	b.begin()
	var missing error
	err = e.step(ctx, "open", key, func() (err error) { //nolint:contextcheck // b is ctx, with a deadline
		r, err = store.OpenBody(b, key, body)
		if errors.Is(err, ErrNoBody) {
			missing = err
			return nil // the store is well
		}
		return err
	})
	inTime := b.end()
	if missing != nil {
		e.happened(ctx, Event{Kind: DamageFound, Key: key})
	}
	switch {
	case err == nil && missing == nil && inTime:
		c := closing{r, cancel}
		if s, ok := r.(io.Seeker); ok {
			return closingSeeker{c, s}, nil
		}
		return c, nil
	case err == nil && missing == nil:
		_ = r.Close()
		err = errBudget
	}
	cancel(nil)
	return nil, errors.Join(missing, err)
}

func errNoBodyStore(s Store) error {
	return fmt.Errorf("cache: a %T is not a BodyStore: %w", s, errors.ErrUnsupported)
}

// closing is a reader with a context that ends with it.
type closing struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

// WriteTo implements io.WriterTo, for a store's that can do without a copy.
func (c closing) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, c.ReadCloser) }

func (c closing) Close() error {
	defer c.cancel(nil)
	return c.ReadCloser.Close()
}

// closingSeeker is one that can seek.
type closingSeeker struct {
	closing
	io.Seeker
}

// CreateBody begins a body that is to belong to an entry under key, as BodyStore
// does. With another store the error is errors.ErrUnsupported. Each Write and Finish
// has a budget, larger than that of a read because some MiB may be on their way.
func (e *Engine) CreateBody(ctx context.Context, key string, ttl time.Duration) (BodyWriter, error) {
	store, ok := e.store.(BodyStore)
	if !ok {
		return nil, errNoBodyStore(e.store)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	w := &bodyWriter{cancel: cancel, budget: newBudget(ctx, max(writeEndTimeout, e.storeTimeout), cancel)}
	w.budget.begin()
	defer w.budget.end()
	var err error
	if w.w, err = store.CreateBody(w.budget, key, ttl); err != nil { //nolint:contextcheck // that is ctx, with a deadline
		cancel(nil)
		return nil, err
	}
	return w, nil
}

// budget is a context for what is done with a body, step by step. It ends if a step takes
// too long, and while there is one, that is its deadline: a client of Redis can tell its
// connection of a deadline, but not of an end that comes by surprise.
type budget struct {
	context.Context
	each   time.Duration
	timer  *time.Timer
	cancel context.CancelCauseFunc
	until  atomic.Pointer[time.Time] // nil: nothing is done
}

// newBudget returns one that cancel ends, in which a step may take as long as each.
func newBudget(ctx context.Context, each time.Duration, cancel context.CancelCauseFunc) *budget {
	return &budget{Context: ctx, each: each, cancel: cancel}
}

// Deadline implements context.Context.
func (b *budget) Deadline() (time.Time, bool) {
	deadline, ok := b.Context.Deadline()
	if until := b.until.Load(); until != nil && (!ok || until.Before(deadline)) {
		return *until, true
	}
	return deadline, ok
}

// begin begins a step.
func (b *budget) begin() {
	until := time.Now().Add(b.each)
	b.until.Store(&until)
	if b.timer == nil {
		b.timer = time.AfterFunc(b.each, func() { b.cancel(errBudget) })
	} else {
		b.timer.Reset(b.each)
	}
}

// end ends the step, and reports whether it has come in time.
func (b *budget) end() bool {
	b.until.Store(nil)
	return b.timer.Stop()
}

// bodyWriter writes into the store, each step within a budget.
type bodyWriter struct {
	w      BodyWriter
	budget *budget
	cancel context.CancelCauseFunc
	ended  bool
}

// Write implements io.Writer.
func (w *bodyWriter) Write(p []byte) (n int, err error) {
	if w.ended { // the store's may be busy with Abort
		return 0, errBodyEnded
	}
	w.budget.begin()
	defer w.budget.end()
	return w.w.Write(p)
}

// Finish implements BodyWriter.
func (w *bodyWriter) Finish() (Body, error) {
	if w.ended {
		return Body{}, errBodyEnded
	}
	w.budget.begin()
	defer w.budget.end()
	body, err := w.w.Finish()
	if err == nil {
		w.ended = true
		w.cancel(nil)
	}
	return body, err
}

// Abort implements BodyWriter. Nobody waits for what is only tidying up.
func (w *bodyWriter) Abort() {
	if w.ended {
		return
	}
	w.ended = true
	go func() {
		w.w.Abort()
		w.cancel(nil)
	}()
}
