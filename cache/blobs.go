package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Blobs is a Namespace for values that are too big to be held in memory, such as
// files: they are streamed from the source into the store, and from there to each
// caller. When the source has changed, Delete them. It is safe for concurrent use.
type Blobs struct {
	values *Namespace[[]byte] // for all but the bytes
}

// A BlobLoader writes the bytes under key to w, as they come. It may fail half way.
// Else it is like a Loader.
type BlobLoader func(ctx context.Context, key string, w io.Writer) error

// Blob is an open value. Whoever gets one closes it.
type Blob struct {
	// ReadCloser is an io.Seeker if the value comes from a store whose bodies
	// are, as those of MemoryStore and rediscache are: for http.ServeContent.
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
	if _, ok := engine.store.(BodyStore); !ok {
		return nil, fmt.Errorf("cache: a %T is not a BodyStore, and cannot hold blobs", engine.store)
	}
	return &Blobs{values: values}, nil
}

// errDirect says that the store cannot take the bytes.
var errDirect = errors.New("cache: the store is away, the value comes straight from the source")

// Get returns the value under key, from the cache or by load, as Namespace.Get
// does. Reading it is bounded by ctx, and fails if bytes turn out to be missing:
// what was read up to io.EOF is whole.
//
// While the store is away each caller reads from a load of its own; Get returns
// then when that has written its first bytes.
func (b *Blobs) Get(ctx context.Context, key string, load BlobLoader) (*Blob, error) {
	j := b.values.job(key, contained(b.values.policy.LoadTimeout, func(ctx context.Context, l *Loading) (Entry, error) {
		return b.loaded(ctx, key, load, l)
	}))
	j.judge = b.judge
	for range 2 {
		result, err := b.values.engine.do(ctx, j, nil)
		switch {
		case errors.Is(err, errDirect):
			return b.direct(ctx, key, load)
		case err != nil:
			return nil, err
		case result.Entry.Kind == Negative:
			return nil, ErrNotFound
		}
		r, err := b.values.engine.OpenBody(ctx, j.key, result.Entry.Body)
		switch {
		case err == nil:
			if result.Source == Hit {
				b.values.engine.CountHit(ctx, j.key, &result.Entry)
			}
			return &Blob{ReadCloser: r, Size: result.Entry.Body.Size}, nil
		case ctx.Err() != nil:
			return nil, ended(ctx)
		case !errors.Is(err, ErrNoBody):
			return b.direct(ctx, key, load)
		}
		// It is as good as not there, and to be replaced.
		torn := result.Entry.Body
		j.judge = func(e Entry) Verdict {
			if e.Body == torn {
				return Reject
			}
			return b.judge(e)
		}
	}
	return b.direct(ctx, key, load)
}

// Delete is Namespace.Delete.
func (b *Blobs) Delete(ctx context.Context, keys ...string) error {
	return b.values.Delete(ctx, keys...)
}

// DeletePrefix is Namespace.DeletePrefix.
func (b *Blobs) DeletePrefix(ctx context.Context, prefix string) error {
	return b.values.DeletePrefix(ctx, prefix)
}

func (b *Blobs) judge(e Entry) Verdict {
	if e.Kind == Uncacheable || e.Schema != b.values.policy.Schema || e.Kind == Value && e.Body.ID == "" {
		return Reject
	}
	return b.values.policy.judge(e)
}

// loaded runs a BlobLoader into the store.
func (b *Blobs) loaded(ctx context.Context, key string, load BlobLoader, l *Loading) (Entry, error) {
	if !l.Kept() {
		return Entry{}, errDirect
	}
	ctx, added := withAdditions(ctx)
	p := &b.values.policy
	w, err := b.values.engine.CreateBody(ctx, b.values.prefix+key, p.TTL+max(p.StaleWhileRevalidate, p.StaleIfError)+p.LoadTimeout)
	if err != nil {
		return Entry{}, errDirect
	}
	defer w.Abort() // unless it is finished
	bytes := &remembering{w: w}
	err = load(ctx, key, bytes)
	switch {
	case bytes.err != nil && ctx.Err() == nil:
		return Entry{}, errDirect
	case errors.Is(err, ErrNotFound):
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

// remembering is a writer that remembers whether it has failed.
type remembering struct {
	w   io.Writer
	err error
}

func (r *remembering) Write(p []byte) (int, error) {
	n, err := r.w.Write(p)
	if err != nil {
		r.err = err
	}
	return n, err
}

// direct lets a caller read from a load of its own, once that has begun to write.
func (b *Blobs) direct(ctx context.Context, key string, load BlobLoader) (*Blob, error) {
	r, w := io.Pipe()
	begun := make(chan error, 1)
	go func() {
		_, err := contained(b.values.policy.LoadTimeout, func(ctx context.Context, _ *Loading) (Entry, error) {
			return Entry{}, load(ctx, key, beginning{w, begun})
		})(ctx, nil)
		select {
		case begun <- err: // it has written nothing
		default:
		}
		w.CloseWithError(err) // nil is io.EOF
	}()
	if err := <-begun; err != nil {
		return nil, err
	}
	return &Blob{ReadCloser: r, Size: -1}, nil
}

// beginning says when the first bytes come.
type beginning struct {
	w     io.Writer
	begun chan<- error
}

func (b beginning) Write(p []byte) (int, error) {
	select {
	case b.begun <- nil:
	default:
	}
	return b.w.Write(p)
}
