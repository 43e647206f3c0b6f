// Package redisstore keeps the sessions of package session in Redis, 6.2 or
// later, standalone, behind Sentinel or as a Cluster.
//
// Each session is one hash, <prefix>{<id>}, with a TTL that never exceeds what
// is left of the session. It holds a keyed digest of the client's secret and
// never the secret, and one field for each value, so that a change moves that
// value alone. A Load is one round trip; so is a Commit, which is one script, and
// a Delete.
//
// All times are the server's; the clocks of the programs do not matter. Redis
// replicates asynchronously: a failover may lose the last moments of changes,
// and with them a logout that was confirmed just before.
package redisstore

import (
	"context"
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/herdless/herdless/internal/rediskey"
	"github.com/herdless/herdless/session"
	"github.com/redis/go-redis/v9"
)

const defaultPrefix = "herdless:session:"

var (
	//go:embed load.lua
	loadSource string
	loadScript = redis.NewScript(loadSource)

	//go:embed commit.lua
	commitSource string
	commitScript = redis.NewScript(commitSource)
)

// Client is what a Store asks of Redis. Every redis.UniversalClient has it.
type Client interface {
	redis.Scripter
	Pipelined(ctx context.Context, fn func(redis.Pipeliner) error) ([]redis.Cmder, error)
	Del(ctx context.Context, keys ...string) *redis.IntCmd
}

// Options are the optional settings of a Store.
type Options struct {
	// Prefix begins every key. It must not contain braces. Default
	// "herdless:session:".
	Prefix string
}

// Store is a session.Store on Redis. It is safe for concurrent use. Make one
// with New.
type Store struct {
	client Client
	prefix string
}

var _ session.Store = (*Store)(nil)

// New returns a Store that uses client, which stays the caller's to close. A
// nil o means the defaults. It panics if client is nil or the prefix contains
// braces: both are mistakes in the program.
func New(client Client, o *Options) *Store {
	if o == nil {
		o = &Options{}
	}
	return &Store{client: client, prefix: rediskey.Prefix("redisstore", client, o.Prefix, defaultPrefix)}
}

// key puts the id into a hash tag, so that further keys of the session would
// share its slot.
func (s *Store) key(id string) string { return s.prefix + "{" + id + "}" }

// Load implements session.Store. Whatever stands at the key and is not a
// session, is none.
func (s *Store) Load(ctx context.Context, id string, digest session.Digest) (session.Record, error) {
	key := s.key(id)
	var hash *redis.MapStringStringCmd
	var left *redis.DurationCmd
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		hash = p.HGetAll(ctx, key)
		left = p.PTTL(ctx, key)
		return nil
	})
	switch {
	case redis.HasErrorPrefix(hash.Err(), "WRONGTYPE"):
		return session.Record{}, nil
	case err != nil:
		return session.Record{}, fault("load", err)
	}

	fields := hash.Val()
	switch string(digest[:]) {
	case fields[fieldDigest]:
		return parseRecord(fields, left.Val(), session.Current), nil
	case fields[fieldSuperseded]:
		return s.loadSuperseded(ctx, key, digest)
	}
	return session.Record{}, nil
}

// loadSuperseded lets the server say how an old digest stands now.
func (s *Store) loadSuperseded(ctx context.Context, key string, digest session.Digest) (session.Record, error) {
	reply, err := loadScript.Run(ctx, s.client, []string{key}, digest[:]).Slice()
	if err != nil {
		return session.Record{}, fault("load", err)
	}
	if len(reply) != 3 {
		return session.Record{}, fault("load", fmt.Errorf("unexpected reply of %d elements", len(reply)))
	}
	number, _ := reply[0].(int64)
	left, _ := reply[1].(int64)
	flat, _ := reply[2].([]any)
	switch state := session.State(number); state {
	case session.Current, session.Superseded:
		fields := make(map[string]string, len(flat)/2)
		for i := 0; i+1 < len(flat); i += 2 {
			name, _ := flat[i].(string)
			fields[name], _ = flat[i+1].(string)
		}
		return parseRecord(fields, time.Duration(left)*time.Millisecond, state), nil
	case session.Reused:
		return session.Record{State: state}, nil
	}
	return session.Record{}, nil
}

// The outcomes in the order in which commit.lua numbers them.
var outcomes = []session.Outcome{1: session.Committed, 2: session.Gone, 3: session.Exists, 4: session.TooLarge}

// Commit implements session.Store.
func (s *Store) Commit(ctx context.Context, d session.Delta) (session.Result, error) {
	reply, err := commitScript.Run(ctx, s.client, []string{s.key(d.ID)}, commitArgs(d)...).Int64Slice()
	if err != nil {
		return session.Result{}, fault("commit", err)
	}
	if len(reply) == 0 || reply[0] < 1 || int(reply[0]) >= len(outcomes) {
		return session.Result{}, fault("commit", fmt.Errorf("unexpected reply %v", reply))
	}
	res := session.Result{Outcome: outcomes[reply[0]]}
	if res.Outcome == session.Committed && len(reply) == 4 {
		res.Version = uint64(reply[1])
		res.ExpiresIn = time.Duration(reply[2]) * time.Millisecond
		res.EndsIn = time.Duration(reply[3]) * time.Millisecond
	}
	return res, nil
}

// commitArgs spells d as commit.lua reads it.
func commitArgs(d session.Delta) []any {
	args := []any{d.Digest[:]}
	if d.Create {
		args = append(args, "C")
	}
	for _, name := range slices.Sorted(maps.Keys(d.Set)) {
		args = append(args, "S", name, d.Set[name])
	}
	for _, name := range d.Delete {
		args = append(args, "D", name)
	}
	if d.User != nil {
		args = append(args, "U", *d.User)
	}
	if d.Rotate != nil {
		args = append(args, "R", d.Rotate.Digest[:], d.Rotate.Grace.Milliseconds())
	}
	if d.IdleTimeout > 0 {
		args = append(args, "I", millis(d.IdleTimeout))
	}
	if d.AbsoluteTimeout > 0 {
		args = append(args, "A", millis(d.AbsoluteTimeout))
	}
	if d.MaxBytes > 0 {
		args = append(args, "M", d.MaxBytes)
	}
	return args
}

// Delete implements session.Store.
func (s *Store) Delete(ctx context.Context, id string) (bool, error) {
	n, err := s.client.Del(ctx, s.key(id)).Result()
	if err != nil {
		return false, fault("delete", err)
	}
	return n > 0, nil
}

// millis rounds d down to what Redis counts in, but not to nothing.
func millis(d time.Duration) string {
	return strconv.FormatInt(max(d.Milliseconds(), 1), 10)
}

func fault(step string, err error) error {
	return fmt.Errorf("redisstore: %s: %w", step, err)
}
