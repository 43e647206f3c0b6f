package redisstore

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/herdless/herdless/internal/pipelining"
	"github.com/herdless/herdless/session"
	"github.com/redis/go-redis/v9"
)

// Commit implements session.Store.
func (s *Store) Commit(ctx context.Context, d session.Delta) (session.Result, error) {
	reply := otherwise
	var err error
	if c := newWrite(&d); c != nil {
		reply, err = s.run(ctx, &writing, c)
	}
	if err == nil && reply == otherwise {
		reply, err = s.run(ctx, &committing, newCommit(s.key(d.ID), &d))
	}
	if err != nil {
		return session.Result{}, fault("commit", err)
	}
	res, ok := parseResult(reply)
	if !ok {
		return session.Result{}, fault("commit", fmt.Errorf("unexpected reply %q", reply))
	}
	return res, nil
}

// otherwise is the reply of write.lua to what it leaves to commit.lua.
const otherwise = "\x00"

// command is one that runs a script, in one piece of memory if it has few arguments.
type command struct {
	args []any // the first two are yet to be set
	cmd  redis.StringCmd
	cmds [1]redis.Cmder
	few  [12]any

	first, value pipelining.Blob // of newWrite
	room         [128]byte       // for first
}

// script is a script as arguments of a command, which would need memory in each of them
// otherwise.
type script struct{ source, hash any }

var (
	committing = script{layout + commitSource, commitScript.Hash()}
	writing    = script{layout + writeSource, writeScript.Hash()}
)

// run runs a script, which is sent if the server does not know it.
func (s *Store) run(ctx context.Context, by *script, c *command) (string, error) {
	c.args[0], c.args[1] = "evalsha", by.hash
	err := c.process(ctx, s.pipe)
	if err != nil && !pipelining.Left(err) && redis.HasErrorPrefix(err, "NOSCRIPT") {
		c = &command{args: slices.Clone(c.args)}
		c.args[0], c.args[1] = "eval", by.source
		err = c.process(ctx, s.pipe)
	}
	if err != nil {
		return "", err
	}
	return c.cmd.Val(), nil
}

func (c *command) process(ctx context.Context, pipe *pipelining.Client) error {
	c.cmd = *redis.NewStringCmd(ctx, c.args...)
	c.cmd.SetFirstKeyPos(3)
	c.cmds[0] = &c.cmd
	return pipe.Process(ctx, c.cmds[:]...)
}

// head is what the first argument of both scripts begins with. It is appended to room.
func head(room []byte, d *session.Delta) []byte {
	first := append(room, d.Digest[:]...)
	return binary.LittleEndian.AppendUint32(first, maxBytes(d.MaxBytes))
}

// newWrite returns the command for a Delta that replaces one value of what was read, and nil
// for any other.
func newWrite(d *session.Delta) *command {
	was, ok := d.Basis.(*question)
	if !ok || was.id != d.ID || len(d.Set) != 1 || d.Create || len(d.If)+len(d.Delete) > 0 || d.Meta != nil || d.Authenticated || d.Rotate != nil ||
		d.IdleTimeout > 0 || d.AbsoluteTimeout > 0 || d.IfExpiresWithin > 0 {
		return nil
	}
	c := &command{}
	for name, value := range d.Set {
		first, ok := was.placeOf(head(c.room[:0], d), name, len(value))
		if !ok {
			return nil
		}
		c.first, c.value = append(first, name...), value
		c.args = append(c.few[:2], 1, &was.key, &c.first, &c.value)
	}
	return c
}

