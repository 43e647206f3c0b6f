package rediscache

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/internal/purges"
	"github.com/herdless/herdless/internal/pipelining"
	"github.com/herdless/herdless/internal/push"
	"github.com/herdless/herdless/internal/redisclock"
	"github.com/herdless/herdless/internal/rediskey"
	"github.com/redis/go-redis/v9"
)

// Client is what a Store needs of a Redis client. Every redis.UniversalClient
// has it; New panics with a redis.Ring.
type Client interface {
	redis.Scripter
	push.Subscriber
	Pipelined(ctx context.Context, fn func(redis.Pipeliner) error) ([]redis.Cmder, error)
}

// Store is a cache.BodyStore in Redis. Processes that use the same server and the
// same prefix share it. It is safe for concurrent use.
//
// From the first read on a Store listens to what others purge and write, in two
// goroutines and two more of the client. They end when nothing has been read for
// half a minute, or when the client is closed.
type Store struct {
	client        Client
	pipe          *pipelining.Client // for what requests wait for
	ordered       bool               // the commands of a pipeline run in their order
	prefix        string
	compressAbove int
	chunkBytes    int
	hub           *push.Hub
	clock         *redisclock.Clock // nil: there are several
	log           *purgeLog
	tier          *tier
	known         *knownNames
	feed          *feed
	standing      *standing
	reading       *turns // of those who read chunks
}

var (
	_ cache.BodyStore = (*Store)(nil)
	_ cache.Listener  = (*Store)(nil)
)

// New returns a Store on client, which it neither checks nor closes. A go-redis
// client is to have ContextTimeoutEnabled, as redisconn.Open sets it: without it a
// Redis that hangs holds callers for the client's ReadTimeout. Nil options mean the
// defaults. It panics if client is nil, if it reads from replicas
// of a Cluster, which lag behind purges, or if the options are invalid: all are
// mistakes in the program.
func New(client Client, o *Options) *Store {
	rediskey.MustListen("rediscache", client)
	if o == nil {
		o = &Options{}
	}
	prefix := rediskey.Prefix("rediscache", client, o.Prefix, defaultPrefix)
	if c, ok := client.(*redis.ClusterClient); ok && c.Options().ReadOnly {
		panic("rediscache: the client reads from replicas, which lag behind purges; leave ReadOnly, RouteByLatency and RouteRandomly off")
	}
	opts := o.withDefaults()
	_, ordered := client.(*redis.Client)
	s := &Store{
		client: client, pipe: pipelining.New(client, o.NoPipelining), ordered: ordered, prefix: prefix,
		compressAbove: opts.CompressAbove, chunkBytes: opts.ChunkBytes,
		hub: push.New(client), clock: redisclock.Of(client),
		log: newPurgeLog(prefix, rediskey.Database(client), opts.Retention), standing: newStanding(),
		reading: newTurns(), known: newKnownNames(),
	}
	s.feed = &feed{
		client: client, log: s.log, standing: s.standing, sync: s.sync,
		bound: opts.Staleness, linger: defaultLinger, base: time.Now().Add(-1),
	}
	s.tier = newTier(s, opts.TierBytes)
	s.feed.tier = s.tier
	return s
}

// names are the keys of one entry, all in the hash slot of its digest.
type names struct {
	entry, fill, write, channel string
}

func (s *Store) names(key string) names {
	entry := s.entryName(key)
	return names{entry: entry, fill: entry + ":fill", write: entry + ":write", channel: entry + ":changed"}
}

func (s *Store) entryName(key string) string {
	var buf [128]byte
	b := append(append(buf[:0], s.prefix...), '{')
	return string(append(appendDigest(b, key), '}'))
}

// digest names a key by 128 bits of its SHA-256, so that the names in Redis
// have one length, whatever the key.
func digest(key string) string {
	var buf [32]byte
	return string(appendDigest(buf[:0], key))
}

func appendDigest(b []byte, key string) []byte {
	var buf [256]byte
	sum := sha256.Sum256(append(buf[:0], key...))
	return hex.AppendEncode(b, sum[:16])
}

// LeaseName implements cache.Store.
func (s *Store) LeaseName(key string) string { return s.prefix + digest(key) }

// sync brings the purge log up to date and returns the epoch.
func (s *Store) sync(ctx context.Context) (uint64, error) {
	answers, err := s.together(ctx, s.log.sync())
	if err != nil {
		return 0, err
	}
	return s.caughtUp(ctx, answers[0])
}

