// Package redislimit keeps the rate limits of package ratelimit in Redis, so
// that they are exact across all processes that use the same Redis.
//
// One decision is one script, one round trip, for however many limits. Only the
// clock of the Redis server counts, so those of the processes may differ.
//
// # Keys
//
// The limit called N of the key K is kept at "<Prefix>{K}N", a string of some 30
// bytes that expires when the limit is full again; a sliding window at
// "<Prefix>{K}N:w", and the permits of a concurrency limit at "<Prefix>{K}N:p". On a
// Cluster "<Prefix>{K}:back:…" remembers for half a minute what was given back. The
// braces make K the hash tag of a Redis Cluster: all limits of one key are in one
// slot, and keys spread over the nodes.
//
// # Several keys at once on a Cluster
//
// A request that has limits for several keys, such as those of a user and one for
// everybody together, is one script as well, as long as Redis is no Cluster. On
// a Cluster the keys are in different slots, and no script can see both. There the
// store asks for the units of one key after the other, in the order of the
// checks, and when one denies it gives back what it has taken for those before.
// So nothing is admitted over a limit, and a request that is denied has consumed
// nothing in the end. But it takes a round trip for each key; what is taken and given
// back may have denied somebody else in between, whose process goes by that answer for up
// to Options.LocalDenial of package ratelimit; and if the process dies in
// between, or the server of the first key cannot be reached any more, the units
// stay taken until they come back at the limit's rate. Put the most specific key
// first: then a user over his own limit does not touch what is everybody's.
//
// The servers of a redis.Ring are asked in the same way.
//
// Where that will not do, give Options.Prefix a hash tag of its own, which wins:
// with "{limits}:" every limit of the store is in one slot, and a request
// with any keys is one script again, on one node of the cluster.
//
// # What can go wrong
//
// A decision whose answer is lost may have been charged, and go-redis asks
// again: a failing connection can cost a client units, but gives it none. A
// replica that takes over may not have the last charges, and a Redis that evicts
// keys (any maxmemory-policy but noeviction) forgets limits: each time that gives
// a client at most one more burst, and a concurrency limit as many more holders
// as it has forgotten. If a key holds something else, the decision is an error that
// matches ratelimit.ErrForeign, and the key stays as it is.
//
// Give the client ContextTimeoutEnabled, as redisconn.Open does. Without it a
// decision ends in time as well, but each one that Redis does not answer keeps a
// connection and a goroutine until the client's ReadTimeout. And give that of a Cluster a
// ClusterStateReloadInterval of a second: with go-redis's default, a minute, the limits on a
// master that has died hold no earlier again, as its replica is not asked.
package redislimit

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"github.com/herdless/herdless/internal/pipelining"
	"github.com/herdless/herdless/internal/rediskey"
	"github.com/herdless/herdless/middleware/ratelimit"
)

//go:embed reset.lua
var resetSource string

var resetScript = redis.NewScript(resetSource)

// Options are the optional settings of a Store. Nil and the zero value are the
// defaults.
type Options struct {
	// Prefix begins every key in Redis. Two applications on one Redis need two
	// prefixes, or they count together. The default is "herdless:ratelimit:". One
	// with a hash tag, such as "{limits}:", puts all keys into one slot of a Cluster.
	// Its first braces must not be empty.
	Prefix string
	// NoPipelining sends each command by itself. By default the commands of more
	// than four callers at a time go together, in a pipeline, which costs a busy
	// Redis and the process a fraction; a hook or a trace of go-redis sees the
	// pipeline. It needs a *redis.Client or a *redis.ClusterClient that does not
	// read from replicas. Where the server says in INFO that it is one by itself,
	// decisions about one limit each, in one pipeline, are one script for up to 16: a
	// proxy that says so, and spreads keys over several servers, needs NoPipelining.
	NoPipelining bool
}

const defaultPrefix = "herdless:ratelimit:"

// Store is a ratelimit.Store and a ratelimit.PermitStore in Redis. It is safe for
// concurrent use.
type Store struct {
	runner *pipelining.Client
	prefix string
	// split says that keys of different tags are in different slots.
	split atomic.Bool
}

