package lock_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"sync"
	"time"

	"github.com/herdless/herdless/lock"
)

// Ledger is a resource that takes part in fencing: it refuses whoever comes with
// a smaller token than it has seen.
type Ledger struct {
	mu    sync.Mutex
	token uint64
	text  string
}

var errFenced = errors.New("a later holder has written already")

func (l *Ledger) Write(token uint64, text string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if token < l.token {
		return errFenced
	}
	l.token, l.text = token, text
	return nil
}

// The resource is guarded against a holder that was paused past its lease.
func Example_fencing() {
	store := lock.NewMemoryStore() // redislock.New(rdb, nil) in a cluster
	locker, err := lock.New(store, nil)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	var ledger Ledger

	// The first holder takes the lease, and is paused. Nobody renews it.
	paused, err := store.TryAcquire(ctx, lock.Request{Name: "ledger", Owner: "first", TTL: 10 * time.Millisecond})
	if err != nil {
		log.Fatal(err)
	}

	// Another waits until the lease has ended, and writes.
	err = locker.Do(ctx, "ledger", 10*time.Second, func(_ context.Context, token uint64) error {
		return ledger.Write(token, "second")
	})
	fmt.Println("the second holder:", err)

	// The first holder runs again and does not know that its time is over.
	fmt.Println("the first holder:", ledger.Write(paused.Token, "first"))
	fmt.Println("the ledger says:", ledger.text)
	// Output:
	// the second holder: <nil>
	// the first holder: a later holder has written already
	// the ledger says: second
}

// A job runs on one of many servers; the others leave it alone.
func ExampleLocker_TryDo() {
	locker, err := lock.New(lock.NewMemoryStore(), nil)
	if err != nil {
		log.Fatal(err)
	}
	job := func(server string) error {
		return locker.TryDo(context.Background(), "nightly-report", 10*time.Second, func(ctx context.Context, _ uint64) error {
			fmt.Println(server, "runs the job")
			if server == "server 1" {
				// Meanwhile, on another server:
				err := locker.TryDo(ctx, "nightly-report", 10*time.Second, func(context.Context, uint64) error { return nil })
				fmt.Println("server 2 is told:", errors.Is(err, lock.ErrNotAcquired))
			}
			return nil
		})
	}
	if err := job("server 1"); err != nil {
		fmt.Println(err)
	}
	// Output:
	// server 1 runs the job
	// server 2 is told: true
}

// A lease is held by hand where a function does not fit.
func ExampleLocker_Acquire() {
	locker, err := lock.New(lock.NewMemoryStore(), nil)
	if err != nil {
		log.Fatal(err)
	}
	// The context bounds the waiting, not the lease.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	lease, err := locker.Acquire(ctx, "import", 10*time.Second)
	if err != nil {
		log.Fatal(err)
	}
	select {
	case <-lease.Context().Done(): // others may be at it now: stop
		fmt.Println(context.Cause(lease.Context()))
	case <-time.After(time.Millisecond): // the work
		fmt.Println("done")
	}
	if err := lease.Release(context.Background()); errors.Is(err, lock.ErrLost) {
		fmt.Println("the work may have been done twice")
	}
	// Output: done
}
