// Package redistraffic keeps the figures of package traffic in Redis, 6.2 or later,
// standalone, behind Sentinel or as a Cluster.
//
// All keys of a site are in one slot, so that a node's batch is one pipeline to one
// server, and a report few round trips. Every key has a TTL. docs/redis.md has all of
// them, and what they take.
//
// A batch is some scripts, each of which remembers in the same step that it has run:
// a batch that is sent again, by this package, by the client or because a network
// delivers late, counts once. A failover may lose the last moments: figures that were
// confirmed and are lost with it do not come back.
package redistraffic

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/herdless/herdless/internal/rediskey"
	"github.com/herdless/herdless/middleware/traffic"
	"github.com/redis/go-redis/v9"
)

const (
	defaultPrefix = "herdless:traffic:"
	defaultSite   = "site"
)

// Client is what a Store asks of Redis. Every redis.UniversalClient has it.
type Client interface {
	redis.Scripter
	Pipeline() redis.Pipeliner
}

// Options are the optional settings of a Store. Nil and the zero value are the
// defaults.
type Options struct {
	// Prefix begins every key. Two applications on one Redis need two prefixes,
	// or two Sites. It must not contain braces. Default "herdless:traffic:".
	Prefix string
	// Site keeps the figures of several sites in one Redis apart. It is the hash
	// tag of all keys, and must not contain braces. Default "site".
	Site string
}

// Store is a traffic.Store on Redis. It is safe for concurrent use. Make one with
// New.
type Store struct {
	client Client
	prefix string // with the hash tag
}

var _ traffic.Store = (*Store)(nil)

// New returns a Store that uses client, which stays the caller's to close. A nil o
// means the defaults. It panics if client is nil, or prefix or site contain braces:
// these are mistakes in the program.
func New(client Client, o *Options) *Store {
	if o == nil {
		o = &Options{}
	}
	prefix := rediskey.Prefix("redistraffic", client, o.Prefix, defaultPrefix)
	site := o.Site
	if site == "" {
		site = defaultSite
	}
	if strings.ContainsAny(site, "{}") {
		panic(fmt.Sprintf("redistraffic: Options.Site is %q, it must not contain braces", site))
	}
	return &Store{client: client, prefix: prefix + "{" + site + "}:"}
}

func (s *Store) key(what string, b traffic.Bucket) string {
	return s.prefix + what + ":" + bucketName(b)
}

func (s *Store) boardKey(board string, b traffic.Bucket) string {
	return s.key("board", b) + ":" + board
}

func (s *Store) rowsKey(b traffic.Bucket) string {
	return s.prefix + "rows:" + bucketName(b.In(traffic.UnitDay))
}

func bucketName(b traffic.Bucket) string {
	if b.Unit == traffic.UnitAll {
		return "all"
	}
	return "mhd"[b.Unit:b.Unit+1] + strconv.FormatInt(b.N, 10)
}

// Salt implements traffic.Store.
func (s *Store) Salt(ctx context.Context, day int64) ([]byte, time.Time, error) {
	b := traffic.Bucket{Unit: traffic.UnitDay, N: day}
	salt := make([]byte, 32)
	_, _ = rand.Read(salt) // never fails
	end := b.Start().Add(traffic.UnitDay.Duration()).Unix()
	reply, err := saltScript.Run(ctx, s.client, []string{s.key("salt", b)}, salt, end).Slice()
	if err != nil {
		return nil, time.Time{}, fault(ctx, "salt", err)
	}
	if len(reply) != 3 {
		return nil, time.Time{}, fault(ctx, "salt", fmt.Errorf("unexpected reply %v", reply))
	}
	text, _ := reply[0].(string)
	now, err := serverTime(reply[1:])
	if err != nil || text == "" {
		return nil, time.Time{}, fault(ctx, "salt", fmt.Errorf("unexpected reply %v", reply))
	}
	return []byte(text), now, nil
}

// serverTime reads seconds and microseconds.
func serverTime(reply []any) (time.Time, error) {
	var part [2]int64
	if len(reply) < 2 {
		return time.Time{}, errors.New("the reply has no time")
	}
	for i := range part {
		switch v := reply[i].(type) {
		case int64:
			part[i] = v
		case string:
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				return time.Time{}, fmt.Errorf("the reply has no time: %w", err)
			}
			part[i] = n
		}
	}
	return time.Unix(part[0], part[1]*1000), nil
}

