package rediscache

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"

	"github.com/herdless/herdless/internal/pipelining"
	"github.com/redis/go-redis/v9"
)

var (
	//go:embed chunks.lua
	chunksSource string
	//go:embed writes.lua
	writesSource string
	//go:embed begin.lua
	beginSource string
	//go:embed fill.lua
	fillSource string
	//go:embed beginwrite.lua
	beginWriteSource string
	//go:embed write.lua
	writeSource string
	//go:embed purge.lua
	purgeSource string
	//go:embed head.lua
	headSource string
	//go:embed sync.lua
	syncSource string
	//go:embed log.lua
	logSource string

	beginScript      = redis.NewScript(beginSource)
	fillScript       = redis.NewScript(chunksSource + writesSource + fillSource)
	beginWriteScript = redis.NewScript(writesSource + beginWriteSource)
	writeScript      = redis.NewScript(chunksSource + writesSource + writeSource)
	purgeScript      = redis.NewScript(chunksSource + purgeSource)
	syncScript       = redis.NewScript(headSource + syncSource)
	logScript        = redis.NewScript(headSource + logSource)
)

// step is a script that is to be run.
type step struct {
	script *redis.Script
	keys   []string
	args   []any
}

// together runs steps in one pipeline and returns their answers. On a Cluster
// they run in any order, elsewhere in theirs.
func (s *Store) together(ctx context.Context, steps ...step) ([]any, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	cmds, all := make([]*redis.Cmd, len(steps)), make([]redis.Cmder, len(steps))
	for i, st := range steps {
		cmds[i] = pipelining.EvalSHA(ctx, st.script, st.keys, st.args)
		all[i] = cmds[i]
	}
	if err := s.pipe.Process(ctx, all...); pipelining.Left(err) {
		return nil, err
	}
	return s.answers(ctx, steps, cmds)
}

// answers returns those of cmds, which ran the steps. A server that did not know
// a script is asked again, for what follows it as well: order may matter, and no
// script does harm when it runs twice.
func (s *Store) answers(ctx context.Context, steps []step, cmds []*redis.Cmd) ([]any, error) {
	values := make([]any, len(steps))
	unknown := false
	for i, st := range steps {
		if unknown = unknown || redis.HasErrorPrefix(cmds[i].Err(), "NOSCRIPT"); unknown {
			cmds[i] = st.script.Run(ctx, s.client, st.keys, st.args...)
		}
		value, err := cmds[i].Result()
		if err != nil {
			return nil, err
		}
		values[i] = value
	}
	return values, nil
}

// inOrder runs first and then last, and returns the answers to all. It takes one
// round trip where a pipeline keeps the order.
func (s *Store) inOrder(ctx context.Context, first []step, last step) ([]any, error) {
	if s.ordered {
		return s.together(ctx, append(slices.Clip(first), last)...)
	}
	var values []any
	if len(first) > 0 {
		var err error
		if values, err = s.together(ctx, first...); err != nil {
			return nil, err
		}
	}
	more, err := s.together(ctx, last)
	return append(values, more...), err
}

// fault wraps an error of the client, and adds the end of the context where the
// client has hidden it behind a network error.
func fault(ctx context.Context, doing string, err error) error {
	if ended := ctx.Err(); ended != nil && !errors.Is(err, ended) {
		err = errors.Join(err, ended)
	}
	return fmt.Errorf("rediscache: %s: %w", doing, err)
}
