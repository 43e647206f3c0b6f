package pipelining

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"slices"

	"github.com/redis/go-redis/v9"
)

// EvalSHA returns the command that runs a script that the server knows.
func EvalSHA(ctx context.Context, script *redis.Script, keys []string, args []any) *redis.Cmd {
	all := make([]any, 0, 3+len(keys)+len(args))
	all = append(all, "evalsha", script.Hash(), len(keys))
	for _, key := range keys {
		all = append(all, key)
	}
	cmd := redis.NewCmd(ctx, append(all, args...)...)
	cmd.SetFirstKeyPos(3)
	return cmd
}

// keysOf appends the first key of each command, and returns none if one has no such.
func keysOf(cmds []redis.Cmder, keys []string) []string {
	for _, cmd := range cmds {
		at := 1
		switch cmd.Name() {
		case "eval", "evalsha", "eval_ro", "evalsha_ro":
			at = 3
		}
		args := cmd.Args()
		if at >= len(args) {
			return nil
		}
		switch key := args[at].(type) {
		case string:
			keys = append(keys, key)
		case *Key:
			keys = append(keys, key.String())
		default:
			return nil
		}
	}
	return keys
}

func bytesOf(args []any) (n int) {
	for _, arg := range args {
		switch a := arg.(type) {
		case string:
			n += len(a)
		case []byte:
			n += len(a)
		case *Blob:
			n += len(*a)
		case *Key:
			n += len(*a)
		}
	}
	return n
}

// A Blob is an argument of a command, by its address: that needs no memory of its own, as a
// []byte in an any does.
type Blob []byte

// MarshalBinary implements encoding.BinaryMarshaler, for go-redis.
func (b *Blob) MarshalBinary() ([]byte, error) { return *b, nil }

// String is for traces, which are text.
func (b *Blob) String() string {
	if bytes.ContainsFunc(*b, func(r rune) bool { return r < ' ' || r > '~' }) {
		return hex.EncodeToString(*b)
	}
	return string(*b)
}

// A Key is a key of a command, by its address.
type Key []byte

// MarshalBinary implements encoding.BinaryMarshaler, for go-redis.
func (k *Key) MarshalBinary() ([]byte, error) { return *k, nil }

// String is the key: by that go-redis finds the server in a Cluster.
func (k *Key) String() string { return string(*k) }

func repliesOf(cmds []redis.Cmder) (n int) {
	for _, cmd := range cmds {
		switch c := itself(cmd).(type) {
		case *redis.StringCmd:
			n += len(c.Val())
		case *redis.RawCmd:
			n += len(c.Val())
		case *redis.MapStringStringCmd:
			for field, value := range c.Val() {
				n += len(field) + len(value)
			}
		case *redis.Cmd:
			n += bytesIn(c.Val())
		}
	}
	return n
}

// bytesIn returns the size of a script's answer.
func bytesIn(answer any) (n int) {
	switch a := answer.(type) {
	case string:
		return len(a)
	case []any:
		for _, part := range a {
			n += bytesIn(part)
		}
	}
	return n
}

func isOfTheNetwork(err error) bool {
	var e net.Error
	return errors.As(err, &e) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, redis.ErrPoolTimeout)
}

// passes reports whether err is what a server says that will soon do, or that
// another one would do.
func passes(err error) bool {
	return redis.IsLoadingError(err) || redis.IsReadOnlyError(err) || redis.IsMasterDownError(err) || redis.IsClusterDownError(err) ||
		redis.IsTryAgainError(err) || redis.IsNoReplicasError(err) || redis.IsMaxClientsError(err)
}

// once is a command that go-redis does not try again, and neither the pipeline that
// it is in. A Cluster's redirections it follows.
type once struct {
	redis.Cmder
	answered bool
}

// NoRetry implements redis.Cmder.
func (*once) NoRetry() bool { return true }

// SetErr implements redis.Cmder. If a connection breaks, go-redis gives its error
// to all commands of a pipeline. Those before have their answers.
func (o *once) SetErr(err error) {
	if err != nil && o.answered && isOfTheNetwork(err) {
		return
	}
	o.answered = err == nil
	o.Cmder.SetErr(err)
}

// told returns err, which a pipeline of cmds ended with. A hook of go-redis may keep
// commands from Redis and tell only the pipeline. Then each of them is told.
func told(cmds []redis.Cmder, err error) error {
	if !slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool { return cmd.Err() != nil }) {
		for _, cmd := range cmds {
			cmd.SetErr(err)
		}
	}
	return err
}