// placeOf adds to hint what write.lua has to know to replace the value called name by one of
// so many bytes. It reports false if there is none, or if the session is to be written
// anew because of what nobody reads any more.
func (q *question) placeOf(hint []byte, name string, length int) (_ []byte, ok bool) {
	raw := q.get.Val()
	head, _ := headOf(raw)
	d := decoder{rest: head}
	var s stored
	d.fixed(&s)
	begins := int(s.number[headAt])
	for range 6 {
		d.text()
	}
	count := d.length()
	names := len(d.rest)
	place, was, live := 0, 0, 0
	for range count {
		found := d.text() == name
		at := names - len(d.rest)
		d.length()
		n := d.length()
		live += n
		if found {
			place, was = at, n
		}
	}
	if d.bad || place == 0 || s.number[version] > math.MaxUint32 {
		return nil, false
	}
	if unread := begins - live + was; length != was && unread > 512+(live-was+length)/2 {
		return nil, false
	}
	for _, n := range [...]int{int(s.number[version]), begins, place} {
		hint = binary.LittleEndian.AppendUint32(hint, uint32(n)) //nolint:gosec // it is bounded
	}
	return binary.LittleEndian.AppendUint64(hint, math.Float64bits(float64(s.number[created]))), true
}

// newCommit spells d as commit.lua reads it.
func newCommit(key string, d *session.Delta) *command {
	c := &command{}
	args := append(c.few[:2], 1, key, head(make([]byte, 0, digestLen+4), d))
	if d.Create {
		args = append(args, "C")
		if d.Owner != "" {
			args = append(args, "O", d.Owner)
		}
		if d.Owner != "" && d.MaxOwned > 0 {
			args = append(args, "N", d.MaxOwned, d.EvictOldest)
		}
	}
	for name, value := range d.If {
		args = append(args, "F", name, value != nil, value)
	}
	// What is long comes first, and so lies in front, where Load leaves it out; what is as
	// long in the order in which it is read.
	for _, name := range slices.SortedFunc(maps.Keys(d.Set), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(d.Set[b]), len(d.Set[a])), cmp.Compare(a, b))
	}) {
		args = append(args, "S", name, d.Set[name])
	}
	for _, name := range d.Delete {
		args = append(args, "D", name)
	}
	if d.Meta != nil {
		args = append(args, "T", d.Meta)
	}
	if d.Authenticated {
		args = append(args, "X")
	}
	if r := d.Rotate; r != nil {
		args = append(args, "R", r.Digest[:], r.Grace.Milliseconds(), r.Handover, r.Once)
	}
	if d.IdleTimeout > 0 {
		args = append(args, "I", spell(d.IdleTimeout))
	}
	if d.AbsoluteTimeout > 0 {
		args = append(args, "A", spell(d.AbsoluteTimeout))
	}
	if d.IfExpiresWithin > 0 {
		args = append(args, "L", spell(d.IfExpiresWithin))
	}
	c.args = args
	return c
}

// maxBytes is a limit as commit.lua reads it, 0 if there is none.
func maxBytes(n int) uint32 { return uint32(max(0, min(int64(n), math.MaxUint32))) } //nolint:gosec // it is bounded

// The outcomes in the order in which commit.lua numbers them.
var outcomes = []session.Outcome{
	1: session.Committed, 2: session.Gone, 3: session.Exists, 4: session.TooLarge, 5: session.Conflict, 6: session.TooMany,
}

func parseResult(reply string) (res session.Result, ok bool) {
	d := decoder{rest: reply}
	n := d.byte()
	if d.bad || n == 0 || int(n) >= len(outcomes) {
		return res, false
	}
	res.Outcome = outcomes[n]
	switch res.Outcome {
	case session.Committed:
		res.Version = uint64(d.number()) //nolint:gosec // a count
		res.ExpiresIn, res.EndsIn = millis(d.number()), millis(d.number())
		res.At = time.UnixMilli(d.number())
		if before := d.byte(); before == 1 {
			res.Handover = []byte(d.text())
		} else {
			d.text()
		}
		for d.rest != "" {
			res.Evicted = append(res.Evicted, d.text())
		}
	case session.Conflict:
		res.Values = make(map[string][]byte)
		for d.rest != "" {
			name, there, value := d.text(), d.byte(), d.text()
			if there == 1 {
				res.Values[name] = []byte(value)
			}
		}
	}
	return res, !d.bad && d.rest == ""
}