// withSync returns the step that ends a fill or a write, and, while messages
// cannot be relied on, one that reads the purge log. Without it
//
//	A begins, on a connection on which no message comes
//	                 somebody purges a tag
//	A fills; the entry has that tag, and A does not know of the purge
//
// and what A has computed would be shared with those who asked long after it.
func (s *Store) withSync(last step) []step {
	if s.feed.fresh() {
		return []step{last}
	}
	return []step{last, s.log.sync()}
}

// synced takes the answer to the step that withSync has added, if it has.
func (s *Store) synced(ctx context.Context, answers []any) error {
	if len(answers) == 0 {
		return nil
	}
	_, err := s.caughtUp(ctx, answers[0])
	return err
}

// Begin implements cache.Store with one round trip, and another one for each
// entry it finds that is not fresh.
func (s *Store) Begin(ctx context.Context, key string, fill cache.Filling) (b cache.Beginning, err error) {
	if s.standing.begin(key, fill.TTL) { // first: what is told meanwhile counts
		defer func() {
			if b.Outcome != cache.Begun {
				s.standing.end(key)
			}
		}()
	}
	n := s.names(key)
	may, seen := "0", []byte(nil)
	if fill.Seen != 0 {
		may, seen = "1", seenBytes(fill.Seen)
	}
	for {
		m, sent := s.tier.mark(key), time.Now()
		answers, err := s.together(ctx, s.log.sync(), step{
			beginScript,
			[]string{n.entry, n.fill},
			[]any{fill.Token, max(1, fill.TTL.Milliseconds()), may, seen},
		})
		if err != nil {
			return cache.Beginning{}, fault(ctx, "begin", err)
		}
		epoch, err := s.caughtUp(ctx, answers[0])
		if err != nil {
			return cache.Beginning{}, fault(ctx, "begin", err)
		}
		reply, _ := answers[1].([]any)
		if len(reply) == 0 {
			return cache.Beginning{}, fmt.Errorf("rediscache: begin: the script answered %v", answers[1])
		}
		switch code, _ := reply[0].(int64); {
		case code == 1:
			return cache.Beginning{Outcome: cache.Begun, Ticket: cache.Ticket{Token: fill.Token, Epoch: epoch}}, nil
		case code == 3:
			return cache.Beginning{Outcome: cache.Overtaken}, nil
		case code == 2 && len(reply) == 3:
			value, _ := reply[1].(string)
			left, _ := reply[2].(int64)
			f := finding{key: key, bytes: []byte(value), left: pttl(left), mark: m, sent: sent}
			entry, ok, err := s.judge(ctx, f)
			if err != nil {
				return cache.Beginning{}, fault(ctx, "begin", err)
			}
			if ok && entry.TTL > 0 {
				return cache.Beginning{Outcome: cache.Filled, Entry: entry}, nil
			}
			may, seen = "1", versionBytes(f.bytes)
		default:
			return cache.Beginning{}, fmt.Errorf("rediscache: begin: the script answered %v", reply)
		}
	}
}

// Fill implements cache.Store with one round trip, and some more for data that is
// longer than a chunk.
func (s *Store) Fill(ctx context.Context, key string, t cache.Ticket, entry cache.Entry) (bool, error) {
	defer s.standing.end(key)
	n, m, sent := s.names(key), s.tier.mark(key), time.Now()
	e, bytes, err := s.prepare(ctx, key, t, entry)
	if err != nil {
		return false, fault(ctx, "fill", err)
	}
	answers, err := s.together(ctx, s.withSync(step{
		fillScript,
		[]string{n.entry, n.fill, n.write},
		[]any{strconv.FormatUint(t.Token, 10), e.total.Milliseconds(), bytes, n.channel, whileWritten.Milliseconds()},
	})...)
	if err == nil {
		err = s.synced(ctx, answers[1:])
	}
	if err != nil {
		return false, fault(ctx, "fill", err)
	}
	code, _ := answers[0].(int64)
	if code == 2 {
		e.limit()
		e.Version = withState(e.Version, stateLimited)
	}
	kept := code > 0 && s.keep(key, e, sent, m)
	return kept && s.log.table.Verdict(key, e.tags, e.epoch) == purges.Valid, nil
}

// BeginWrite implements cache.Store with one round trip.
func (s *Store) BeginWrite(ctx context.Context, key string, ttl time.Duration) (cache.Ticket, error) {
	s.standing.end(key)
	n := s.names(key)
	answers, err := s.together(ctx, s.log.sync(), step{
		beginWriteScript,
		[]string{n.fill, n.write},
		[]any{max(1, ttl.Milliseconds()), rand.Text()},
	})
	if err != nil {
		return cache.Ticket{}, fault(ctx, "begin write", err)
	}
	epoch, err := s.caughtUp(ctx, answers[0])
	if err != nil {
		return cache.Ticket{}, fault(ctx, "begin write", err)
	}
	v, err := number(answers[1])
	if err != nil {
		return cache.Ticket{}, fault(ctx, "begin write", err)
	}
	return cache.Ticket{Token: v, Epoch: epoch}, nil
}

