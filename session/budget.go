package session

import (
	"context"
	"time"
)

// budgeted is a Store each step of which ends after a while, because the context
// of a request has no deadline of its own.
type budgeted struct {
	store   Store
	timeout time.Duration
}

func (b budgeted) Load(ctx context.Context, id string, digest Digest) (Record, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	return b.store.Load(ctx, id, digest)
}

func (b budgeted) Commit(ctx context.Context, delta Delta) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	return b.store.Commit(ctx, delta)
}

func (b budgeted) Delete(ctx context.Context, id string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	return b.store.Delete(ctx, id)
}