var (
	_ ratelimit.Store       = (*Store)(nil)
	_ ratelimit.PermitStore = (*Store)(nil)
)

// New returns a Store on client, which may be any client of go-redis, or what
// redisconn.Open returns. o may be nil. It panics if client is nil or the first braces
// of the prefix are empty, which are mistakes in the program.
func New(client redis.Scripter, o *Options) *Store {
	rediskey.MustBe("redislimit", client)
	if o == nil {
		o = &Options{}
	}
	s := &Store{runner: pipelining.New(client, o.NoPipelining), prefix: o.Prefix}
	if s.prefix == "" {
		s.prefix = defaultPrefix
	}
	if _, rest, _ := strings.Cut(s.prefix, "{"); strings.HasPrefix(rest, "}") {
		// Nor would it look for that of the key, whose limits must be in one slot.
		panic(fmt.Sprintf("redislimit: Options.Prefix is %q: Redis takes {} for no hash tag; "+
			"put something between the braces, or leave them out", s.prefix))
	}
	// A Cluster says when keys are apart. A Ring asks the server of the first key.
	if _, ring := client.(*redis.Ring); ring && !hasTag(s.prefix) {
		s.split.Store(true)
	}
	return s
}

// hasTag reports whether prefix has a hash tag, which is that of every key then.
func hasTag(prefix string) bool {
	_, rest, _ := strings.Cut(prefix, "{")
	return strings.IndexByte(rest, '}') > 0
}

// Reset implements ratelimit.Store.
func (s *Store) Reset(ctx context.Context, key string, names ...string) error {
	if len(names) == 0 {
		return ctx.Err()
	}
	keys := make([]string, 0, 2*len(names))
	for _, name := range names {
		keys = append(keys, s.key(key, name), s.key(key, name)+slidingSuffix)
	}
	if _, err := s.run(ctx, resetScript, keys); err != nil {
		return explain(err, keys)
	}
	return nil
}

// The suffixes of the keys of what is not GCRA, and giftSuffix in place of a name. No name
// of a limit holds a colon.
const (
	giftSuffix    = ":back:"
	slidingSuffix = ":w"
	permitSuffix  = ":p"
)

// key returns where the limit called name of key is kept. Different pairs have
// different places, because a name holds no brace.
func (s *Store) key(key, name string) string {
	// Redis takes empty braces for no tag at all, and the limits of the key would
	// be in different slots.
	if key == "" || key[0] == '}' || key[0] == '\\' {
		key = `\` + key
	}
	var b strings.Builder
	b.Grow(len(s.prefix) + len(key) + len(name) + len(slidingSuffix) + 2)
	b.WriteString(s.prefix)
	b.WriteByte('{')
	b.WriteString(key)
	b.WriteByte('}')
	b.WriteString(name)
	return b.String()
}

// run runs a script whose result is whole numbers.
func (s *Store) run(ctx context.Context, script *redis.Script, keys []string, args ...any) ([]int64, error) {
	value, err := s.runner.Run(ctx, script, keys, args...)
	if err != nil {
		return nil, err
	}
	return numbers(value, nil)
}

// numbers appends the numbers that value is a list of.
func numbers(value any, to []int64) ([]int64, error) {
	list, ok := value.([]any)
	if !ok {
		return nil, fmt.Errorf("redislimit: Redis answered with a %T, not with numbers", value)
	}
	to = slices.Grow(to, len(list))
	for _, v := range list {
		n, ok := v.(int64)
		if !ok {
			return nil, fmt.Errorf("redislimit: Redis answered with a %T among numbers", v)
		}
		to = append(to, n)
	}
	return to, nil
}

// explain says what can be done about the errors of Redis that have a remedy.
func explain(err error, keys []string) error {
	if redis.HasErrorPrefix(err, "WRONGTYPE") || redis.HasErrorPrefix(err, "HERDLESSVALUE") {
		// Of a copy: the keys of most decisions need no memory of their own so.
		return fmt.Errorf("redislimit: %w: one of %q, which is left alone; give the store an Options.Prefix of its own: %w",
			ratelimit.ErrForeign, append([]string(nil), keys...), err)
	}
	return fmt.Errorf("redislimit: %w", err)
}
