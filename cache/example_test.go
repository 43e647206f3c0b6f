package cache_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/lock"
)

func ExampleEngine_Do() {
	// In a cluster: rediscache.New(rdb, nil) and redislock.New(rdb, nil).
	store := cache.NewMemoryStore(nil)
	locker, err := lock.New(lock.NewMemoryStore(), nil)
	if err != nil {
		log.Fatal(err)
	}
	engine, err := cache.New(store, &cache.Options{Locker: locker})
	if err != nil {
		log.Fatal(err)
	}

	load := func(context.Context, *cache.Loading) (cache.Entry, error) {
		fmt.Println("loading")
		return cache.Entry{Kind: cache.Value, Data: []byte("ada"), TTL: time.Minute}, nil
	}
	for range 2 {
		found, err := engine.Do(context.Background(), "user 1", load)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", found.Entry.Data)
	}
	// Output:
	// loading
	// ada
	// ada
}
