package lock_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/fence"
)

// The resource is guarded against a holder that was paused past its lease.
func Example_fencing() {
	store := lock.NewMemoryStore() // redislock.New(rdb, nil) in a cluster
	locker, err := lock.New(store, nil)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	var guard fence.Guard // what is written stands in the same process; see package fence for SQL, Redis and HTTP
	ledger := ""
	write := func(token uint64, text string) error {
		return guard.Do(token, func() error { ledger = text; return nil })
	}

	// The first holder takes the lease, and is paused. Nobody renews it.
	paused, err := store.TryAcquire(ctx, lock.Request{Name: "ledger", Owner: "first", TTL: 10 * time.Millisecond})
	if err != nil {
		log.Fatal(err)
	}

	// Another waits until the lease has ended, and writes.
	err = locker.Do(ctx, "ledger", 10*time.Second, func(_ context.Context, token uint64) error {
		return write(token, "second")
	})
	fmt.Println("the second holder:", err)

	// The first holder runs again and does not know that its time is over.
	err = write(paused.Token, "first")
	fmt.Println("the first holder is refused:", errors.Is(err, fence.ErrStale))
	fmt.Println("the ledger says:", ledger)
	// Output:
	// the second holder: <nil>
	// the first holder is refused: true
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

// A job runs once a day, on the server that comes first. Those that come when it has
// finished find a mark.
func ExampleLocker_TryDo_onceADay() {
	locker, err := lock.New(lock.NewMemoryStore(), nil) // redislock.New(rdb, nil) in a cluster
	if err != nil {
		log.Fatal(err)
	}
	done := map[string]bool{} // in a cluster a row in the database, or redislock.FencedGet and FencedSet, with a TTL
	job := func(server, day string) error {
		return locker.TryDo(context.Background(), "report", 10*time.Second, func(context.Context, uint64) error {
			// Under the lease: whoever had it before has left the mark by now.
			if done[day] {
				fmt.Println(server, "has nothing to do")
				return nil
			}
			fmt.Println(server, "makes the report of", day)
			// Last: if a server dies before, another one does the job again.
			done[day] = true
			return nil
		})
	}
	for _, server := range []string{"server 1", "server 2"} {
		if err := job(server, "Monday"); err != nil && !errors.Is(err, lock.ErrNotAcquired) {
			log.Fatal(err)
		}
	}
	if err := job("server 2", "Tuesday"); err != nil {
		log.Fatal(err)
	}
	// Output:
	// server 1 makes the report of Monday
	// server 2 has nothing to do
	// server 2 makes the report of Tuesday
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

// Many read at a time, and nobody reads while another writes.
func ExampleLocker_Shared() {
	writers, err := lock.New(lock.NewMemoryStore(), nil)
	if err != nil {
		log.Fatal(err)
	}
	readers := writers.Shared()
	ctx := context.Background()
	err = readers.Do(ctx, "catalogue", 10*time.Second, func(ctx context.Context, _ uint64) error {
		another, err := readers.TryAcquire(ctx, "catalogue", 10*time.Second)
		if err != nil {
			return err
		}
		fmt.Println("another one reads")
		_, err = writers.TryAcquire(ctx, "catalogue", 10*time.Second)
		fmt.Println("a writer must wait:", errors.Is(err, lock.ErrNotAcquired))
		return another.Release(ctx)
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// another one reads
	// a writer must wait: true
}

// No more than two of all servers send mail at a time.
func ExampleLocker_Semaphore() {
	locker, err := lock.New(lock.NewMemoryStore(), nil)
	if err != nil {
		log.Fatal(err)
	}
	mail := locker.Semaphore(2)
	ctx := context.Background()
	for i := range 3 {
		lease, err := mail.TryAcquire(ctx, "smtp", 10*time.Second)
		if errors.Is(err, lock.ErrNotAcquired) {
			fmt.Println("server", i+1, "must wait")
			continue
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("server", i+1, "sends")
		defer func() { _ = lease.Release(ctx) }()
	}
	// Output:
	// server 1 sends
	// server 2 sends
	// server 3 must wait
}

// A log of what goes wrong, and of who waits for long.
func ExampleOptions_observe() {
	locker, err := lock.New(lock.NewMemoryStore(), &lock.Options{
		Observe: func(_ context.Context, e lock.Event) {
			switch {
			case e.Err != nil:
				log.Printf("lock %s: %v: %v", e.Name, e.Kind, e.Err)
			case e.Kind == lock.Waited && e.Took > time.Second:
				log.Printf("lock %s: waited for %v", e.Name, e.Took)
			case e.Kind == lock.Released:
				fmt.Println(e.Name, "was released")
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	err = locker.TryDo(context.Background(), "nightly-report", 10*time.Second, func(context.Context, uint64) error { return nil })
	if err != nil {
		log.Fatal(err)
	}
	// Output: nightly-report was released
}
