package rediscache

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"
)

// turns lets a few at a time do what takes much memory. Redis answers one after the
// other anyway, and with a few at a time the memory of the one before is used again
// while the processor has it at hand: 128 readers of 512 KiB take half of the kernel's
// time so.
//
// It must not make anybody wait for those who hang. If nobody has ended his turn for a
// while, who waits goes ahead.
type turns struct {
	taken chan struct{}
	ended atomic.Int64 // when the last turn did, since base
	base  time.Time
}

// patience is for how long nobody must have ended his turn.
const patience = 20 * time.Millisecond

func newTurns() *turns {
	return &turns{taken: make(chan struct{}, max(8, 4*runtime.GOMAXPROCS(0))), base: time.Now().Add(-patience)}
}

// try takes a turn if there is one, and returns what is to be called when it is over.
func (t *turns) try() (end func(), ok bool) {
	select {
	case t.taken <- struct{}{}:
		return t.end, true
	default:
		return nil, false
	}
}

// take is try, and waits for a turn until nobody need wait any more.
func (t *turns) take(ctx context.Context) (end func()) {
	if end, ok := t.try(); ok {
		return end
	}
	waited := time.NewTicker(patience)
	defer waited.Stop()
	for {
		select {
		case t.taken <- struct{}{}:
			return t.end
		case <-ctx.Done():
			return func() {}
		case <-waited.C:
			if time.Since(t.base)-time.Duration(t.ended.Load()) >= patience {
				return func() {}
			}
		}
	}
}

func (t *turns) end() {
	t.ended.Store(int64(time.Since(t.base)))
	<-t.taken
}
