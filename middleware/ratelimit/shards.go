package ratelimit

import (
	"hash/maphash"
	"sync"

	"github.com/herdless/herdless/internal/ttlmap"
)

const shardCount = 32

// shards is a map in parts, each with a lock of its own, so that decisions about
// different keys seldom wait for each other.
type shards[K comparable, V any] struct {
	seed  maphash.Seed
	parts [shardCount]shard[K, V]
}

// shard is a part of shards. entries is guarded by mu.
type shard[K comparable, V any] struct {
	mu      sync.Mutex
	entries *ttlmap.Map[K, V]
	_       [40]byte // a cache line for each
}

func newShards[K comparable, V any]() *shards[K, V] {
	s := &shards[K, V]{seed: maphash.MakeSeed()}
	for i := range s.parts {
		s.parts[i].entries = ttlmap.New[K, V]()
	}
	return s
}

// of returns the part in which everything of a limiter's key is.
func (s *shards[K, V]) of(key string) *shard[K, V] {
	return &s.parts[maphash.String(s.seed, key)%shardCount]
}
