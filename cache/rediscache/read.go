package rediscache

import (
	"context"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/internal/purges"
	"github.com/herdless/herdless/internal/pipelining"
	"github.com/herdless/herdless/internal/redisclock"
	"github.com/redis/go-redis/v9"
)

// Peek implements cache.Store.
func (s *Store) Peek(key string) (e cache.Entry, ok bool) {
	now := s.feed.now() // once: to ask for it is a good part of what this costs
	s.feed.touch(now)
	ok = s.tier.entries != nil && s.feed.freshAt(now) && s.tier.get(&e, key, &s.log.table, now)
	return e, ok
}

// Get implements cache.Store with one round trip at most, and some more for data
// that is longer than a chunk.
func (s *Store) Get(ctx context.Context, key string) (cache.Entry, bool, error) {
	if err := ctx.Err(); err != nil {
		return cache.Entry{}, false, fault(ctx, "get", err)
	}
	// A stale one may have been replaced since.
	if e, ok := s.Peek(key); ok && e.TTL > 0 { //nolint:contextcheck // the feed outlives the read that starts it
		return e, true, nil
	}
	f, err := s.find(ctx, key)
	if err != nil {
		return cache.Entry{}, false, fault(ctx, "get", err)
	}
	e, ok, err := s.judge(ctx, f)
	if err != nil {
		return cache.Entry{}, false, fault(ctx, "get", err)
	}
	return e, ok, nil
}

// GetMany implements cache.Store with one round trip at most, and some more for
// data that is longer than a chunk. Round trips do not grow with the keys, but on
// a Cluster each node is asked.
func (s *Store) GetMany(ctx context.Context, keys []string) ([]cache.Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, fault(ctx, "get", err)
	}
	entries := make([]cache.Entry, len(keys))
	var missing []int
	var asked []question
	for i, key := range keys {
		// A stale one may have been replaced since.
		if e, ok := s.Peek(key); ok && e.TTL > 0 { //nolint:contextcheck // the feed outlives the read that starts it
			entries[i] = e
		} else {
			missing = append(missing, i)
			asked = append(asked, question{finding: finding{key: key}})
		}
	}
	if len(missing) == 0 {
		return entries, nil
	}
	if err := s.read(ctx, asked); err != nil {
		return nil, fault(ctx, "get", err)
	}
	for i := range asked {
		e, ok, err := s.judge(ctx, asked[i].finding)
		if err != nil {
			return nil, fault(ctx, "get", err)
		}
		if ok || e.Damaged {
			entries[missing[i]] = e
		}
	}
	return entries, nil
}

// finding is what was found in Redis where the entry under key should be.
type finding struct {
	key   string
	bytes []byte // nil: nothing
	alien bool   // it has another type
	now   int64  // by the server's clock, in milliseconds, or 0 if Redis has said what is
	left  time.Duration
	mark  mark
	sent  time.Time // when it was asked for
}

// question is what Redis is asked for one key, in one piece of memory with the
// answer.
type question struct {
	finding
	args [2]any
	get  redis.StringCmd
	pttl *redis.DurationCmd // nil: it is not asked
	cmds [2]redis.Cmder
}

// commands returns those that ask, for the time left as well if the server's clock is not
// to be had. That goes first. If another entry is stored between the two, this one looks
// older than it is, never younger.
func (q *question) commands(ctx context.Context, name any, clock *redisclock.Clock) []redis.Cmder {
	q.args = [...]any{"get", name}
	q.get = *redis.NewStringCmd(ctx, q.args[:]...)
	if clock != nil {
		q.cmds[0] = &q.get
		return q.cmds[:1]
	}
	q.pttl = redis.NewDurationCmd(ctx, time.Millisecond, "pttl", name)
	q.cmds = [...]redis.Cmder{q.pttl, &q.get}
	return q.cmds[:]
}

// take takes the answer, at the server's time now if that is known.
func (q *question) take(now time.Time) error {
	b, err := q.get.Bytes()
	switch {
	case err == nil:
	case isNil(err):
		return nil
	case isWrongType(err):
		q.alien = true
		return nil
	default:
		return err
	}
	q.bytes = b
	if q.pttl == nil {
		q.now = now.UnixMilli()
		return nil
	}
	q.left, err = q.pttl.Result()
	return err
}

// untilEnd returns how long after now, by the server's clock, an entry ends that Redis has:
// 0 if it is over, and only its TTL was taken away. That clock may be ahead.
func untilEnd(ends float64, now int64) time.Duration {
	left := ends - float64(now)
	switch {
	case left > 0 && left < 1<<53: // no script writes another one, nor NaN
		return milliseconds(uint64(left))
	case left <= 0 && left >= -float64(redisclock.Ahead.Milliseconds()):
		return time.Millisecond
	}
	return 0
}

