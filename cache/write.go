package cache

import (
	"context"
	"time"

	"github.com/herdless/herdless/internal/deadline"
)

// writeEndTimeout bounds what ends a write. It is more than the budget of a read:
// a read can do without the store, but what is cached must not outlive the write.
const writeEndTimeout = time.Second

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
