// Package redisidempotency remembers the requests of package idempotency in
// Redis, 6.2 or later, standalone, behind Sentinel or as a Cluster.
//
// Each request is one hash, <Prefix>{<key>}, with a TTL. Every step is one script
// and one round trip, on the server's clock. Nothing of the caller or his key
// stands in Redis but a digest; the response does, as the handler wrote it, without
// its cookies. A Redis that evicts keys (any maxmemory-policy but noeviction)
// forgets requests, and runs them again.
package redisidempotency

import (
	"context"
	_ "embed"
	"fmt"
	"strconv"
	"time"

	"github.com/herdless/herdless/internal/push"
	"github.com/herdless/herdless/internal/rediskey"
	"github.com/herdless/herdless/middleware/idempotency"
	"github.com/redis/go-redis/v9"
)

const defaultPrefix = "herdless:idempotency:"

var (
	//go:embed begin.lua
	beginSource string
	beginScript = redis.NewScript(beginSource)

	//go:embed end.lua
	endSource string
	endScript = redis.NewScript(endSource)
)

// Client is what a Store asks of Redis. Every redis.UniversalClient has it;
// New panics with a redis.Ring.
type Client interface {
	redis.Scripter
	push.Subscriber
}

// Options are the optional settings of a Store.
type Options struct {
	// Prefix begins every key and channel. Two applications on one Redis need
	// two prefixes, or one can take a request for that of the other. It must not
	// contain braces. Default "herdless:idempotency:".
	Prefix string
}

// Store is an idempotency.Store on Redis. It is safe for concurrent use. Make one
// with New.
type Store struct {
	client Client
	prefix string
	hub    *push.Hub
}

var _ idempotency.Store = (*Store)(nil)

// New returns a Store that uses client, which stays the caller's to close. A
// nil o means the defaults. It panics if client is nil or the prefix contains
// braces: both are mistakes in the program.
func New(client Client, o *Options) *Store {
	rediskey.MustListen("redisidempotency", client)
	if o == nil {
		o = &Options{}
	}
	return &Store{
		client: client, hub: push.New(client),
		prefix: rediskey.Prefix("redisidempotency", client, o.Prefix, defaultPrefix),
	}
}

func (s *Store) key(key string) string     { return s.prefix + "{" + key + "}" }
func (s *Store) channel(key string) string { return s.key(key) + ":ended" }

// Begin implements idempotency.Store.
func (s *Store) Begin(ctx context.Context, key string, b idempotency.Begin) (idempotency.State, error) {
	reply, err := beginScript.Run(ctx, s.client, []string{s.key(key)}, b.Owner, b.Fingerprint[:], millis(b.Lease), millis(b.TTL)).Slice()
	if err != nil {
		return idempotency.State{}, fault("begin", err)
	}
	if len(reply) != 3 {
		return idempotency.State{}, fault("begin", fmt.Errorf("unexpected reply of %d elements", len(reply)))
	}
	phase, _ := reply[0].(int64)
	number, _ := reply[1].(int64)
	text, _ := reply[2].(string)
	switch state := (idempotency.State{Phase: idempotency.Phase(phase)}); state.Phase {
	case idempotency.Started:
		state.Attempt = int(number)
		return state, nil
	case idempotency.Running:
		state.Remaining = time.Duration(number) * time.Millisecond
		return state, nil
	case idempotency.Finished:
		state.Response = []byte(text)
		return state, nil
	case idempotency.Mismatched:
		return state, nil
	}
	return idempotency.State{}, fault("begin", fmt.Errorf("unexpected reply %v", reply))
}

// Extend implements idempotency.Store.
func (s *Store) Extend(ctx context.Context, key, owner string, lease time.Duration) (bool, error) {
	return s.end(ctx, "extend", key, owner, "E", millis(lease), "")
}

// Finish implements idempotency.Store.
func (s *Store) Finish(ctx context.Context, key, owner string, response []byte, ttl time.Duration) (bool, error) {
	return s.end(ctx, "finish", key, owner, "F", millis(ttl), response)
}

// Abandon implements idempotency.Store.
func (s *Store) Abandon(ctx context.Context, key, owner string) error {
	_, err := s.end(ctx, "abandon", key, owner, "A", "0", "")
	return err
}

func (s *Store) end(ctx context.Context, step, key, owner, op, ms string, response any) (bool, error) {
	n, err := endScript.Run(ctx, s.client, []string{s.key(key)}, owner, op, ms, response, s.channel(key)).Int()
	if err != nil {
		return false, fault(step, err)
	}
	return n == 1, nil
}

// Watch implements idempotency.Store.
func (s *Store) Watch(ctx context.Context, key string) (<-chan struct{}, func(), error) {
	woken, stop, err := s.hub.Watch(ctx, s.channel(key), "")
	if err != nil {
		return nil, nil, fault("watch", err)
	}
	return woken, stop, nil
}

// millis rounds d down to what Redis counts in, but not to nothing.
func millis(d time.Duration) string {
	return strconv.FormatInt(max(d.Milliseconds(), 1), 10)
}

func fault(step string, err error) error {
	return fmt.Errorf("redisidempotency: %s: %w", step, err)
}
