package redislimit

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/herdless/herdless/middleware/ratelimit"
)

//go:embed permit.lua
var permitSource string

var permitScript = redis.NewScript(permitSource)

// permit runs the script, whose result begins with want numbers.
func (s *Store) permit(ctx context.Context, p ratelimit.PermitRequest, want int, args ...any) ([]int64, error) {
	keys := []string{s.key(p.Key, p.Name) + permitSuffix}
	reply, err := s.run(ctx, permitScript, keys, args...)
	if err != nil {
		return nil, explain(err, keys)
	}
	if len(reply) < want {
		return nil, fmt.Errorf("redislimit: Redis answered with %d numbers, not with %d", len(reply), want)
	}
	return reply, nil
}

// Acquire implements ratelimit.PermitStore.
func (s *Store) Acquire(ctx context.Context, p ratelimit.PermitRequest) (ratelimit.PermitState, error) {
	if err := p.Validate(); err != nil {
		return ratelimit.PermitState{}, err
	}
	reply, err := s.permit(ctx, p, 2, "A", p.ID, p.TTL.Milliseconds(), p.Limit)
	if err != nil {
		return ratelimit.PermitState{}, err
	}
	return ratelimit.PermitState{Acquired: reply[0] == 1, Held: int(reply[1])}, nil
}

// Extend implements ratelimit.PermitStore.
func (s *Store) Extend(ctx context.Context, p ratelimit.PermitRequest) (bool, error) {
	reply, err := s.permit(ctx, p, 1, "E", p.ID, p.TTL.Milliseconds())
	if err != nil {
		return false, err
	}
	return reply[0] == 1, nil
}

// Release implements ratelimit.PermitStore.
func (s *Store) Release(ctx context.Context, p ratelimit.PermitRequest) error {
	_, err := s.permit(ctx, p, 1, "R", p.ID)
	return err
}
