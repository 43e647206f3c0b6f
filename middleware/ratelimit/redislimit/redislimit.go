// Package redislimit keeps the rate limits of package ratelimit in Redis, so
// that they are exact across all processes that use the same Redis.
//
// One decision is one script, one round trip, for however many limits. Only the
// clock of the Redis server counts, so those of the processes may differ.
//
// # Keys
//
// A limit with the key K is kept at "<Prefix>{K}", a string of some 30 bytes
// that expires when the limit is full again. The braces make K the hash tag of
// a Redis Cluster: keys spread over its nodes, but a request with several
// checks needs all of its keys on one node, and there it fails unless the
// Prefix holds a hash tag of its own, which wins: with "{limits}:" all limits
// of the store are on one node of the cluster.
//
// # What can go wrong
//
// A decision whose answer is lost may have been charged, and go-redis asks
// again: a failing connection can cost a client units, but gives it none. A
// replica that takes over may not have the last charges, and a Redis that evicts
// keys (any maxmemory-policy but noeviction) forgets limits: each time that gives
// a client at most one more burst. If a key holds something else, the decision
// is an error and the key stays as it is.
//
// Give the client ContextTimeoutEnabled, as redisconn.Open does. Without it a
// decision ends in time as well, but each one that Redis does not answer keeps a
// connection and a goroutine until the client's ReadTimeout.
package redislimit

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/herdless/herdless/middleware/ratelimit"
	"github.com/herdless/herdless/middleware/ratelimit/internal/gcra"
)

//go:embed take.lua
var takeSource string

//go:embed reset.lua
var resetSource string

var (
	takeScript  = redis.NewScript(takeSource)
	resetScript = redis.NewScript(resetSource)
)

// Options are the optional settings of a Store. Nil and the zero value are the
// defaults.
type Options struct {
	// Prefix begins every key in Redis. The default is "herdless:ratelimit:".
	Prefix string
}

const defaultPrefix = "herdless:ratelimit:"

// Store is a ratelimit.Store in Redis. It is safe for concurrent use.
type Store struct {
	client redis.Scripter
	prefix string
}

var _ ratelimit.Store = (*Store)(nil)

// New returns a Store on client, which may be any client of go-redis, or what
// redisconn.Open returns. o may be nil. It panics if client is nil, which is a
// mistake in the program.
func New(client redis.Scripter, o *Options) *Store {
	if client == nil {
		panic("redislimit: New needs a client, such as that of redis.NewUniversalClient or redisconn.Open")
	}
	if o == nil {
		o = &Options{}
	}
	s := &Store{client: client, prefix: o.Prefix}
	if s.prefix == "" {
		s.prefix = defaultPrefix
	}
	return s
}

// Take implements ratelimit.Store.
func (s *Store) Take(ctx context.Context, req ratelimit.Request) (ratelimit.Decision, error) {
	if err := req.Validate(); err != nil {
		return ratelimit.Decision{}, err
	}
	rules := make([]gcra.Rule, len(req.Checks))
	keys := make([]string, len(req.Checks))
	args := make([]any, 0, 5*len(req.Checks))
	for i, c := range req.Checks {
		rule, err := gcra.NewRule(c.Limit.Rate, c.Limit.Period, c.Limit.Burst)
		if err != nil {
			return ratelimit.Decision{}, err // cannot be: the request is valid
		}
		cost := rule.Cost(req.N)
		rules[i], keys[i] = rule, s.key(c.Key)
		args = append(args, cost.Micros, cost.Num, rule.Capacity.Micros, rule.Capacity.Num, rule.Den)
	}

	reply, err := run(ctx, s.client, takeScript, keys, args...)
	if err != nil {
		return ratelimit.Decision{}, explain(err, keys)
	}
	if len(reply) != 1+2*len(rules) {
		return ratelimit.Decision{}, fmt.Errorf("redislimit: Redis answered with %d numbers, not with %d", len(reply), 1+2*len(rules))
	}
	d := ratelimit.Decision{Allowed: reply[0] == 1, States: make([]ratelimit.CheckState, len(rules))}
	for i, rule := range rules {
		debt := gcra.Span{Micros: reply[1+2*i], Num: reply[2+2*i]}
		d.States[i] = ratelimit.CheckState{
			Remaining:  rule.Remaining(debt),
			RetryAfter: rule.Wait(debt, req.N),
			ResetAfter: gcra.Ceil(debt),
		}
	}
	return d, nil
}

// Reset implements ratelimit.Store.
func (s *Store) Reset(ctx context.Context, key string) error {
	keys := []string{s.key(key)}
	if _, err := run(ctx, s.client, resetScript, keys); err != nil {
		return explain(err, keys)
	}
	return nil
}

// run runs the script and returns once ctx is done, also with a client that
// does not look at contexts while it waits for Redis, which is the default of
// go-redis. What such a client still does then ends with its own timeouts.
func run(ctx context.Context, client redis.Scripter, script *redis.Script, keys []string, args ...any) ([]int64, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	done := make(chan *redis.Cmd, 1) // room for an answer that nobody waits for
	go func() { done <- script.Run(ctx, client, keys, args...) }()
	select {
	case cmd := <-done:
		return cmd.Int64Slice()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *Store) key(key string) string { return s.prefix + "{" + key + "}" }

// explain says what can be done about the errors of Redis that have a remedy.
func explain(err error, keys []string) error {
	switch {
	case redis.HasErrorPrefix(err, "CROSSSLOT"):
		return fmt.Errorf("redislimit: the checks of one request have keys in different slots of the cluster %q: "+
			"set Options.Prefix to one with a hash tag, such as \"{limits}:\", or make a request for each: %w", keys, err)
	case redis.HasErrorPrefix(err, "WRONGTYPE"), redis.HasErrorPrefix(err, "HERDLESSVALUE"):
		return fmt.Errorf("redislimit: one of the keys %q holds something that is not a rate limit, which is left alone: "+
			"give the store an Options.Prefix of its own: %w", keys, err)
	default:
		return fmt.Errorf("redislimit: %w", err)
	}
}
