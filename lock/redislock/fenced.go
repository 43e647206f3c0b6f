package redislock

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/herdless/herdless/lock/fence"
	"github.com/redis/go-redis/v9"
)

//go:embed fenced.lua
var fencedSource string

// fencedSet keeps the value beside the fence, so that there is one key, of which
// any name does on a Cluster.
var fencedSet = NewFencedScript(`
redis.call('HSET', KEYS[1], 'value', ARGV[3])
return 1`)

// FencedSet writes value at key, unless a larger token has written there. Then
// the error matches [fence.ErrStale], and nothing is changed. The same token may
// write many times; its writes are in the order in which they reach Redis.
//
// The token is that of a lease of package lock; the zero token is refused with
// [fence.ErrMissing]. The value can be what go-redis takes for an argument: text,
// bytes, a number, an encoding.BinaryMarshaler. The key is the caller's: any name,
// no prefix is added. It becomes a hash with the fields "fence" and "value", so it
// is read by [FencedGet]. A key with anything else in it is left alone, and an
// error returned.
//
// The ttl is for how long value and token are kept from this write on, rounded up
// to a millisecond. When they end, the token is forgotten, and a late writer is
// let in: ttl must be longer than any pause or delay that is to be survived, and
// deleting the key forgets as well. Zero means THAT THE KEY HAS NO TTL and stays
// until it is deleted, as it does for go-redis's Set; for data that is not a cache
// this is the only safe choice, and the memory is the caller's to bound. A negative
// ttl is an error.
//
// It is one script and one round trip. After any other error the write may or may
// not have happened. It obeys the deadline of ctx if the client does
// (ContextTimeoutEnabled).
//
// A holder who reads, computes and writes should raise the fence before he reads,
// with a [FencedScript]; package fence says why. Redis itself can lose a write, and
// the token with it, in a failover.
func FencedSet(ctx context.Context, client redis.Scripter, key string, value any, token uint64, ttl time.Duration) error {
	if err := fencedSet.Run(ctx, client, key, token, ttl, nil, value).Err(); err != nil {
		return fmt.Errorf("redislock: fenced set of %.64q: %w", key, err)
	}
	return nil
}

// FencedGet returns what [FencedSet] has written at key, and the largest token
// there. If there is nothing, the error matches redis.Nil (by errors.Is), with the
// token 0, or with that of a [FencedScript] that ran on the key without a FencedSet.
// A key with anything else in it is another error.
//
// It is one HMGET, and reads from a replica where the client does.
func FencedGet(ctx context.Context, client redis.HashCmdable, key string) (value string, token uint64, err error) {
	fields, err := client.HMGet(ctx, key, "fence", "value").Result()
	if err == nil {
		value, token, err = fenced(fields)
	}
	if err != nil {
		return "", token, fmt.Errorf("redislock: fenced get of %.64q: %w", key, err)
	}
	return value, token, nil
}

func fenced(fields []any) (value string, token uint64, err error) {
	if len(fields) != 2 {
		return "", 0, fmt.Errorf("HMGET of 2 fields answered %d", len(fields))
	}
	text, hasFence := fields[0].(string)
	value, hasValue := fields[1].(string)
	if !hasFence && !hasValue {
		return "", 0, redis.Nil
	}
	token, err = strconv.ParseUint(text, 10, 64)
	switch {
	case err != nil || token == 0:
		return "", 0, errors.New("the hash has no fencing token, so somebody else has written it")
	case !hasValue:
		return "", token, redis.Nil
	}
	return value, token, nil
}

// FencedScript is a Lua script that a holder with a stale token cannot run. It is
// for writes of other shapes than [FencedSet]'s: a counter, a list, a step over
// several keys, or the read with which a new holder begins. It is safe for
// concurrent use.
type FencedScript struct {
	script *redis.Script
}

// NewFencedScript returns a script that compares the token and then runs body.
// In body,
//
//   - KEYS[1] is the key of the fence: a hash, in which body may use any field but
//     "fence"; KEYS[2] and on are the other keys;
//   - ARGV[1] is the token and ARGV[2] the TTL in milliseconds; ARGV[3] and on are
//     the arguments.
//
// The body "return 1" raises the fence and does nothing else; without a return,
// the result is redis.Nil. If body fails, the fence stays raised, as part of what
// body does may have been done. Body cannot begin with a shebang line.
//
// With this one a holder begins who reads before he writes. A predecessor that is
// late cannot come between the two:
//
//	var begin = redislock.NewFencedScript(`return redis.call('HGET', KEYS[1], 'value')`)
func NewFencedScript(body string) *FencedScript {
	return &FencedScript{redis.NewScript(fencedSource + body)}
}

// Run runs the script with the fence at key. The token, ttl and key mean what they
// do for [FencedSet], and ttl is that of key alone. The keys and args are what body
// finds from KEYS[2] and ARGV[3] on. On a Cluster, keys must have the hash tag of
// key. The client must not be a pipeline, which answers later.
//
// The result is that of body, and its errors are as go-redis returns them, redis.Nil
// among them. If the token is stale, the error matches [fence.ErrStale], and body
// has not run. Body may run twice, as any script may, if the client sends it again
// because the answer was lost.
func (s *FencedScript) Run(ctx context.Context, client redis.Scripter, key string, token uint64, ttl time.Duration, keys []string, args ...any) *redis.Cmd {
	if err := usable(client, token, ttl); err != nil {
		cmd := redis.NewCmd(ctx)
		cmd.SetErr(err)
		return cmd
	}
	argv := append([]any{strconv.FormatUint(token, 10), milliseconds(ttl)}, args...)
	cmd := s.script.Run(ctx, client, append([]string{key}, keys...), argv...)
	if largest, ok := strings.CutPrefix(errorText(cmd.Err()), "STALETOKEN "); ok {
		seen, _ := strconv.ParseUint(largest, 10, 64) // the script has looked at it
		cmd.SetErr(&fence.StaleError{Token: token, Largest: seen})
	}
	return cmd
}

// usable returns what is wrong with the arguments of Run.
func usable(client redis.Scripter, token uint64, ttl time.Duration) error {
	if _, is := client.(redis.Pipeliner); is {
		return errors.New("redislock: a pipeline cannot run a fenced script: it answers later")
	}
	switch {
	case token == 0:
		return fence.ErrMissing
	case ttl < 0:
		return fmt.Errorf("redislock: the TTL is %v, it must not be negative", ttl)
	}
	return nil
}

// errorText returns what Redis said, or nothing if err is not an answer of Redis.
func errorText(err error) string {
	if answer := redis.Error(nil); errors.As(err, &answer) {
		return answer.Error()
	}
	return ""
}
