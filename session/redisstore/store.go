// Package redisstore keeps the sessions of package session in Redis, 6.2 or
// later, standalone, behind Sentinel or as a Cluster.
//
// Each session is one string, <prefix>{<place>}<id>, with a TTL that never exceeds
// what is left of the session. It holds a keyed digest of the client's secret and
// never the secret, and the values, which a script replaces in it one by one, so that
// a change sends that value alone. The sessions of one user are in one slot, with the
// index of them, so that every step is one script on one server, and one round trip.
//
// All times are the server's; the clocks of the programs do not matter. Redis
// replicates asynchronously: a failover may lose the last moments of changes,
// and with them a logout that was confirmed just before, unless Options.Wait is
// set. Sessions are read from the primary, also with a client that would read
// from replicas: those may still have what was ended.
package redisstore

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/herdless/herdless/internal/pipelining"
	"github.com/herdless/herdless/internal/push"
	"github.com/herdless/herdless/internal/redisclock"
	"github.com/herdless/herdless/internal/rediskey"
	"github.com/herdless/herdless/session"
	"github.com/redis/go-redis/v9"
)

const defaultPrefix = "herdless:session:"

var (
	//go:embed session.lua
	layout string

	//go:embed load.lua
	loadSource string
	loadScript = redis.NewScript(layout + loadSource)

	//go:embed commit.lua
	commitSource string
	commitScript = redis.NewScript(layout + commitSource)

	//go:embed write.lua
	writeSource string
	writeScript = redis.NewScript(layout + writeSource)

	//go:embed take.lua
	takeSource string
	takeScript = redis.NewScript(layout + takeSource)

	//go:embed delete.lua
	deleteSource string
	deleteScript = redis.NewScript(layout + deleteSource)

	//go:embed alive.lua
	aliveSource string
	aliveScript = redis.NewScript(layout + aliveSource)

	//go:embed owned.lua
	ownedSource string
	ownedScript = redis.NewScript(layout + ownedSource)
)

// Client is what a Store asks of Redis. Every redis.UniversalClient has it;
// New panics with a redis.Ring.
type Client interface {
	redis.Scripter
	push.Subscriber
	Pipelined(ctx context.Context, fn func(redis.Pipeliner) error) ([]redis.Cmder, error)
}

// Options are the optional settings of a Store.
type Options struct {
	// Prefix begins every key and channel. Two applications on one Redis need
	// two prefixes, or a login in one can be a login in the other. It must not
	// contain braces. Default "herdless:session:".
	Prefix string
	// Wait makes logouts and revocations wait until they are on replicas, so
	// that a failover to one of those does not undo them. A login waits as well for the
	// end of the session before it, and goes on if too few replicas confirm that.
	Wait Wait
	// NoPipelining sends each command by itself. By default the commands of more
	// than four callers at a time go together, in a pipeline, which costs a busy
	// Redis and the process a fraction; a hook or a trace of go-redis sees the
	// pipeline. What is bigger than 16 KiB goes by itself in any case. It needs a
	// *redis.Client or a *redis.ClusterClient that does not
	// read from replicas.
	NoPipelining bool
}

// Wait says how many replicas have to confirm. It needs a *redis.Client or a
// *redis.ClusterClient; New panics with another one.
type Wait struct {
	// Replicas is how many have to; zero means that nobody waits.
	Replicas int
	// Timeout is for how long they are waited for; then the step has happened
	// on the primary, and is an error all the same. Zero means half a second.
	// It should be less than session.Options.StoreTimeout.
	Timeout time.Duration
}

const defaultWait = 500 * time.Millisecond

// Store is a session.Store on Redis. It is safe for concurrent use. Make one
// with New.
type Store struct {
	client Client
	pipe   *pipelining.Client // for what requests wait for
	prefix string
	wait   Wait
	clock  *redisclock.Clock // nil: there are several
	hub    *push.Hub
	// byScript says that plain reads might be answered by a replica.
	byScript bool
}