// Counters implements traffic.Store.
func (s *Store) Counters(ctx context.Context, buckets []traffic.Bucket) ([][]traffic.Row, error) {
	if err := ctx.Err(); err != nil {
		return nil, fault(ctx, "counters", err)
	}
	if len(buckets) == 0 {
		return nil, nil
	}
	places := map[string]int{}
	var keys []string
	place := func(key string) int {
		i, ok := places[key]
		if !ok {
			i = len(keys)
			places[key] = i
			keys = append(keys, key)
		}
		return i
	}
	type source struct{ rows, counters int }
	sources := make([]source, len(buckets))
	for i, b := range buckets {
		sources[i] = source{place(s.rowsKey(b)), place(s.key("counters", b))}
	}
	pipe := s.client.Pipeline() // a Client has no commands of its own but scripts, so that it stays small
	mget := pipe.MGet(ctx, keys...)
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fault(ctx, "counters", err)
	}
	values := mget.Val()
	if len(values) != len(keys) {
		return nil, fault(ctx, "counters", fmt.Errorf("%d values for %d keys", len(values), len(keys)))
	}
	out := make([][]traffic.Row, len(buckets))
	for i, src := range sources {
		names, _ := values[src.rows].(string)
		counters, _ := values[src.counters].(string)
		out[i] = decodeRows(names, counters)
	}
	return out, nil
}

// Visitors implements traffic.Store.
func (s *Store) Visitors(ctx context.Context, groups [][]traffic.Bucket) ([]uint64, error) {
	if err := ctx.Err(); err != nil {
		return nil, fault(ctx, "visitors", err)
	}
	out := make([]uint64, len(groups))
	cmds := make([]*redis.IntCmd, len(groups))
	pipe := s.client.Pipeline()
	for i, group := range groups {
		if len(group) == 0 {
			continue
		}
		keys := make([]string, len(group))
		for j, b := range group {
			keys[j] = s.key("visitors", b)
		}
		cmds[i] = pipe.PFCount(ctx, keys...)
	}
	if pipe.Len() == 0 {
		return out, nil
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fault(ctx, "visitors", err)
	}
	for i, cmd := range cmds {
		if cmd != nil {
			out[i] = uint64(max(cmd.Val(), 0))
		}
	}
	return out, nil
}

// Top implements traffic.Store.
func (s *Store) Top(ctx context.Context, boards []string, b traffic.Bucket, n int) ([][]traffic.Entry, error) {
	out := make([][]traffic.Entry, len(boards))
	if err := ctx.Err(); err != nil {
		return nil, fault(ctx, "top", err)
	}
	if n <= 0 || len(boards) == 0 {
		return out, nil
	}
	pipe := s.client.Pipeline()
	cmds := make([]*redis.ZSliceCmd, len(boards))
	for i, board := range boards {
		cmds[i] = pipe.ZRevRangeWithScores(ctx, s.boardKey(board, b), 0, int64(n)-1)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fault(ctx, "top", err)
	}
	for i, cmd := range cmds {
		for place, z := range cmd.Val() {
			member, _ := z.Member.(string)
			out[i] = append(out[i], traffic.Entry{Rank: place + 1, Member: member, Score: int64(math.Floor(z.Score))})
		}
	}
	return out, nil
}

// Around implements traffic.Store.
func (s *Store) Around(ctx context.Context, board string, b traffic.Bucket, member string, n int) ([]traffic.Entry, error) {
	reply, err := aroundScript.Run(ctx, s.client, []string{s.boardKey(board, b)}, member, max(n, 0)).Slice()
	if err != nil {
		return nil, fault(ctx, "around", err)
	}
	if len(reply) == 0 {
		return nil, nil
	}
	first, _ := reply[0].(int64)
	var out []traffic.Entry
	for i := 1; i+1 < len(reply); i += 2 {
		name, _ := reply[i].(string)
		text, _ := reply[i+1].(string)
		score, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fault(ctx, "around", fmt.Errorf("unexpected score: %w", err))
		}
		out = append(out, traffic.Entry{Rank: int(first) + 1 + i/2, Member: name, Score: int64(math.Floor(score))})
	}
	return out, nil
}

// fault wraps an error, which then matches that of ctx if ctx has ended.
func fault(ctx context.Context, step string, err error) error {
	if e := ctx.Err(); e != nil && !errors.Is(err, e) {
		err = errors.Join(e, err)
	}
	return fmt.Errorf("redistraffic: %s: %w", step, err)
}
