package session

import "context"

// A Key names a value of type T in every session. Make one with NewKey, once,
// as a package variable. Its methods use the session of the context and return
// ErrNoSession if there is none.
type Key[T any] struct{ name string }

// NewKey returns the Key for the values called name.
func NewKey[T any](name string) Key[T] { return Key[T]{name} }

// Get returns the value, or the zero T if the session has none.
func (k Key[T]) Get(ctx context.Context) (T, error) {
	var v, zero T
	if _, err := FromContext(ctx).Get(ctx, k.name, &v); err != nil {
		return zero, err
	}
	return v, nil
}

// Set stores the value; see Session.Set.
func (k Key[T]) Set(ctx context.Context, v T) error { return FromContext(ctx).Set(ctx, k.name, v) }

// Delete removes the value, if there is one.
func (k Key[T]) Delete(ctx context.Context) error { return FromContext(ctx).Delete(ctx, k.name) }

type contextKey struct{}

// FromContext returns the session of the context, or nil if no Manager's
// Handler is around.
func FromContext(ctx context.Context) *Session {
	s, _ := ctx.Value(contextKey{}).(*Session)
	return s
}

// NewContext returns a context that holds s, for adapters and tests.
func NewContext(ctx context.Context, s *Session) context.Context {
	return context.WithValue(ctx, contextKey{}, s)
}
