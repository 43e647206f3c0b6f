package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/redis/go-redis/v9"
)

const (
	waiters     = 20
	waitSettle  = time.Second // for the waiters to arrive; then counting begins
	waitCounted = 9 * time.Second
	// waitTTL is that of the lock waited for: so long that its holder has
	// nothing to renew while Redis counts.
	waitTTL = time.Minute
)

// BenchmarkLockWaiting counts what waiting for a lock that is held for long asks
// of Redis: with all waiters in one process, which share a client, and with a
// client each, as in a process each. It fails if one of them gets the lock.
func BenchmarkLockWaiting(b *testing.B) {
	layouts := []struct {
		name    string
		clients int
	}{{"one process", 1}, {"a process each", waiters}}
	did := make([]waited, len(contenders)*len(layouts))
	for b.Loop() {
		// All at once: this is about numbers of commands, and the machine has
		// next to nothing to do.
		var wg sync.WaitGroup
		for i := range did {
			c, layout := contenders[i/len(layouts)], layouts[i%len(layouts)]
			server := redistest.NewStandalone(b)
			clients := make([]*redis.Client, layout.clients)
			for j := range clients {
				clients[j] = newClientFor(b, server)
			}
			holder, observer := newClientFor(b, server), server.Client(b)
			wg.Go(func() {
				var err error
				if did[i], err = waitInVain(b, c, holder, observer, clients); err != nil {
					b.Errorf("%s: %v", c.name, err)
				}
			})
		}
		wg.Wait()
		if b.Failed() {
			return
		}
	}

	t := newTable(fmt.Sprintf("%d waiters for a lock that is held for %v", waiters, waitSettle+waitCounted),
		"", "waiters in", "commands/s per waiter", "commands/s", "Redis CPU ms/s", "connections")
	for i, d := range did {
		t.row(contenders[i/len(layouts)].name, layouts[i%len(layouts)].name, num(d.commands/waiters), num(d.commands), ms(d.cpu), num(float64(d.connections)))
	}
	b.ReportMetric(0, "ns/op") // hides it
	b.ReportMetric(did[0].commands/waiters, "commands/s/waiter")
	b.ReportMetric(did[len(layouts)].commands/waiters, "redsync-commands/s/waiter")
	t.end("")
}

// waited is what a second of waiting costs.
type waited struct {
	commands    float64
	cpu         time.Duration
	connections int64
}

func waitInVain(b *testing.B, c contender, holder, observer *redis.Client, clients []*redis.Client) (waited, error) {
	first, err := c.open(holder, waitTTL)
	if err != nil {
		return waited{}, err
	}
	h, err := first.try(b.Context(), "waited-for")
	if err != nil {
		return waited{}, err
	}
	lockers := make([]locker, len(clients))
	for i, rdb := range clients {
		if lockers[i], err = c.open(rdb, waitTTL); err != nil {
			return waited{}, err
		}
	}
	ctx, cancel := context.WithTimeout(b.Context(), patience)
	defer cancel()
	errs := make([]error, waiters)
	var wg sync.WaitGroup
	for i := range waiters {
		wg.Go(func() {
			if _, err := lockers[i%len(lockers)].wait(ctx, "waited-for"); err == nil {
				errs[i] = errors.New("a waiter got a lock that was held")
			} else if ctx.Err() == nil {
				errs[i] = err
			}
		})
	}
	time.Sleep(waitSettle)
	before, err1 := count(observer)
	time.Sleep(waitCounted)
	after, err2 := count(observer)
	did := after.since(before)
	var connections int64
	for _, rdb := range append(clients, holder) {
		connections += int64(rdb.PoolStats().TotalConns) + int64(rdb.PoolStats().PubSubStats.Active)
	}
	cancel()
	wg.Wait()
	errs = append(errs, err1, err2, h.unlock(context.WithoutCancel(ctx)))
	sent, _, _ := did.sent(c)
	return waited{
		commands:    sent / waitCounted.Seconds(),
		cpu:         time.Duration(float64(did.cpu) / waitCounted.Seconds()),
		connections: connections,
	}, errors.Join(errs...)
}
