package cache

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/herdless/herdless/internal/ttlmap"
)

// memoryBodies are the bodies that belong to no entry yet.
type memoryBodies struct {
	waiting *ttlmap.Map[string, *memoryBody]
}

type memoryBody struct{ data []byte }

func (b *memoryBodies) take(id string) (*memoryBody, bool) {
	body, _, ok := b.waiting.Get(id)
	b.waiting.Delete(id)
	return body, ok
}

// memoryBodyTTL is how long a body whose entry was refused can still be opened by
// those who waited for it.
const memoryBodyTTL = time.Minute

type memoryBodyWriter struct {
	ctx    context.Context //nolint:containedctx // it bounds the writing, as BodyStore says
	store  *MemoryStore
	data   []byte
	closed bool
}

// CreateBody implements BodyStore. A body is bounded by the store's MaxBytes.
func (s *MemoryStore) CreateBody(ctx context.Context, _ string, _ time.Duration) (BodyWriter, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	return &memoryBodyWriter{ctx: ctx, store: s}, nil
}

// Write implements io.Writer.
func (w *memoryBodyWriter) Write(p []byte) (int, error) {
	switch err := ended(w.ctx); {
	case err != nil:
		return 0, err
	case w.closed:
		return 0, errors.New("cache: write to a body that has ended")
	case int64(len(w.data)+len(p)) > w.store.maxBytes:
		return 0, fmt.Errorf("cache: the body is longer than the %d bytes of its store", w.store.maxBytes)
	}
	w.data = append(w.data, p...)
	return len(p), nil
}

// Finish implements BodyWriter.
func (w *memoryBodyWriter) Finish() (Body, error) {
	if w.closed {
		return Body{}, errors.New("cache: the body has ended")
	}
	w.closed = true
	id := rand.Text()
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	w.store.bodies.waiting.Set(id, &memoryBody{data: w.data}, memoryBodyTTL)
	return Body{ID: id, Size: int64(len(w.data))}, nil
}

// Abort implements BodyWriter.
func (w *memoryBodyWriter) Abort() { w.closed, w.data = true, nil }

// OpenBody implements BodyStore.
func (s *MemoryStore) OpenBody(ctx context.Context, key string, b Body) (io.ReadCloser, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if body, _, ok := s.bodies.waiting.Get(b.ID); ok {
		return io.NopCloser(bytes.NewReader(body.data)), nil
	}
	if e, ok := s.entries.GetIfPresent(key); ok && e.body != nil && e.Body == b {
		return io.NopCloser(bytes.NewReader(e.body.data)), nil
	}
	return nil, errors.New("cache: the body is gone")
}
