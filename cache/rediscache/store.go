package rediscache

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/internal/push"
	"github.com/herdless/herdless/internal/rediskey"
	"github.com/redis/go-redis/v9"
)

// Client is what a Store needs of a Redis client. Every redis.UniversalClient
// has it.
type Client interface {
	redis.Scripter
	push.Subscriber
	Pipelined(ctx context.Context, fn func(redis.Pipeliner) error) ([]redis.Cmder, error)
}

// Store is a cache.Store in Redis. Processes that use the same server and the
// same prefix share it. It is safe for concurrent use.
type Store struct {
	client Client
	prefix string
	hub    *push.Hub
}

// Options are the options of a Store.
type Options struct {
	// Prefix begins every key and channel. Two applications on one Redis need
	// two prefixes, or they share what they name alike. It must not contain
	// braces, which Redis Cluster reads as a hash tag. Default
	// "herdless:cache:".
	Prefix string
}

const defaultPrefix = "herdless:cache:"

var (
	//go:embed begin.lua
	beginSource string
	//go:embed fill.lua
	fillSource string
	//go:embed purge.lua
	purgeSource string

	beginScript = redis.NewScript(beginSource)
	fillScript  = redis.NewScript(fillSource)
	purgeScript = redis.NewScript(purgeSource)
)

// New returns a Store on client, which it neither checks nor closes. Nil
// options mean the defaults. It panics if client is nil or the prefix contains
// braces: both are mistakes in the program.
func New(client Client, o *Options) *Store {
	if o == nil {
		o = &Options{}
	}
	prefix := rediskey.Prefix("rediscache", client, o.Prefix, defaultPrefix)
	return &Store{client: client, prefix: prefix, hub: push.New(client)}
}

// names are the keys of one entry, all in the hash slot of its digest.
type names struct {
	entry, fill, channel string
}

func (s *Store) names(key string) names {
	entry := s.prefix + "{" + digest(key) + "}"
	return names{entry: entry, fill: entry + ":fill", channel: entry + ":changed"}
}

// digest names a key by 128 bits of its SHA-256, so that the names in Redis
// have one length, whatever the key.
func digest(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:16])
}

// LeaseName implements cache.Store.
func (s *Store) LeaseName(key string) string { return s.prefix + digest(key) }

// Get implements cache.Store with one round trip.
func (s *Store) Get(ctx context.Context, key string) (cache.Entry, bool, error) {
	n := s.names(key)
	var (
		left  *redis.DurationCmd
		value *redis.StringCmd
	)
	// The time left is asked for first. If another entry is stored between
	// the two, this one looks older than it is, never younger.
	_, _ = s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		left = p.PTTL(ctx, n.entry)
		value = p.Get(ctx, n.entry)
		return nil
	})
	b, err := value.Bytes()
	switch {
	case errors.Is(err, redis.Nil), isWrongType(err):
		return cache.Entry{}, false, nil
	case err != nil:
		return cache.Entry{}, false, fault(ctx, "get", err)
	}
	if err := left.Err(); err != nil {
		return cache.Entry{}, false, fault(ctx, "get", err)
	}
	entry, ok := decode(key, b, left.Val())
	return entry, ok, nil
}

// Begin implements cache.Store with one round trip.
func (s *Store) Begin(ctx context.Context, key string, token uint64, ttl time.Duration) (cache.Beginning, error) {
	n := s.names(key)
	overwrite := "0"
	for {
		reply, err := beginScript.Run(ctx, s.client, []string{n.entry, n.fill}, token, max(1, ttl.Milliseconds()), overwrite).Slice()
		if err != nil {
			return cache.Beginning{}, fault(ctx, "begin", err)
		}
		code, _ := reply[0].(int64)
		switch outcome := cache.BeginOutcome(code); {
		case outcome == cache.Filled && len(reply) == 3:
			value, _ := reply[1].(string)
			left, _ := reply[2].(int64)
			entry, ok := decode(key, []byte(value), time.Duration(left)*time.Millisecond)
			if ok {
				return cache.Beginning{Outcome: cache.Filled, Entry: entry}, nil
			}
			overwrite = "1" // these bytes are no entry: begin all the same
		case outcome == cache.Begun, outcome == cache.Overtaken:
			return cache.Beginning{Outcome: outcome}, nil
		default:
			return cache.Beginning{}, fmt.Errorf("rediscache: begin: the script answered %v", reply)
		}
	}
}

// Fill implements cache.Store with one round trip.
func (s *Store) Fill(ctx context.Context, key string, token uint64, entry cache.Entry) (bool, error) {
	n := s.names(key)
	var bytes []byte
	ttl := max(0, entry.TTL.Milliseconds())
	if ttl > 0 {
		bytes = encode(key, entry)
	}
	stored, err := fillScript.Run(ctx, s.client, []string{n.entry, n.fill}, strconv.FormatUint(token, 10), ttl, bytes, n.channel).Int()
	if err != nil {
		return false, fault(ctx, "fill", err)
	}
	return stored == 1, nil
}

// Purge implements cache.Store with one round trip.
func (s *Store) Purge(ctx context.Context, key string) error {
	n := s.names(key)
	if err := purgeScript.Run(ctx, s.client, []string{n.entry, n.fill}, n.channel).Err(); err != nil {
		return fault(ctx, "purge", err)
	}
	return nil
}

// Watch implements cache.Store.
func (s *Store) Watch(ctx context.Context, key string) (<-chan struct{}, func(), error) {
	changed, stop, err := s.hub.Watch(ctx, s.names(key).channel, "")
	if err != nil {
		return nil, nil, fault(ctx, "watch", err)
	}
	return changed, stop, nil
}

// isWrongType reports that the key holds another type than asked for.
func isWrongType(err error) bool { return redis.HasErrorPrefix(err, "WRONGTYPE") }

// fault wraps an error of the client, and adds the end of the context where the
// client has hidden it behind a network error.
func fault(ctx context.Context, doing string, err error) error {
	if ended := ctx.Err(); ended != nil && !errors.Is(err, ended) {
		err = errors.Join(err, ended)
	}
	return fmt.Errorf("rediscache: %s: %w", doing, err)
}
