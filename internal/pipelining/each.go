package pipelining

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// maxJoined is how many keys a script gets at most. What it costs to begin one is a small
// part of the rest by then, and Redis does nothing else while one runs.
const maxJoined = 16

// Each is a command that runs, for one key, a script that can do the same for several: it is
// EVALSHA with one key and some arguments. Those that go together become one with all the
// keys, and all the arguments in the same order, which answers with a list. To begin a script
// takes Redis as long as two or three commands in it.
//
// A script that can, says of each key that it has failed, by an error in the list. The error
// of a script that ends with one is that of all.
//
// The command is a *redis.Cmd or a *redis.StringCmd.
type Each struct{ redis.Cmder }

// RunEach is Run of a script that can answer for several keys, see Each.
func (c *Client) RunEach(ctx context.Context, script *redis.Script, key string, arg any) (any, error) {
	if c.pipeline == nil {
		return c.Run(ctx, script, []string{key}, arg)
	}
	// In one piece of memory.
	call := &struct {
		each Each
		cmd  redis.Cmd
		args [5]any
		cmds [1]redis.Cmder
	}{args: [5]any{"evalsha", script.Hash(), 1, key, arg}}
	call.cmd = *redis.NewCmd(ctx, call.args[:]...)
	call.cmd.SetFirstKeyPos(3)
	call.each.Cmder, call.cmds[0] = &call.cmd, &call.each
	err := c.Process(ctx, call.cmds[:]...)
	switch {
	case err == nil:
		return call.cmd.Val(), nil
	case !Left(err) && redis.HasErrorPrefix(err, "NOSCRIPT"):
		return c.Run(ctx, script, []string{key}, arg)
	}
	return nil, err
}

// itself is the command that cmd stands for.
func itself(cmd redis.Cmder) redis.Cmder {
	if each, ok := cmd.(*Each); ok {
		return each.Cmder
	}
	return cmd
}

// joint is what became one command.
type joint struct {
	cmd *redis.Cmd
	of  []*Each
}

// joins adds e to what it goes with, and reports false if it goes by itself.
func (b *batch) joins(e *errand) bool {
	if len(e.cmds) != 1 {
		return false
	}
	each, ok := e.cmds[0].(*Each)
	if !ok {
		return false
	}
	script, args := each.Args()[1], len(each.Args())
	for i := range b.joints {
		j := &b.joints[i]
		if first := j.of[0].Args(); len(j.of) < maxJoined && first[1] == script && len(first) == args {
			j.of = append(j.of, each)
			return true
		}
	}
	b.joints = append(b.joints, joint{of: append(make([]*Each, 0, maxJoined), each)})
	return true
}

// join returns the command.
func (j *joint) join(ctx context.Context) redis.Cmder {
	if len(j.of) == 1 {
		return j.of[0].Cmder
	}
	first := j.of[0].Args()
	args := make([]any, 0, 3+len(j.of)*(len(first)-3))
	args = append(args, first[0], first[1], len(j.of))
	for _, each := range j.of {
		args = append(args, each.Args()[3])
	}
	for _, each := range j.of {
		args = append(args, each.Args()[4:]...)
	}
	j.cmd = redis.NewCmd(ctx, args...)
	j.cmd.SetFirstKeyPos(3)
	return j.cmd
}

// tell gives each command its own of the answer.
func (j *joint) tell() {
	if j.cmd == nil {
		return
	}
	answers, _ := j.cmd.Val().([]any)
	err := j.cmd.Err()
	if err == nil && len(answers) != len(j.of) {
		err = fmt.Errorf("pipelining: a script has %d answers for %d keys", len(answers), len(j.of))
	}
	for i, each := range j.of {
		if err != nil {
			each.SetErr(err)
			continue
		}
		each.tell(answers[i])
	}
}

// tell sets the answer, as go-redis would have.
func (e *Each) tell(answer any) {
	text, isText := answer.(string)
	err, failed := answer.(error)
	cmd, isAny := e.Cmder.(*redis.Cmd)
	switch {
	case failed:
		e.SetErr(err)
	case answer == nil:
		e.SetErr(redis.Nil)
	case isAny:
		cmd.SetVal(answer)
	case isText:
		e.Cmder.(*redis.StringCmd).SetVal(text)
	default:
		e.SetErr(fmt.Errorf("pipelining: a script has answered with a %T", answer))
	}
}

// apart reports whether commands that went together failed because of it: there is a
// cluster behind what seems to be a server. From then on nothing is joined.
func (c *Client) apart(err error, cmds []redis.Cmder) bool {
	if len(cmds) != 1 || err == nil || !redis.HasErrorPrefix(err, "CROSSSLOT") {
		return false
	}
	_, each := cmds[0].(*Each)
	if each {
		c.split.Store(true)
		cmds[0].SetErr(nil)
	}
	return each
}