var _ session.Store = (*Store)(nil)

// New returns a Store that uses client, which stays the caller's to close. A
// nil o means the defaults. It panics if client is nil or the options cannot be:
// both are mistakes in the program.
func New(client Client, o *Options) *Store {
	rediskey.MustListen("redisstore", client)
	if o == nil {
		o = &Options{}
	}
	s := &Store{
		client: client, pipe: pipelining.New(client, o.NoPipelining), wait: o.Wait,
		prefix: rediskey.Prefix("redisstore", client, o.Prefix, defaultPrefix),
		clock:  redisclock.Of(client),
		hub:    push.New(client),
	}
	if c, ok := client.(*redis.ClusterClient); ok {
		opts := c.Options()
		s.byScript = opts.ReadOnly || opts.RouteByLatency || opts.RouteRandomly
	}
	if s.wait.Replicas < 0 || s.wait.Timeout < 0 {
		panic(fmt.Sprintf("redisstore: Options.Wait is %+v, it must not be negative", s.wait))
	}
	if s.wait.Replicas > 0 {
		s.wait.Timeout = cmp.Or(s.wait.Timeout, defaultWait)
		switch client.(type) {
		case *redis.Client, *redis.ClusterClient:
		default:
			panic("redisstore: Options.Wait needs a *redis.Client or a *redis.ClusterClient")
		}
	}
	return s
}

// key puts the place into a hash tag, so that all sessions of a user share a
// slot, with the index of them.
func (s *Store) key(id string) string {
	var room [64]byte
	return string(s.appendKey(room[:0], id))
}

func (s *Store) appendKey(b []byte, id string) []byte {
	place := min(placeLen, len(id))
	b = append(append(b, s.prefix...), '{')
	b = append(append(b, id[:place]...), '}')
	return append(b, id[place:]...)
}

func (s *Store) indexKey(owner string) string {
	place := min(placeLen, len(owner))
	return s.prefix + "{" + owner[:place] + "}user:" + owner[place:]
}

// placeLen is how many characters the place of an id has, see session.Store.
const placeLen = 4

// channel is where it is told which sessions were ended.
func (s *Store) channel() string { return s.prefix + "ended" }

// question asks for a session, and for the time if that is not known, in one piece of
// memory.
type question struct {
	id   string
	key  pipelining.Key
	room [64]byte // for the key, unless the prefix is a long one
	args [4]any
	get  redis.StringCmd
	cmds [2]redis.Cmder
	few  [10]session.Entry // for the values of most sessions
}

// partLen is how many bytes of the end of a session Load reads: all of most, and of a
// longer one the values that were written last.
const partLen = 4096

// partFrom is where that begins, as an argument.
var partFrom any = strconv.Itoa(-partLen)

// Load implements session.Store. It leaves out what lies before the last 4 KiB of a
// session. Whatever stands at the key and is not a session, is none.
func (s *Store) Load(ctx context.Context, id string, digest session.Digest) (session.Record, error) {
	return s.load(ctx, id, digest, false, false)
}

// LoadAll implements session.Store.
func (s *Store) LoadAll(ctx context.Context, id string, digest session.Digest, again bool) (session.Record, error) {
	return s.load(ctx, id, digest, true, again)
}

