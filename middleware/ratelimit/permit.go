package ratelimit

import (
	"context"
	"sync"
	"time"
)

// Permit is one of the permits of a Concurrency. It is safe for concurrent use.
type Permit struct {
	c       *Concurrency
	request PermitRequest
	held    bool // in the store
	local   bool // in this process, because the store fails
	left    int  // how many there are besides, or -1: it is not known

	ctx    context.Context //nolint:containedctx // it stands for the life of the permit
	cancel context.CancelCauseFunc

	mu       sync.Mutex
	released bool
	lost     bool
	renewal  *time.Timer // runs renew
	end      *time.Timer // runs lose
}

// Context returns a context that ends when the permit does, with the cause
// ErrPermitLost if it could not be kept. It is a child of that of Acquire.
func (p *Permit) Context() context.Context { return p.ctx }

// Held reports whether the permit is one in the store, and not just what stands for
// it while the store fails (with Local, one of this process), or in Shadow.
func (p *Permit) Held() bool { return p.held }

// keep extends the permit, which was acquired by a request sent then, until it is
// released.
func (p *Permit) keep(sent time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.renewal = time.AfterFunc(p.request.TTL/3, p.renew)
	p.end = time.AfterFunc(time.Until(p.reliable(sent)), p.lose)
}

// reliable returns until when a permit can be counted on that was asked for then. The
// store gives it to nobody else before its TTL is over, from when it was asked; clocks
// may differ in speed by a hundredth.
func (p *Permit) reliable(sent time.Time) time.Time {
	return sent.Add(p.request.TTL - p.request.TTL/100 - 2*time.Millisecond)
}

// renew extends the permit.
func (p *Permit) renew() {
	var there bool
	sent := time.Now()
	ctx := context.WithoutCancel(p.ctx)
	err := p.c.guard.contained(ctx, func() error {
		return p.c.guard.do(ctx, p.c.options.Timeout, func(ctx context.Context) (err error) {
			there, err = p.c.store.Extend(ctx, p.request)
			return err
		}, func() storeStep { return p.c.try(p.request) })
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.released, p.lost:
	case err != nil: // it is tried again until it is lost
		p.renewal.Reset(p.request.TTL / 20)
	case !there:
		p.end.Reset(0)
	default:
		p.end.Reset(time.Until(p.reliable(sent)))
		p.renewal.Reset(p.request.TTL / 3)
	}
}

// lose ends the context of a permit that could not be kept.
func (p *Permit) lose() {
	p.mu.Lock()
	over := p.released || p.lost
	p.lost = true
	p.renewal.Stop()
	p.mu.Unlock()
	if over {
		return
	}
	p.cancel(ErrPermitLost)
	p.c.permitsLost.Add(1)
	_ = p.c.guard.contained(p.ctx, func() error { // it is logged
		p.c.event(p.ctx, Event{Kind: PermitLost, Limit: p.c.name, Key: p.request.Key, Err: ErrPermitLost})
		return nil
	})
}

// Release ends the permit and its context. If the store cannot be told, the permit
// ends there by itself, after ConcurrencyOptions.Lease. It is no error to call it twice.
func (p *Permit) Release(ctx context.Context) {
	p.mu.Lock()
	again := p.released
	p.released = true
	if p.end != nil {
		p.end.Stop()
		p.renewal.Stop()
	}
	p.mu.Unlock()
	p.cancel(context.Canceled)
	if p.local && !again {
		p.c.local.release(p.request.Key)
	}
	if again || !p.held {
		return
	}
	// Not under ctx alone: who has nobody to answer to releases it all the same.
	_ = p.c.guard.do(context.WithoutCancel(ctx), p.c.options.Timeout, p.release, func() storeStep { return p.c.try(p.request) })
}

func (p *Permit) release(ctx context.Context) error { return p.c.store.Release(ctx, p.request) }

// releaseLate releases what may have been acquired by a request whose answer has not
// come, for nobody who waits.
func (p *Permit) releaseLate(ctx context.Context) {
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = p.c.guard.contained(ctx, func() error { return p.release(ctx) }) // else it ends by itself
	}()
}
