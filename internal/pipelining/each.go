package pipelining

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// maxJoined is how many keys a script gets at most. What it costs to begin one is a small
// part of the rest by then, and Redis does nothing else while one runs.
const maxJoined = 16

// RunEach is Run of a script that can do for several keys, each with an argument of its own,
// what it does for one. Those that go together become one script: to begin one takes Redis as
// long as two or three commands in it.
//
// With one key the script answers as any does. With several it answers with a list of such
// answers, but for an error, in whose place is a list of its text: go-redis loses its place in
// a list with one of the errors that it has a type for, and takes what is left for the next
// command's answer. If the script ends with an error that is everybody's.
func (c *Client) RunEach(ctx context.Context, script *redis.Script, key string, arg any) (any, error) {
	if c.pipeline == nil {
		return c.Run(ctx, script, []string{key}, arg)
	}
	// In one piece of memory.
	call := &struct {
		each each
		cmd  redis.Cmd
		args [5]any
		cmds [1]redis.Cmder
	}{args: [5]any{"evalsha", script.Hash(), 1, key, arg}}
	call.cmd = *redis.NewCmd(ctx, call.args[:]...)
	call.cmd.SetFirstKeyPos(keyAt)
	call.each.Cmd, call.cmds[0] = &call.cmd, &call.each
	cmd, err := &call.cmd, c.Process(ctx, call.cmds[:]...)
	if err != nil && !Left(err) && redis.HasErrorPrefix(err, "NOSCRIPT") {
		cmd = script.Eval(ctx, c.pipeline(), []string{key}, arg) // the pipeline goes nowhere
		err = c.Process(ctx, cmd)
	}
	if err != nil {
		return nil, err
	}
	return cmd.Val(), nil
}

// each is such a command, for one key.
type each struct{ *redis.Cmd }

// keyAt is where its key is; the argument follows.
const keyAt = 3

// itself is the command that cmd stands for.
func itself(cmd redis.Cmder) redis.Cmder {
	if one, ok := cmd.(*each); ok {
		return one.Cmd
	}
	return cmd
}

// joint is what becomes one command.
type joint struct {
	cmd *redis.Cmd // nil if it is of one
	of  []*each
}

// join adds e to what it goes with, and reports false if it goes by itself.
func (b *batch) join(c *Client, e *errand) bool {
	if len(e.cmds) != 1 {
		return false
	}
	one, ok := e.cmds[0].(*each)
	if !ok || !c.joins(b.ctx) {
		return false
	}
	for i := range b.joints {
		if j := &b.joints[i]; len(j.of) < maxJoined && j.of[0].Args()[1] == one.Args()[1] {
			j.of = append(j.of, one)
			return true
		}
	}
	b.joints = append(b.joints, joint{of: append(make([]*each, 0, maxJoined), one)})
	return true
}

// command returns the command.
func (j *joint) command(ctx context.Context) redis.Cmder {
	if len(j.of) == 1 {
		return j.of[0].Cmd
	}
	args := make([]any, keyAt+2*len(j.of))
	args[0], args[1], args[2] = "evalsha", j.of[0].Args()[1], len(j.of)
	for i, one := range j.of {
		args[keyAt+i], args[keyAt+len(j.of)+i] = one.Args()[keyAt], one.Args()[keyAt+1]
	}
	j.cmd = redis.NewCmd(ctx, args...)
	j.cmd.SetFirstKeyPos(keyAt)
	return j.cmd
}

// distribute gives each its own of the answer.
func (j *joint) distribute() {
	if j.cmd == nil {
		return
	}
	answers, _ := j.cmd.Val().([]any)
	err := j.cmd.Err()
	if err == nil && len(answers) != len(j.of) {
		err = fmt.Errorf("pipelining: a script has %d answers for %d keys", len(answers), len(j.of))
	}
	for i, one := range j.of {
		if err != nil {
			one.SetErr(err)
			continue
		}
		one.set(answers[i])
	}
}

// set sets the answer, as go-redis would have.
func (e *each) set(answer any) {
	if answer == nil {
		e.SetErr(redis.Nil)
		return
	}
	if list, ok := answer.([]any); ok && len(list) == 1 {
		if text, ok := list[0].(string); ok {
			e.SetErr(failed(strings.TrimPrefix(text, "-"))) // which Redis 6.2 puts before some
			return
		}
	}
	e.SetVal(answer)
}

// failed is what Redis says, as go-redis tells it.
type failed string

var _ redis.Error = failed("")

func (f failed) Error() string { return string(f) }

// RedisError implements redis.Error.
func (failed) RedisError() {}

// What is known of the server: see joins.
const (
	notAsked int32 = iota
	asked
	byItself
	notByItself
)

// asksWithin is how long the server has to say what it is, which nobody waits for.
const asksWithin = time.Second

// joins reports whether commands become one. They do if the server says that it is one by
// itself: a Cluster wants the keys of one slot, and a proxy may look at the first key only,
// and send the command to a server that has not got the others. The first time it has the
// server asked.
func (c *Client) joins(ctx context.Context) bool {
	if c.cluster != nil {
		return false
	}
	if c.server.CompareAndSwap(notAsked, asked) {
		go c.ask(context.WithoutCancel(ctx))
	}
	return c.server.Load() == byItself
}

// ask asks the server what it is. If there is no answer it is asked again next time.
func (c *Client) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, asksWithin)
	defer cancel()
	info := redis.NewStringCmd(ctx, "info", "server")
	panicked := caught(func() { _ = c.do(ctx, info) })
	found := notByItself
	switch err := info.Err(); {
	case panicked != nil:
	case err != nil && (!redis.HasErrorPrefix(err, "") || passes(err)): // or it would say the same again
		found = notAsked
	case strings.Contains(info.Val(), "redis_mode:standalone"), strings.Contains(info.Val(), "server_mode:standalone"): // the latter of Valkey
		found = byItself
	}
	c.server.CompareAndSwap(asked, found)
}

// splits reports whether the server has refused what went together for its keys: they are
// on several servers, or there is one that the user may not touch. Nothing was done then,
// and each is to be sent by itself, as from then on all are.
func (c *Client) splits(err error, cmds []redis.Cmder) bool {
	if err == nil || len(cmds) != 1 {
		return false
	}
	one, ok := cmds[0].(*each)
	if !ok || !redis.HasErrorPrefix(err, "") {
		return false
	}
	// Proxies have other words for CROSSSLOT, with that one in it.
	if !redis.HasErrorPrefix(err, "NOPERM") && !strings.Contains(strings.ToLower(err.Error()), "slot") {
		return false
	}
	c.server.Store(notByItself)
	one.SetErr(nil)
	return true
}
