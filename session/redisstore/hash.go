package redisstore

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/herdless/herdless/internal/pipelining"
	"github.com/redis/go-redis/v9"
)

// hash is what stands at the key of a session. There are few fields, so that looking
// through them costs less than a map.
type hash []field

// field is a field of a hash. The value's bytes belong to the hash alone.
type field struct {
	name  string
	value []byte
}

// get returns the value of a field, or nil.
func (h hash) get(name string) []byte {
	for i := range h {
		if h[i].name == name {
			return h[i].value
		}
	}
	return nil
}

// question asks for a hash and how long it has left, in one piece of memory with the
// commands.
type question struct {
	args [4]any
	all  *redis.RawCmd
	pttl *redis.DurationCmd
	cmds [2]redis.Cmder
}

// ask asks for the hash at key, and the time that it has left. It reports false if the
// answer is no hash: an error of the server, which go-redis has not seen in it.
//
// The answer is taken as it comes, in one piece, because a string of its own for each
// name and value makes up most of what a read costs this process.
func (s *Store) ask(ctx context.Context, key string) (hash, time.Duration, bool, error) {
	named := any(key)
	q := &question{args: [...]any{"hgetall", named, "pttl", named}}
	q.all, q.pttl = redis.NewRawCmd(ctx, q.args[:2]...), redis.NewDurationCmd(ctx, time.Millisecond, q.args[2:]...)
	q.cmds = [...]redis.Cmder{q.all, q.pttl}
	if err := s.pipe.Process(ctx, q.cmds[:]...); err != nil {
		var answer redis.Error
		if errors.As(err, &answer) { // to PTTL, and so to both
			err = nil
		}
		return nil, 0, false, err
	}
	h, ok := parseHash(q.all.Val())
	return h, q.pttl.Val(), ok, nil
}

// askPlainly is ask by commands whose errors go-redis sees, and acts on: it follows
// slots that have moved, and tries again while a server loads.
func (s *Store) askPlainly(ctx context.Context, key string) (hash, time.Duration, error) {
	var all *redis.MapStringStringCmd
	var left *redis.DurationCmd
	err := s.pipe.Pipelined(ctx, func(p redis.Pipeliner) error {
		all, left = p.HGetAll(ctx, key), p.PTTL(ctx, key)
		return nil
	})
	switch {
	case pipelining.Left(err):
		return nil, 0, err
	case redis.HasErrorPrefix(all.Err(), "WRONGTYPE"):
		return nil, 0, nil
	case err != nil:
		return nil, 0, err
	}
	var h hash
	for name, value := range all.Val() {
		h = append(h, field{name, []byte(value)})
	}
	return h, left.Val(), nil
}

// parseHash reads the answer to HGETALL: an array of names and values in turn, or
// with RESP3 a map. Of the bytes it copies the names.
func parseHash(raw []byte) (hash, bool) {
	d := decoder{rest: raw}
	n, ok := d.header('%')
	if !ok {
		if n, ok = d.header('*'); !ok || n%2 != 0 {
			return nil, false
		}
		n /= 2
	}
	if n > len(raw) {
		return nil, false // nobody gets memory for what is not there
	}
	h, size := make(hash, n), 0
	var few [32][]byte
	found := few[:0]
	for i := range h {
		name, ok := d.bulk()
		value, ok2 := d.bulk()
		if !ok || !ok2 {
			return nil, false
		}
		h[i].value = slices.Clip(value)
		found = append(found, name)
		size += len(name)
	}
	var names strings.Builder
	names.Grow(size) // so that all are parts of one string
	for i, name := range found {
		at := names.Len()
		names.Write(name)
		h[i].name = names.String()[at:]
	}
	return h, len(d.rest) == 0
}

// decoder reads RESP from the front of rest.
type decoder struct{ rest []byte }

// header reads a line of a kind and a number.
func (d *decoder) header(kind byte) (n int, ok bool) {
	const most = 11 // digits
	if len(d.rest) == 0 || d.rest[0] != kind {
		return 0, false
	}
	line := d.rest[1:]
	i := 0
	for i < len(line) && i < most && '0' <= line[i] && line[i] <= '9' {
		n = 10*n + int(line[i]-'0')
		i++
	}
	if i == 0 || line[0] == '0' && i > 1 || len(line) < i+2 || line[i] != '\r' || line[i+1] != '\n' {
		return 0, false
	}
	d.rest = line[i+2:]
	return n, true
}

// bulk reads a string.
func (d *decoder) bulk() ([]byte, bool) {
	n, ok := d.header('$')
	if !ok || n+2 > len(d.rest) || string(d.rest[n:n+2]) != "\r\n" {
		return nil, false
	}
	s := d.rest[:n]
	d.rest = d.rest[n+2:]
	return s, true
}