// noEnd is the time left of a key without a TTL.
const noEnd = -1

// pttl returns a script's answer to PTTL as go-redis would.
func pttl(ms int64) time.Duration {
	if ms < 0 {
		return time.Duration(ms)
	}
	return time.Duration(ms) * time.Millisecond
}

// find asks for one key. Afterwards the purge log is up to date.
func (s *Store) find(ctx context.Context, key string) (finding, error) {
	sent := time.Now()
	now, known := s.clock.At(sent)
	if !s.feed.fresh() || s.clock != nil && !known {
		asked := []question{{finding: finding{key: key}}}
		err := s.read(ctx, asked)
		return asked[0].finding, err
	}
	q := &question{finding: finding{key: key, sent: sent}}
	if s.tier.entries != nil {
		q.mark = s.tier.mark(key)
	}
	if err := s.pipe.Process(ctx, q.commands(ctx, s.argument(key), s.clock)...); pipelining.Left(err) {
		return finding{}, err
	}
	err := q.take(now.Add(time.Since(sent))) // the answer may have taken long
	return q.finding, err
}

// read asks all questions. Afterwards the purge log is up to date.
func (s *Store) read(ctx context.Context, asked []question) error {
	var steps []step
	if !s.feed.fresh() {
		steps = []step{s.log.sync()}
	}
	for i := range asked {
		asked[i].mark = s.tier.mark(asked[i].key)
	}
	sent := time.Now()
	var scripts []*redis.Cmd
	var all []redis.Cmder
	for _, st := range steps {
		cmd := pipelining.EvalSHA(ctx, st.script, st.keys, st.args)
		scripts, all = append(scripts, cmd), append(all, cmd)
	}
	for i := range asked {
		asked[i].sent = sent
		all = append(all, asked[i].commands(ctx, s.argument(asked[i].key), s.clock)...)
	}
	now, known := s.clock.At(sent)
	var server *redis.TimeCmd
	if s.clock != nil && !known {
		server = redis.NewTimeCmd(ctx, "time")
		all = append(all, server)
	}
	if err := s.pipe.Process(ctx, all...); pipelining.Left(err) {
		return err
	}
	if len(steps) > 0 {
		answers, err := s.answers(ctx, steps, scripts)
		if err != nil {
			return err
		}
		if _, err := s.caughtUp(ctx, answers[0]); err != nil {
			return err
		}
	}
	switch {
	case known:
		now = now.Add(time.Since(sent)) // the answer may have taken long
	case server != nil:
		var err error
		if now, err = server.Result(); err != nil {
			return err
		}
		s.clock.Set(now, sent)
	}
	for i := range asked {
		if err := asked[i].take(now); err != nil {
			return err
		}
	}
	return nil
}

// judge returns the entry that was found, if it is one and no purge has reached
// it, with its data. If it is damaged, or nothing of ours, Damaged says so.
func (s *Store) judge(ctx context.Context, f finding) (cache.Entry, bool, error) {
	if f.bytes == nil {
		return cache.Entry{Damaged: f.alien}, false, nil
	}
	e, ok := decode(f.key, f.bytes)
	if f.now > 0 {
		f.left = untilEnd(e.ends, f.now)
	}
	switch {
	case !ok, f.left == noEnd: // then it is not ours
		return cache.Entry{Damaged: true}, false, nil
	case f.left <= 0: // it is over, or came after its time left was asked for
		return cache.Entry{}, false, nil
	}
	verdict := purges.Valid
	if !s.log.table.NoneSince(e.epoch) {
		verdict = s.log.table.Verdict(f.key, e.hashes(), e.epoch)
	}
	if verdict == purges.Gone {
		return cache.Entry{}, false, nil
	}
	data := e.inline
	if e.chunks > 0 {
		var err error
		if data, err = s.loadChunks(ctx, f.key, e.dataID, e.chunks, int64(e.size)); err != nil && !isIncomplete(err) {
			return cache.Entry{}, false, err
		}
	}
	if !e.unpack(data) {
		return cache.Entry{Damaged: true}, false, nil
	}
	e.since(f.left, isSoft(e.Version))
	// The table's purges are looked at anew at each read of the tier.
	s.tier.put(f.key, &e, f.sent, f.mark)
	if verdict == purges.Stale && e.TTL > 0 {
		e.StaleFor += e.TTL
		e.TTL = 0
	}
	return e.Entry, true, nil
}