// Write implements cache.Store with one round trip, or two on a Cluster, and some
// more for data that is longer than a chunk.
func (s *Store) Write(ctx context.Context, key string, t cache.Ticket, entry cache.Entry) (bool, error) {
	s.standing.end(key)
	n, sent := s.names(key), time.Now()
	m := s.tier.mark(key)
	e, bytes, err := s.prepare(ctx, key, t, entry)
	if err != nil {
		return false, fault(ctx, "write", err)
	}
	what := news{keys: []string{key}}
	// The entry first: whoever asks when he is told must find the new one.
	answers, err := s.inOrder(ctx, s.withSync(step{
		writeScript,
		[]string{n.entry, n.fill, n.write},
		[]any{strconv.FormatUint(t.Token, 10), e.total.Milliseconds(), bytes, n.channel},
	}), s.log.append(what))
	if err == nil {
		err = s.synced(ctx, answers[1:len(answers)-1])
	}
	if err != nil {
		s.tier.drop(key) // it may have been done
		return false, fault(ctx, "write", err)
	}
	if what, err = what.answered(answers[len(answers)-1]); err != nil {
		s.tier.drop(key)
		return false, fault(ctx, "write", err)
	}
	s.feed.take(what, true)
	m.count++ // that was this write's own
	code, _ := answers[0].(int64)
	return code > 0 && s.keep(key, e, sent, m), nil
}

// prepare returns entry as it is to be stored under key, and its bytes. Its data
// is in Redis then, if it is longer than a chunk. What is not to be stored has no
// bytes.
func (s *Store) prepare(ctx context.Context, key string, t cache.Ticket, entry cache.Entry) (stored, []byte, error) {
	if len(entry.Tags) > maxTags {
		return stored{}, nil, fmt.Errorf("the entry has %d tags, it must not have more than %d", len(entry.Tags), maxTags)
	}
	if entry.TTL <= 0 {
		return stored{}, []byte{}, nil
	}
	if s.log.table.Verdict(key, purges.Hashes(entry.Tags), t.Epoch) == purges.Gone {
		return stored{}, []byte{}, nil
	}
	e, chunked, err := s.newStored(t, entry)
	if err != nil {
		return stored{}, nil, err
	}
	if len(chunked) > 0 {
		w := s.newChunkWriter(ctx, key, e.dataID, e.total)
		_, _ = w.Write(chunked) // flush fails, too
		if err := w.flush(); err != nil {
			go w.Abort() //nolint:contextcheck // it has its own, as ctx may be over, and the caller's budget with it
			return stored{}, nil, err
		}
	}
	bytes := e.encode(key)
	e.Version = versionOf(bytes)
	return e, bytes, nil
}

// keep puts an entry that was stored into the tier. It reports whether the entry
// counts: not if a purge that this process knows has reached it meanwhile.
func (s *Store) keep(key string, e stored, sent time.Time, m mark) bool {
	if s.log.table.Verdict(key, e.tags, e.epoch) == purges.Gone {
		return false
	}
	e.StaleFor, e.Age = e.total-e.TTL, 0
	s.tier.replace(key, &e, sent, m)
	return true
}

// Purge implements cache.Store with one round trip, or two on a Cluster. The
// number of commands is that of the keys and one.
func (s *Store) Purge(ctx context.Context, p cache.Purge) error {
	what := news{records: recordsOf(p), keys: p.Keys}
	if len(what.records)+len(what.keys) == 0 {
		return nil
	}
	soft := "0"
	if p.Soft {
		soft = "1"
	}
	steps := make([]step, len(p.Keys))
	for i, key := range p.Keys {
		n := s.names(key)
		steps[i] = step{purgeScript, []string{n.entry, n.fill, n.write}, []any{soft, n.channel}}
	}
	// The entries first: whoever asks when he is told must not find them.
	answers, err := s.inOrder(ctx, steps, s.log.append(what))
	if err == nil {
		what, err = what.answered(answers[len(answers)-1])
	}
	if err != nil {
		for _, key := range p.Keys { // it may have been done
			s.standing.end(key)
			s.tier.drop(key)
		}
		return fault(ctx, "purge", err)
	}
	s.feed.take(what, true)
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

// isNil reports that there is nothing under the key.
func isNil(err error) bool { return errors.Is(err, redis.Nil) }
