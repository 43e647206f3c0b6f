package cache

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"
)

// memoryBodies are the bodies that belong to no entry: not yet, or not any more.
// They are few.
type memoryBodies struct{ waiting []*memoryBody }

type memoryBody struct {
	id   string
	data []byte
	ends time.Time
}

// memoryBodyTTL is how long a body without an entry can be opened by those who
// have waited for it.
const memoryBodyTTL = time.Minute

// wait keeps a body for a while, and gives up older ones for it if all together
// are more than maxBytes.
func (b *memoryBodies) wait(body *memoryBody, maxBytes int64) {
	body.ends = time.Now().Add(memoryBodyTTL)
	b.waiting = append(b.waiting, body)
	bytes := int64(0)
	for _, w := range b.waiting {
		bytes += int64(len(w.data))
	}
	for bytes > maxBytes || time.Now().After(b.waiting[0].ends) {
		bytes -= int64(len(b.waiting[0].data))
		b.waiting[0] = nil
		b.waiting = b.waiting[1:]
	}
}

func (b *memoryBodies) find(id string) (*memoryBody, int) {
	for i, w := range b.waiting {
		if w.id == id {
			return w, i
		}
	}
	return nil, 0
}

// take returns a body and keeps it no longer.
func (b *memoryBodies) take(id string) (*memoryBody, bool) {
	body, i := b.find(id)
	if body == nil {
		return nil, false
	}
	b.waiting = append(b.waiting[:i:i], b.waiting[i+1:]...)
	return body, true
}

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
		return 0, errBodyEnded
	case int64(len(w.data)+len(p)) > w.store.maxBytes:
		return 0, fmt.Errorf("cache: the body is longer than the %d bytes of its store", w.store.maxBytes)
	}
	w.data = append(w.data, p...)
	return len(p), nil
}

var errBodyEnded = errors.New("cache: the body has ended")

// Finish implements BodyWriter.
func (w *memoryBodyWriter) Finish() (Body, error) {
	if w.closed {
		return Body{}, errBodyEnded
	}
	if err := ended(w.ctx); err != nil {
		return Body{}, err
	}
	w.closed = true
	body := &memoryBody{id: rand.Text(), data: w.data}
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	w.store.bodies.wait(body, w.store.maxBytes)
	return Body{ID: body.id, Size: int64(len(w.data))}, nil
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
	body, _ := s.bodies.find(b.ID)
	if e, ok := s.entries.GetIfPresent(key); ok && e.body != nil && e.Body == b {
		body = e.body
	}
	if body == nil {
		return nil, fmt.Errorf("cache: open: %w", ErrNoBody)
	}
	return memoryBodyReader{bytes.NewReader(body.data)}, nil
}

// memoryBodyReader reads a body, whatever becomes of its entry meanwhile.
type memoryBodyReader struct{ *bytes.Reader }

// Close implements io.Closer. There is nothing to give back.
func (memoryBodyReader) Close() error { return nil }
