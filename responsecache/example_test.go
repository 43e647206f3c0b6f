package responsecache_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/responsecache"
)

func Example() {
	// In a cluster: rediscache.New(rdb, nil) and redislock.New(rdb, nil).
	store := cache.NewMemoryStore(nil)
	locker, err := lock.New(lock.NewMemoryStore(), nil)
	if err != nil {
		log.Fatal(err)
	}
	pages, err := responsecache.New(store, &responsecache.Options{Locker: locker})
	if err != nil {
		log.Fatal(err)
	}

	computed := 0
	catalogue := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		computed++
		fmt.Fprintf(w, "catalogue, version %d", computed)
	})
	mux := http.NewServeMux()
	mux.Handle("/catalogue", pages.With(responsecache.Policy{TTL: time.Minute, Public: true}).Handler(catalogue))

	get := func() {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://example.com/catalogue", nil))
		status, _, _ := strings.Cut(w.Header().Get("Cache-Status"), "; key=")
		fmt.Println(w.Body, "|", status)
	}
	get()
	get()
	if err := pages.Purge(context.Background(), "http://example.com/catalogue"); err != nil {
		log.Fatal(err)
	}
	get()
	// Output:
	// catalogue, version 1 | herdless; fwd=uri-miss; ttl=60; stored
	// catalogue, version 1 | herdless; hit; ttl=59
	// catalogue, version 2 | herdless; fwd=uri-miss; ttl=60; stored
}
