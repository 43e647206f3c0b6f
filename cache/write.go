package cache

import (
	"context"
	"fmt"
	"time"

	"github.com/herdless/herdless/internal/deadline"
)

// writeEndTimeout bounds what ends a write. It is more than the budget of a read:
// a read can do without the store, but what is cached must not outlive the write.
const writeEndTimeout = time.Second

// BeginWrite announces that the entry under key is to be replaced by something that has
// been computed already, but is not complete. end must be called, and does it: with an
// entry without a TTL there is none afterwards. Nor is there if a hard purge has
// reached the entry meanwhile, or another write of the key, which is no error.
//
// What others compute meanwhile they store for a second at most, and end removes it. After
// a minute the announcement is forgotten: then what end brings is not stored. The error is
// the store's.
func (e *Engine) BeginWrite(ctx context.Context, key string) (end func(ctx context.Context, entry Entry) error, err error) {
	ticket, err := e.beginWrite(ctx, key, defaultWriteTimeout)
	if err != nil {
		return nil, fmt.Errorf("cache: begin a write: %w", err)
	}
	return func(ctx context.Context, entry Entry) error {
		if err := e.endWrite(ctx, key, ticket, true, entry); err != nil {
			return fmt.Errorf("%w: %w", ErrNotPurged, err)
		}
		return nil
	}, nil
}

func (e *Engine) beginWrite(ctx context.Context, key string, ttl time.Duration) (t Ticket, err error) {
	ctx, cancel := deadline.After(ctx, e.storeTimeout, errBudget)
	defer cancel()
	err = e.step(ctx, "begin a write", key, func() (err error) {
		t, err = e.store.BeginWrite(ctx, key, ttl)
		return err
	})
	return t, err
}

// endWrite replaces what is cached under key by entry, or removes it if entry has
// no TTL, or if the write could not be announced.
func (e *Engine) endWrite(ctx context.Context, key string, t Ticket, begun bool, entry Entry) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(writeEndTimeout, e.storeTimeout))
	defer cancel()
	defer e.changes.Add(1) // before anybody can ask who knows of it
	if !begun {
		return e.store.Purge(ctx, Purge{Keys: []string{key}})
	}
	stored, err := e.store.Write(ctx, key, t, entry)
	if err == nil && !stored && entry.TTL > 0 {
		e.happened(ctx, Event{Kind: FillRefused, Key: key})
	}
	return err
}
