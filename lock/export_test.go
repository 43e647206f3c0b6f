package lock

import (
	"context"
	"testing"
	"time"
)

// AllocationsOfAnEvent returns what telling observe of the events of a lease
// allocates.
func AllocationsOfAnEvent(observe func(context.Context, Event)) float64 {
	l := &Locker{observe: observe}
	ctx := context.Background()
	a := &ask{began: time.Now()}
	lease := &Lease{hold: &hold{locker: l}, ctx: ctx, since: a.began}
	return testing.AllocsPerRun(1000, func() {
		l.waited(ctx, a, nil)
		l.acquired(a, lease)
		lease.observe(Released, nil)
	})
}
