package cache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/lock"
)

// newEngine returns an engine for a program without Redis. In a cluster the stores
// are rediscache.New(rdb, nil) and redislock.New(rdb, nil).
func newEngine() *cache.Engine {
	locker, err := lock.New(lock.NewMemoryStore(), nil)
	if err != nil {
		log.Fatal(err)
	}
	engine, err := cache.New(cache.NewMemoryStore(nil), &cache.Options{Locker: locker})
	if err != nil {
		log.Fatal(err)
	}
	return engine
}

type Article struct{ Title, Author string }

// Cache-aside, write-through, and a purge by a tag.
func Example() {
	ctx := context.Background()
	database := map[string]Article{"1": {"On Caches", "ada"}}
	load := func(ctx context.Context, id string) (Article, error) {
		fmt.Println("loading", id)
		a, ok := database[id]
		if !ok {
			return a, fmt.Errorf("article %s: %w", id, cache.ErrNotFound)
		}
		cache.AddTags(ctx, "by "+a.Author)
		return a, nil
	}
	save := func(ctx context.Context, id string, a Article) error {
		database[id] = a
		cache.AddTags(ctx, "by "+a.Author) // the tags that load adds
		return nil
	}

	engine := newEngine()
	articles, err := cache.For[Article](engine, "article", cache.Policy{TTL: time.Hour, NegativeTTL: time.Minute})
	if err != nil {
		log.Fatal(err)
	}
	for range 2 {
		a, err := articles.Get(ctx, "1", load)
		fmt.Println(a.Title, err)
	}
	if err := articles.Put(ctx, "1", Article{"On Caching", "ada"}, save); err != nil {
		log.Fatal(err)
	}
	a, err := articles.Get(ctx, "1", load)
	fmt.Println(a.Title, err)
	if err := engine.PurgeTags(ctx, "by ada"); err != nil {
		log.Fatal(err)
	}
	a, err = articles.Get(ctx, "1", load)
	fmt.Println(a.Title, err)
	_, err = articles.Get(ctx, "2", load)
	fmt.Println(errors.Is(err, cache.ErrNotFound))
	// Output:
	// loading 1
	// On Caches <nil>
	// On Caches <nil>
	// On Caching <nil>
	// loading 1
	// On Caching <nil>
	// loading 2
	// true
}

func ExampleNamespace_GetMany() {
	names, err := cache.For[string](newEngine(), "name", cache.Policy{TTL: time.Hour})
	if err != nil {
		log.Fatal(err)
	}
	load := func(_ context.Context, ids []string) (map[string]string, error) {
		fmt.Println("loading", len(ids))
		found := map[string]string{}
		for _, id := range ids {
			found[id] = "name of " + id
		}
		return found, nil
	}
	for _, ids := range [][]string{{"1", "2", "3"}, {"2", "3", "4"}} {
		found, err := names.GetMany(context.Background(), ids, load)
		fmt.Println(found, err)
	}
	// Output:
	// loading 3
	// map[1:name of 1 2:name of 2 3:name of 3] <nil>
	// loading 1
	// map[2:name of 2 3:name of 3 4:name of 4] <nil>
}

func ExampleBlobs_Get() {
	files, err := cache.NewBlobs(newEngine(), "file", cache.Policy{TTL: time.Hour})
	if err != nil {
		log.Fatal(err)
	}
	load := func(_ context.Context, name string, w io.Writer) error {
		fmt.Println("loading", name)
		_, err := io.WriteString(w, "a long text\n")
		return err
	}
	for range 2 {
		blob, err := files.Get(context.Background(), "terms.txt", load)
		if err != nil {
			log.Fatal(err)
		}
		_, err = io.Copy(os.Stdout, blob)
		if err = errors.Join(err, blob.Close()); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// loading terms.txt
	// a long text
	// a long text
}

func ExampleEngine_Do() {
	engine := newEngine()
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
