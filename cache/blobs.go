package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Blobs is a Namespace for values that are too big to be held in memory, such as
// files: they are streamed from the source into the store, and from there to each
// caller. It is safe for concurrent use.
type Blobs struct {
	values *Namespace[[]byte] // for all but the bytes
	store  BodyStore
}

// A BlobLoader writes the bytes under key to w, as they come. It may fail half way.
// Else it is like a Loader.
type BlobLoader func(ctx context.Context, key string, w io.Writer) error

// Blob is an open value. Whoever gets one closes it.
type Blob struct {
	io.ReadCloser
	// Size is its length in bytes, or -1 if it comes straight from the source.
	Size int64
}

// NewBlobs returns the blobs called name on engine, whose store must be a
// BodyStore. The name is one among those of all namespaces. LoadTimeout bounds the
// time that a whole value takes.
func NewBlobs(engine *Engine, name string, p Policy) (*Blobs, error) {
	values, err := For[[]byte](engine, name, p)
	if err != nil {
		return nil, err
	}
	store, ok := engine.store.(BodyStore)
	if !ok {
		return nil, fmt.Errorf("cache: a %T is not a BodyStore, and cannot hold blobs", engine.store)
	}
	return &Blobs{values: values, store: store}, nil
}

// errDirect says that the store cannot take the bytes.
var errDirect = errors.New("cache: the store is away, the value comes straight from the source")

// Get returns the value under key, from the cache or by load, as Namespace.Get
// does. Reading it is bounded by ctx, and fails if bytes turn out to be missing:
// what was read up to io.EOF is whole. While the store is away each caller reads
// from a load of its own.
func (b *Blobs) Get(ctx context.Context, key string, load BlobLoader) (*Blob, error) {
	j := b.values.job(key, contained(b.values.policy.LoadTimeout, func(ctx context.Context, l *Loading) (Entry, error) {
		return b.loaded(ctx, key, load, l)
	}))
	j.judge = b.judge
	for range 2 {
		result, err := b.values.engine.do(ctx, j)
		switch {
		case errors.Is(err, errDirect):
			return b.direct(ctx, key, load), nil
		case err != nil:
			return nil, err
		case result.Entry.Kind == Negative:
			return nil, ErrNotFound
		}
		r, err := b.store.OpenBody(ctx, j.key, result.Entry.Body)
		if err == nil {
			if result.Source == Hit {
				b.values.engine.hit(ctx, j.key, result.Entry)
			}
			return &Blob{ReadCloser: r, Size: result.Entry.Body.Size}, nil
		}
		if ctx.Err() != nil {
			return nil, ended(ctx)
		}
		// Some of it is missing: as good as not there.
		_ = b.values.engine.Purge(ctx, j.key)
	}
	return b.direct(ctx, key, load), nil
}

// Delete is Namespace.Delete.
func (b *Blobs) Delete(ctx context.Context, keys ...string) error {
	return b.values.Delete(ctx, keys...)
}

// DeletePrefix is Namespace.DeletePrefix.
func (b *Blobs) DeletePrefix(ctx context.Context, prefix string) error {
	return b.values.DeletePrefix(ctx, prefix)
}

func (b *Blobs) judge(e Entry) verdict {
	if e.Kind == Uncacheable || e.Schema != b.values.policy.Schema || e.Kind == Value && e.Body.ID == "" {
		return reject
	}
	return b.values.policy.judge(e)
}

// loaded runs a BlobLoader into the store.
func (b *Blobs) loaded(ctx context.Context, key string, load BlobLoader, l *Loading) (Entry, error) {
	if !l.Kept() {
		return Entry{}, errDirect
	}
	p := &b.values.policy
	ctx, added := withAdditions(ctx)
	w, err := b.store.CreateBody(ctx, b.values.prefix+key, p.TTL+max(p.StaleWhileRevalidate, p.StaleIfError)+p.LoadTimeout)
	if err != nil {
		return Entry{}, errDirect
	}
	defer w.Abort() // unless it is finished
	tee := &blobWriter{w: w}
	err = load(ctx, key, tee)
	switch {
	case tee.err != nil && ctx.Err() == nil:
		return Entry{}, errDirect
	case errors.Is(err, ErrNotFound) && p.NegativeTTL > 0:
		return b.values.entry(Negative, nil, added), nil
	case err != nil:
		return Entry{}, err
	}
	body, err := w.Finish()
	if err != nil {
		return Entry{}, errDirect
	}
	e := b.values.entry(Value, nil, added)
	e.Body = body
	return e, nil
}

// blobWriter remembers whose fault a failed write was.
type blobWriter struct {
	w   io.Writer
	err error
}

func (w *blobWriter) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	if err != nil {
		w.err = err
	}
	return n, err
}

// direct lets a caller read from a load of its own.
func (b *Blobs) direct(ctx context.Context, key string, load BlobLoader) *Blob {
	ctx, cancel := context.WithTimeoutCause(ctx, b.values.policy.LoadTimeout, ErrLoadTimeout)
	r, w := io.Pipe()
	go func() {
		defer cancel()
		_, err := contained(b.values.policy.LoadTimeout, func(ctx context.Context, _ *Loading) (Entry, error) {
			return Entry{}, load(ctx, key, w)
		})(ctx, nil)
		w.CloseWithError(err) // nil is io.EOF
	}()
	return &Blob{ReadCloser: r, Size: -1}
}
