package redislock_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/redis/go-redis/v9"
)

// A report is made by one of all servers: the others leave it to the one that has
// the lease.
func ExampleNew() {
	rdb := redis.NewClient(&redis.Options{Addr: "localhost:6379", ContextTimeoutEnabled: true})
	locker, err := lock.New(redislock.New(rdb, nil), nil)
	if err != nil {
		log.Fatal(err)
	}
	err = locker.TryDo(context.Background(), "nightly-report", 10*time.Second, func(ctx context.Context, token uint64) error {
		// Stop when ctx ends, and write with the token: see package fence.
		return redislock.FencedSet(ctx, rdb, "report", "all is well", token, 24*time.Hour)
	})
	fmt.Println(err)
}

// Three servers that know nothing of each other, of which one may be down.
func ExampleNewQuorum() {
	var clients []redislock.Client
	for _, addr := range []string{"redis-1:6379", "redis-2:6379", "redis-3:6379"} {
		clients = append(clients, redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true}))
	}
	locker, err := lock.New(redislock.NewQuorum(clients, nil), nil)
	if err != nil {
		log.Fatal(err)
	}
	err = locker.Do(context.Background(), "leader", 10*time.Second, func(ctx context.Context, _ uint64) error {
		<-ctx.Done() // lead until the lease is lost
		return ctx.Err()
	})
	fmt.Println(err)
}