func (s *Store) load(ctx context.Context, id string, digest session.Digest, all, again bool) (session.Record, error) {
	if s.byScript {
		return s.loadByScript(ctx, loadScript, s.key(id), string(digest[:]), again)
	}
	q := &question{id: id}
	q.key = s.appendKey(q.room[:0], id)
	q.args = [...]any{"getrange", &q.key, partFrom, "-1"}
	args := q.args[:]
	if all {
		q.args[0], args = "get", args[:2]
	}
	q.get = *redis.NewStringCmd(ctx, args...)
	q.cmds[0] = &q.get
	asked := q.cmds[:1]
	sent := time.Now()
	now, known := s.clock.At(sent)
	var server *redis.TimeCmd
	var left *redis.DurationCmd
	switch {
	case s.clock == nil:
		left = redis.NewDurationCmd(ctx, time.Millisecond, "pttl", &q.key)
		asked = append(asked, left)
	case !known:
		server = redis.NewTimeCmd(ctx, "time")
		asked = append(asked, server)
	}
	err := s.pipe.Process(ctx, asked...)
	switch {
	case err == nil:
	case pipelining.Left(err):
		return session.Record{}, fault("load", err)
	case errors.Is(q.get.Err(), redis.Nil), redis.HasErrorPrefix(q.get.Err(), "WRONGTYPE"):
		return session.Record{}, nil
	default:
		return session.Record{}, fault("load", err)
	}
	found, ok := parse(q.few[:0], q.get.Val(), all)
	switch {
	case ok:
	case !all && len(q.get.Val()) == partLen: // there may be more of the head
		return s.load(ctx, id, digest, true, again)
	default:
		return session.Record{}, nil
	}
	switch {
	case known:
		now = now.Add(time.Since(sent)) // the answer may have taken long
	case server != nil:
		now = server.Val()
		s.clock.Set(now, sent)
	case left != nil && left.Val() >= 0 && left.Val() <= millis(found.number[expires]-found.number[seen]):
		// The key ends at expires by the server's clock, and has so much left.
		now = time.UnixMilli(found.number[expires]).Add(-left.Val())
	case left != nil: // it was not by us that it has so much, or no end
		return s.loadByScript(ctx, loadScript, string(q.key), string(digest[:]), again)
	}
	switch string(digest[:]) {
	case found.digest:
		if found.number[taken] > 0 || found.number[expires] < now.UnixMilli() {
			break // for the server to say
		}
		rec := found.record(now.UnixMilli(), session.Current)
		rec.Basis = q
		return rec, nil
	case found.superseded:
		// The server has to say how an old digest stands now.
	default:
		if !found.isEarlier(digest) {
			return session.Record{}, nil
		}
	}
	return s.loadByScript(ctx, loadScript, string(q.key), string(digest[:]), again)
}

// loadByScript runs load.lua or take.lua.
func (s *Store) loadByScript(ctx context.Context, script *redis.Script, key string, args ...any) (session.Record, error) {
	answer, err := s.pipe.Run(ctx, script, []string{key}, args...)
	if err != nil {
		return session.Record{}, fault("load", err)
	}
	reply, _ := answer.([]any)
	if len(reply) != 3 {
		return session.Record{}, fault("load", fmt.Errorf("unexpected reply of %d elements", len(reply)))
	}
	number, _ := reply[0].(int64)
	raw, _ := reply[1].(string)
	now, _ := reply[2].(int64)
	switch state := session.State(number); state {
	case session.Current, session.Superseded:
		found, ok := parse(nil, raw, true)
		if !ok {
			return session.Record{}, nil
		}
		return found.record(now, state), nil
	case session.Reused:
		return session.Record{State: state}, nil
	}
	return session.Record{}, nil
}

// Take implements session.Store.
func (s *Store) Take(ctx context.Context, id string, digest session.Digest, taker string, hold time.Duration) (session.Record, error) {
	ms := "0"
	if hold > 0 {
		ms = spell(hold)
	}
	return s.loadByScript(ctx, takeScript, s.key(id), string(digest[:]), ms, taker)
}

// Delete implements session.Store.
func (s *Store) Delete(ctx context.Context, id string) (bool, error) {
	n, err := s.end(ctx, deleteScript, s.key(id)).Int()
	if err != nil {
		return false, fault("delete", err)
	}
	return n > 0, nil
}

// Revoke implements session.Store.
func (s *Store) Revoke(ctx context.Context, owner string, which session.Selection) (ids []string, ok bool, err error) {
	ids, err = s.end(ctx, ownedScript, s.indexKey(owner), "R", which.Only, which.Except).StringSlice()
	switch {
	case errors.Is(err, redis.Nil):
		return nil, false, nil
	case err != nil:
		return nil, false, fault("revoke", err)
	}
	return ids, true, nil
}

// List implements session.Store.
func (s *Store) List(ctx context.Context, owner string) ([]session.Listed, error) {
	reply, err := ownedScript.Run(ctx, s.client, []string{s.indexKey(owner)}, "L").Slice()
	if err != nil {
		return nil, fault("list", err)
	}
	var listed []session.Listed
	for _, row := range reply {
		l, ok := parseListed(row)
		if !ok {
			return nil, fault("list", fmt.Errorf("unexpected reply %v", row))
		}
		listed = append(listed, l)
	}
	return listed, nil
}

func parseListed(row any) (l session.Listed, ok bool) {
	fields, _ := row.([]any)
	if len(fields) != 6 {
		return l, false
	}
	number := func(i int) int64 {
		n, _ := fields[i].(int64)
		return n
	}
	id, _ := fields[0].(string)
	meta, _ := fields[5].(string)
	l = session.Listed{
		ID: id, Meta: []byte(meta), ExpiresIn: millis(number(1)),
		CreatedAt: time.UnixMilli(number(2)), SeenAt: time.UnixMilli(number(4)),
	}
	if at := number(3); at > 0 {
		l.AuthenticatedAt = time.UnixMilli(at)
	}
	return l, true
}

// Alive implements session.Store. Most sessions are not withdrawn, and cost one
// command.
func (s *Store) Alive(ctx context.Context, ids []string) ([]bool, error) {
	alive := make([]bool, len(ids))
	unsure := ids // whose state the server has to tell, by its clock
	if !s.byScript {
		unsure = nil
		ends := make([]*redis.StringCmd, len(ids))
		_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, id := range ids {
				ends[i] = p.GetRange(ctx, s.key(id), -endLen, -1)
			}
			return nil
		})
		for i, id := range ids {
			if redis.HasErrorPrefix(ends[i].Err(), "WRONGTYPE") {
				continue // it is no session
			}
			if ends[i].Err() != nil {
				return nil, fault("look", cmp.Or(err, ends[i].Err()))
			}
			is, sure := isAlive(ends[i].Val())
			if alive[i] = is; !sure {
				unsure = append(unsure, id)
			}
		}
	}
	if len(unsure) == 0 {
		return alive, nil
	}
	answers := make(map[string]*redis.Cmd, len(unsure))
	_, _ = s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, id := range unsure {
			answers[id] = aliveScript.EvalSha(ctx, p, []string{s.key(id)})
		}
		return nil
	})
	for i, id := range ids {
		answer, asked := answers[id]
		if !asked {
			continue
		}
		if redis.HasErrorPrefix(answer.Err(), "NOSCRIPT") {
			answer = aliveScript.Run(ctx, s.client, []string{s.key(id)})
		}
		n, err := answer.Int()
		if err != nil {
			return nil, fault("look", err)
		}
		alive[i] = n == 1
	}
	return alive, nil
}

// Watch implements session.Store.
func (s *Store) Watch(ctx context.Context, id string, woken chan struct{}) (func(), error) {
	stop, err := s.hub.WatchWith(ctx, s.channel(), id, woken)
	if err != nil {
		return nil, fault("watch", err)
	}
	return stop, nil
}

// spell rounds d down to what Redis counts in, but not to nothing.
func spell(d time.Duration) string {
	return strconv.FormatInt(max(d.Milliseconds(), 1), 10)
}

func fault(step string, err error) error {
	var answer redis.Error
	// Before Redis 7, the errors of a script have a text of its own in front.
	if errors.As(err, &answer) && (strings.Contains(err.Error(), "OOM command") || strings.Contains(err.Error(), "WRONGTYPE")) {
		err = fmt.Errorf("%w: %w", session.ErrRefused, err)
	}
	return fmt.Errorf("redisstore: %s: %w", step, err)
}
